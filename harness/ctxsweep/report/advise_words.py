"""The words of a decision, the same in the terminal and in the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ctxsweep.planning.advice.decision import (
    Basis,
    Decision,
    Evidence,
    Excluded,
    Figure,
    Ranked,
    RuleFinding,
)
from ctxsweep.planning.advice.needs import CRITERIA, Criterion
from ctxsweep.report.units import BYTES, SECONDS, TOKENS

MARKS: dict[Basis, str] = {
    "measured": "",
    "between": "≈",
    "calibrated": "~",
    "bound": "≥",
    "formula": "",
}
BASES: dict[Basis, str] = {
    "measured": "without a mark: measured",
    "between": "≈ between two measured contexts",
    "calibrated": "~ predicted by a model fitted to runs of this machine",
    "bound": "≥ a bound: no engine is faster, real ones are slower",
}
SHORT: dict[Criterion, str] = {
    "quality": "qua",
    "speed": "spd",
    "memory": "mem",
    "ecosystem": "eco",
    "training": "trn",
}
BITS = {
    "float32": "32",
    "bfloat16": "16",
    "float16": "16",
    "fp8": "8",
    "int8": "8",
    "int4": "4",
    "fp8_e4m3": "8",
    "fp8_e5m2": "8",
}


def time_text(figure: Figure) -> str:
    """``≥9.9 ms``, ``~12 ms``, ``11 ms``."""
    return f"{MARKS[figure.basis]}{SECONDS.text(figure.value)}"


def bytes_text(value: float) -> str:
    """``14.2 GiB``."""
    return BYTES.text(value)


def bits(row: Ranked) -> str:
    """Bits of weights, and of the cache where it is narrower: ``16``, ``4/8``."""
    weights, _, cache = row.precision.partition(" + ")
    held = BITS.get(cache.partition(" ")[0], "")
    return BITS[weights] + (f"/{held}" if held else "")


def score_text(score: float) -> str:
    """``.62``, ``1.0``: three characters."""
    return "1.0" if score >= 0.995 else f"{score:.2f}"[1:]


def total_text(row: Ranked) -> str:
    """``0.62 ±0.04``: half of its 95% interval."""
    assert row.total.low is not None and row.total.high is not None
    return f"{row.total.value:.2f} ±{(row.total.high - row.total.low) / 2:.2f}"


def needs_line(decision: Decision) -> str:
    """The needs in one sentence."""
    needs = decision.needs
    parts = [f"{needs.task} at {TOKENS.text(needs.context)}, batch {needs.batch}"]
    count = f"{decision.device.count} × " if decision.device.count > 1 else ""
    memory = BYTES.text(decision.device.memory_bytes)
    parts.append(f"on {count}{decision.device.name} ({memory})")
    parts += [f"prefill within {SECONDS.text(needs.prefill)}"] if needs.prefill else []
    parts += [f"decode within {SECONDS.text(needs.decode)}"] if needs.decode else []
    parts.append(f"quality {needs.quality}")
    parts += ["retrieval"] if needs.needs_retrieval else []
    parts += [f"training {needs.training}"] if needs.training != "none" else []
    return ", ".join(parts)


def weights_line(decision: Decision) -> str:
    """The weights with their sum."""
    weights = decision.weights
    parts = [f"{name} {weights[name]:.2f}" for name in CRITERIA]
    return f"{', '.join(parts)} (sum {sum(weights.values()):.2f})"


def basis_lines(decision: Decision) -> list[str]:
    """What the marks before times mean, of those that stand there."""
    figures = [f for r in decision.ranking for f in (r.figures.prefill_s, r.figures.decode_s)]
    there = {figure.basis for figure in figures}
    return [text for basis, text in BASES.items() if basis in there]


def excluded_counts(decision: Decision) -> str:
    """``12 memory, 5 quality``."""
    counts = Counter(one.need for one in decision.excluded)
    return ", ".join(f"{count} {need}" for need, count in counts.most_common())


def size_lines(decision: Decision) -> list[str]:
    """Who leads in each class of sizes."""
    if not decision.best_of_sizes:
        return []
    each = ", ".join(f"{one.size} {one.name} ({one.total:.2f})" for one in decision.best_of_sizes)
    return [f"Best of each size: {each}."]


def rests_words(excluded: Excluded) -> str:
    """``bound: certain``, ``convention``: what an exclusion rests on."""
    return f"{excluded.rests_on}: certain" if excluded.proof else excluded.rests_on


def rule_line(rule: RuleFinding) -> str:
    """Whether a rule applies, what it says, and whether the matrix agrees."""
    if not rule.applies:
        return f"{rule.name}: does not apply: {rule.condition}"
    agrees = {True: "the matrix agrees", False: "the matrix does not", None: "none was weighed"}
    return f"{rule.name}: applies, take {rule.recommends}; {agrees[rule.matrix_agrees]}"


def evidence_line(evidence: Evidence) -> str:
    """``for: ... (run ...)``."""
    says = {"for": "for", "against": "against", "neither": "open"}[evidence.says]
    return f"{says}: {evidence.text} ({evidence.source})"


def sensitivity_lines(decision: Decision) -> Iterator[str]:
    """How firmly the one that is taken stands, and what weight takes another."""
    found = decision.sensitivity
    if found is None or not decision.ranking:
        return
    rest = ", ".join(f"{name} {share:.0%}" for name, share in list(found.others.items())[:3])
    rest = f"; else {rest}" if rest else ""
    yield f"{found.take} is taken in {found.kept:.0%} of weightings around these{rest}"
    for name in CRITERIA:
        moves = [flip for flip in found.flips if flip.criterion == name]
        weight = f"{name} {decision.weights[name]:.2f}"
        if not moves:
            yield f"{weight}: no weight of it changes the answer"
            continue
        ends = [
            f"{'below' if flip.at < flip.weight else 'above'} {flip.at:.2f} take {flip.leader}"
            for flip in moves
        ]
        yield f"{weight}: {', '.join(ends)}"


def parts_lines(row: Ranked) -> Iterator[str]:
    """The quality proxy of a candidate by its parts."""
    for part in row.quality:
        yield f"{part.name} {part.score:.2f} × {part.share:.2f}: {part.reason}"


def tie_line(decision: Decision) -> str:
    """Who cannot be told apart, and what decided."""
    if not decision.tie:
        return ""
    return f"A tie within noise: {', '.join(decision.tie)}. Decided by {decision.tie_breaker}."
