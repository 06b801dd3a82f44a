"""The sentences of a decision: what to take, why, on what evidence, and what would change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.assess import Assessment
from ctxsweep.planning.advice.candidates import size_words
from ctxsweep.planning.advice.decision import (
    Basis,
    BestOfSize,
    EncoderAnswer,
    Excluded,
    Figure,
    Figures,
    Sensitivity,
    Suggestion,
)
from ctxsweep.planning.advice.limits import figure_words
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.precision import PLAIN, precision_words
from ctxsweep.planning.advice.tasks import TASKS
from ctxsweep.planning.advice.weighing import Matrix, Scored

FAR = 0.5  # a weight moved by more is another question
SLOW_S = 60.0
"""Seconds of an answer from which on a missing limit is worth a remark."""
RESTS: dict[Basis, str] = {
    "measured": "measured",
    "between": "between two measured contexts",
    "calibrated": "predicted by a model fitted to runs of this machine",
    "bound": "bounds, the least that the device allows; real engines take longer",
    "formula": "arithmetic",
}


@dataclass(frozen=True)
class Outcome:
    """What was found out, before it is put into words."""

    assessed: tuple[Assessment, ...] = ()
    matrix: Matrix | None = None
    compared: str = "no decoder was compared"
    suggestions: tuple[Suggestion, ...] = ()
    encoder: EncoderAnswer | None = None

    @property
    def rows(self) -> tuple[Scored, ...]:
        """Those that were weighed, best total first."""
        return self.matrix.rows if self.matrix else ()

    @property
    def taken(self) -> Scored | None:
        """The row of the one that is taken."""
        return next((r for r in self.rows if self.matrix and r.name == self.matrix.take), None)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """The first need that each of the others fails."""
        return tuple(a.failures[0] for a in self.assessed if not a.passes)


def sentence(found: Outcome) -> str:
    """The answer."""
    taken, encoder = found.taken, found.encoder
    if encoder is not None and taken is None:
        end = "" if not found.assessed else "; but no model of the catalogue meets the needs"
        return f"Take {encoder.approach}{end}"
    if taken is None:
        text = "Nothing meets these needs"
        return f"{text}; nearest: {found.suggestions[0].text}" if found.suggestions else text
    one = taken.assessment
    start = f"{taken.name} ({one.candidate.label}, {precision_words(one.deployment)})"
    start = f"Take {encoder.approach}: {start}" if encoder is not None else f"Take {start}"
    matrix = found.matrix
    if matrix is not None and matrix.tie:
        others = [name for name in matrix.tie if name != taken.name]
        named = others[0] if len(others) == 1 else f"{others[0]} and {len(others) - 1} more"
        return f"{start}: a tie with {named}, decided by {matrix.tie_breaker}"
    return start


def because(needs: Needs, found: Outcome) -> str:
    """What the one that is taken costs, and in what it is best."""
    taken = found.taken
    if taken is None:
        reason = found.encoder.reason if found.encoder else _main_obstacle(found)
        return f"{reason[0].upper()}{reason[1:]}"
    figures = _figures(taken)
    cost = (
        f"{quantity(figures.memory_bytes.value, 'bytes')} a device at "
        f"{context_label(needs.context)}, decode {figure_words(figures.decode_s)}, "
        f"prefill {figure_words(figures.prefill_s)}"
    )
    if len(found.rows) == 1:
        return f"It is the only one that meets the needs: {cost}"
    columns = {name: [row.scores[name] for row in found.rows] for name in taken.scores}
    best = [
        name
        for name, column in columns.items()
        if taken.scores[name] == max(column) and min(column) < max(column)
    ]
    lead = "The highest total" if taken is found.rows[0] else "One of the highest totals"
    also = f", best in {', '.join(best)}" if best else ""
    return f"{lead} of {len(found.rows)}{also}: {cost}"


def _main_obstacle(found: Outcome) -> str:
    counts = Counter(excluded.need for excluded in found.excluded)
    parts = [f"{count} fail {need}" for need, count in counts.most_common()]
    return f"Of {len(found.assessed)} candidates {', '.join(parts)}"


def basis(found: Outcome) -> str:
    """On what the times of the answer rest, each of them, in a sentence."""
    taken = found.taken
    if taken is None:
        return "figures and papers beside each line below; nothing was weighed"
    prefill, decode = _figures(taken).prefill_s, _figures(taken).decode_s
    if prefill.basis == decode.basis:
        was = "were" if prefill.basis == "measured" else "are"
        sources = dict.fromkeys((decode.source, prefill.source))
        text = f"times {was} {RESTS[prefill.basis]} ({'; '.join(sources)})"
    else:
        text = f"prefill: {_rests(prefill)}; a token: {_rests(decode)}"
    kinds = {(_figures(r).prefill_s.basis, _figures(r).decode_s.basis) for r in found.rows}
    mixed = "; not all candidates' times rest on the same" if len(kinds) > 1 else ""
    known = any(part.reason.startswith("measured") for part in taken.quality)
    quality = "quality is a proxy, in part measured" if known else "quality is a proxy"
    return f"{text}{mixed}; {quality}"


def _rests(figure: Figure) -> str:
    return f"{RESTS[figure.basis]} ({figure.source})"


def best_of_sizes(rows: Sequence[Scored]) -> tuple[BestOfSize, ...]:
    """Who leads in each class of sizes, the largest first; empty where all are of one."""
    by_size: dict[int, list[Scored]] = {}
    for row in rows:
        by_size.setdefault(row.assessment.candidate.size_class, []).append(row)
    if len(by_size) < 2:
        return ()
    return tuple(
        BestOfSize(
            size=size_words(size),
            name=found[0].name,
            total=found[0].total.value,
            count=len(found),
        )
        for size, found in sorted(by_size.items(), reverse=True)
    )


def would_change(needs: Needs, found: Outcome, sensitive: Sensitivity | None) -> tuple[str, ...]:
    """Weights, measurements and limits with which something else would be taken."""
    lines = []
    if sensitive is not None:
        flips = sorted(sensitive.flips, key=lambda flip: abs(flip.at - flip.weight))
        lines += [
            f"{flip.criterion} weighted {flip.at:.2f} instead of {flip.weight:.2f}: "
            f"take {flip.leader}"
            for flip in flips[:3]
            if abs(flip.at - flip.weight) <= FAR
        ]
    if found.matrix is not None and found.matrix.tie:
        lines.append("a measurement that tells the tie apart: ctxsweep run, then advise --run")
    taken = found.taken
    if taken is not None:
        lines += [f"{taken.name}: {hope}" for hope in taken.assessment.hopes]
        if any(not part.reason.startswith("measured") for part in taken.quality):
            lines.append("a measured quality of the candidates on your own task: the proxy is none")
        request = _figures(taken).request_s.value
        if needs.prefill is None and request > SLOW_S:
            took = quantity(request, "s")
            lines.append(f"a limit on time: none was given, and an answer takes {took} or more")
    close = [e for e in found.excluded if e.need in ("prefill", "decode") and not e.proof]
    lines += [f"{e.name}: {e.reason}" for e in close[:2]]
    return tuple(lines)


def assumptions(needs: Needs, found: Outcome) -> tuple[str, ...]:
    """What was taken for granted, with the option that says otherwise."""
    lines = []
    if TASKS[needs.task].encoder:
        lines.append(f"texts of {needs.context} tokens (--context)")
    else:
        retrieval = "matter" if needs.needs_retrieval else "do not matter"
        lines.append(
            f"{needs.task}: {needs.answer_tokens} tokens of answer to a prompt read once; exact "
            f"words of the context {retrieval} (--generate, --retrieval)"
        )
        lines.append(f"{context_label(needs.context)} is the whole context, prompt and answer")
    if found.rows:
        lines += _reference(needs)
        lines += _about_engines(needs, found)
    if needs.training == "scratch" and needs.training_tokens is None:
        lines.append("20 tokens a parameter to train on (Chinchilla, arXiv 2203.15556)")
    if needs.training != "none":
        lines.append(
            "a full training in 16 bits with Adam, shared out over the devices: 16 bytes a "
            "parameter (ZeRO, arXiv 1910.02054), one sequence at a time; LoRA is not planned for"
        )
    return tuple(lines)


def _reference(needs: Needs) -> list[str]:
    """The times that score 0.5 in speed, where no limits say so."""
    prefill, token = needs.reference_s
    said = [
        f"a prefill of {quantity(prefill, 's')}" if needs.prefill is None else "",
        f"{quantity(token, 's')} a token" if needs.decode is None else "",
    ]
    given = " and ".join(part for part in said if part)
    options = " and ".join(
        f"--{key}" for key in ("prefill", "decode") if getattr(needs, key) is None
    )
    return [f"{given} score half in speed ({options})"] if given else []


def _about_engines(needs: Needs, found: Outcome) -> list[str]:
    narrow = any(row.assessment.deployment.weight_dtype not in PLAIN for row in found.rows)
    if not narrow and needs.tp == 1:
        return []
    text = "engines are counted for the model in 16 bits on one device"
    return [text + ("; ctxsweep sweeps no int8 or int4 weights" if narrow else "")]


def _figures(row: Scored) -> Figures:
    assert row.assessment.figures is not None
    return row.assessment.figures
