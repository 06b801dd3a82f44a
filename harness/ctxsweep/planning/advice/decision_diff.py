"""What changed between two decisions: needs, weights, figures, ranking, and so the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ctxsweep.analysis.wording import quantity
from ctxsweep.frozen import Frozen
from ctxsweep.planning.advice.decision import Decision, Figure, Ranked

Kind = Literal["answer", "needs", "weights", "device", "figures", "ranking", "rules", "evidence"]
ENOUGH = 0.02
"""A relative change of a figure without an interval that is worth a line."""


class DecisionChange(Frozen):
    """One thing that is not as it was."""

    kind: Kind
    text: str


def differences(old: Decision, new: Decision) -> tuple[DecisionChange, ...]:
    """All changes, the answer's first; empty if nothing did."""
    found = [
        *_answer(old, new),
        *_needs(old, new),
        *_weights(old, new),
        *_device(old, new),
        *_ranking(old, new),
        *_figures(old, new),
        *_rules(old, new),
    ]
    return tuple(DecisionChange(kind=kind, text=text) for kind, text in found)


Line = tuple[Kind, str]


def _answer(old: Decision, new: Decision) -> Iterator[Line]:
    if answer(old) != answer(new):
        yield "answer", f"{answer(old)} → {answer(new)}"
    if set(old.tie) != set(new.tie):
        yield "answer", f"tie: {', '.join(old.tie) or 'none'} → {', '.join(new.tie) or 'none'}"


def answer(decision: Decision) -> str:
    """What is taken, in a word."""
    if decision.take is not None:
        return decision.take
    return decision.encoder.approach if decision.encoder else "nothing"


def _needs(old: Decision, new: Decision) -> Iterator[Line]:
    before, after = old.needs.model_dump(mode="json"), new.needs.model_dump(mode="json")
    for key in before:
        if key != "weights" and before[key] != after[key]:
            yield "needs", f"{key.replace('_', '-')}: {_plain(before[key])} → {_plain(after[key])}"


def _plain(value: object) -> str:
    return "not given" if value is None else str(value)


def _weights(old: Decision, new: Decision) -> Iterator[Line]:
    for name, weight in old.weights.items():
        if abs(weight - new.weights[name]) > 1e-9:
            yield "weights", f"{name}: {weight:.2f} → {new.weights[name]:.2f}"


def _device(old: Decision, new: Decision) -> Iterator[Line]:
    if old.device.name != new.device.name:
        yield "device", f"{old.device.name} → {new.device.name}"
    elif old.device.source != new.device.source:
        yield "device", f"{new.device.name} is another: {old.device.source} → {new.device.source}"
    if old.device.count != new.device.count:
        yield "device", f"number of devices: {old.device.count} → {new.device.count}"
    if old.device.name == new.device.name and old.device.memory_bytes != new.device.memory_bytes:
        held = (quantity(d.device.memory_bytes, "bytes") for d in (old, new))
        yield "device", f"memory of {new.device.name}: {' → '.join(held)}"


def _ranking(old: Decision, new: Decision) -> Iterator[Line]:
    before, after = _places(old), _places(new)
    for name in [*before, *(n for n in after if n not in before)]:
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        if now is None:
            yield "ranking", f"{name}: place {was} → not ranked ({_why_not(new, name)})"
        elif was is None:
            yield "ranking", f"{name}: not ranked ({_why_not(old, name)}) → place {now}"
        else:
            yield "ranking", f"{name}: place {was} → {now}"


def _places(decision: Decision) -> dict[str, int]:
    return {row.name: place for place, row in enumerate(decision.ranking, start=1)}


def _why_not(decision: Decision, name: str) -> str:
    for one in decision.excluded:
        if one.name == name:
            return one.need
    return "not a candidate"


def _figures(old: Decision, new: Decision) -> Iterator[Line]:
    before = {row.name: row for row in old.ranking}
    for row in new.ranking:
        if row.name in before:
            yield from _of_row(before[row.name], row)


def _of_row(was: Ranked, now: Ranked) -> Iterator[Line]:
    if was.precision != now.precision:
        yield "figures", f"{now.name}: {was.precision} → {now.precision}"
    for key, unit in (("prefill_s", "s"), ("decode_s", "s"), ("memory_bytes", "bytes")):
        a: Figure = getattr(was.figures, key)
        b: Figure = getattr(now.figures, key)
        what = key.rpartition("_")[0]
        if a.basis != b.basis:
            yield "evidence", f"{now.name}, {what}: {a.basis} → {b.basis}"
        if _moved(a, b):
            values = f"{quantity(a.value, unit)} → {quantity(b.value, unit)}"
            yield "figures", f"{now.name}, {what}: {values}"
    if was.engines != now.engines:
        yield "figures", f"{now.name}, engines: {len(was.engines)} → {len(now.engines)}"


def _moved(a: Figure, b: Figure) -> bool:
    """Beyond both intervals where there are any, else by more than ``ENOUGH``."""
    if "measured" in (a.basis, b.basis) and None not in (a.low, a.high, b.low, b.high):
        assert a.low is not None and a.high is not None
        assert b.low is not None and b.high is not None
        return a.high < b.low or b.high < a.low
    return abs(b.value - a.value) > ENOUGH * a.value


def _rules(old: Decision, new: Decision) -> Iterator[Line]:
    before = {rule.name: rule for rule in old.rules}
    for rule in new.rules:
        was = before.get(rule.name)
        if was is not None and was.applies != rule.applies:
            words = ("does not apply", "applies")
            yield "rules", f"{rule.name}: {words[was.applies]} → {words[rule.applies]}"
