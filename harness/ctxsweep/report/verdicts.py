"""The verdict table as text, for the page and the terminal alike, and the answer in a sentence."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from ctxsweep.analysis.summary import (
    CacheCheck,
    CellSummary,
    Estimate,
    NumericsCheck,
    ScalingClass,
    Summary,
    Verdict,
)
from ctxsweep.report.rows import failed_cells, series_names
from ctxsweep.report.units import BYTES, PLAIN, TOKENS, Unit, unit_of


@dataclass(frozen=True)
class Column:
    """A metric that is judged: the column's head, and its subject in the answer."""

    metric: str
    title: str
    subject: str


COLUMNS: tuple[Column, ...] = (
    Column("cache_used_bytes", "Cache or state", "the memory that the context takes"),
    Column("itl_s", "Time per generated token", "the time per generated token"),
    Column("prefill_s", "Time to read the context (prefill)", "prefill time"),
)
UNSTEADY = 0.15
"""Relative spread of the sentinel from which on the answer speaks of it."""
WORDS: dict[ScalingClass, str] = {
    "O(1)": "constant",
    "O(n)": "linear",
    "O(n²)": "quadratic",
    "undecided": "undecided",
}


@dataclass(frozen=True)
class VerdictCell:
    """What one metric of one series does, in text. ``span`` is from the first to the last point."""

    scaling: ScalingClass
    word: str
    span: str
    short: str
    fit: str
    slope: str
    evidence: str


@dataclass(frozen=True)
class NumericsCell:
    """Whether the series computes what its reference does: in a few words, and in figures."""

    short: str
    figures: str
    agrees: bool


@dataclass(frozen=True)
class VerdictRow:
    """A row of the table; ``cells`` by metric, None where an engine does not tell it.

    ``place`` is the place of the series in the scenario: it decides the colour.
    """

    label: str
    series: str
    place: int
    cells: dict[str, VerdictCell | None]
    measured: str
    formula: str
    difference: str
    agrees: bool | None
    numerics: NumericsCell | None


def verdict_rows(summary: Summary) -> list[VerdictRow]:
    """One row per series and batch size, in the order of the scenario."""
    batches = sorted({cell.batch_size for cell in summary.cells})
    found = {(v.series, v.batch_size, v.metric): v for v in summary.verdicts}
    checks = {(c.series, c.batch_size): c for c in summary.cache}
    numerics = {check.series: numerics_cell(check) for check in summary.numerics}
    lines: dict[tuple[str, int], list[CellSummary]] = defaultdict(list)
    for cell in summary.cells:
        lines[cell.series, cell.batch_size].append(cell)
    rows = []
    for place, name in enumerate(series_names(summary)):
        for batch in (b for b in batches if (name, b) in lines):
            cells = {
                column.metric: _cell(found.get((name, batch, column.metric)), lines[name, batch])
                for column in COLUMNS
            }
            label = name if len(batches) == 1 else f"{name} ×{batch}"
            check = _check_texts(checks.get((name, batch)))
            rows.append(VerdictRow(label, name, place, cells, *check, numerics.get(name)))
    return rows


def _cell(verdict: Verdict | None, cells: list[CellSummary]) -> VerdictCell | None:
    if verdict is None:
        return None
    unit = unit_of(verdict.metric)
    span, short = _span(verdict.metric, cells, unit)
    return VerdictCell(
        scaling=verdict.scaling,
        word=WORDS[verdict.scaling],
        span=span + _flat_text(verdict),
        short=short + _flat_text(verdict),
        fit=fit_text(verdict, unit),
        slope=slope_text(verdict.slope),
        evidence=verdict.evidence,
    )


def _check_texts(check: CacheCheck | None) -> tuple[str, str, str, bool | None]:
    if check is None:
        return "–", "–", "–", None
    return (
        BYTES.text(check.measured_bytes_per_token),
        BYTES.text(check.formula_bytes_per_token),
        BYTES.text(check.difference_bytes),
        check.difference_bytes == 0,
    )


def numerics_cell(check: NumericsCheck) -> NumericsCell:
    """``same as native: logits differ by at most 1.2e-06`` in two parts."""
    if check.series == check.reference and check.agrees:
        return NumericsCell("reference", "the others are compared with it", True)
    word = "as" if check.agrees else "not as"
    if check.relative_difference is None or check.largest_difference is None:
        return NumericsCell(f"{word} {check.reference}", "logits are not finite", False)
    figures = (
        f"logits differ by up to {check.largest_difference:.1e}; "
        f"rms {check.relative_difference:.1e} of their spread, {check.allowed:.1e} allowed"
    )
    return NumericsCell(f"{word} {check.reference}", figures, check.agrees)


def _span(metric: str, cells: list[CellSummary], unit: Unit) -> tuple[str, str]:
    """``8 MiB at 1K → 1 GiB at 128K (×128)``, and shorter."""
    held = sorted((c.context_tokens, c.metrics[metric].value) for c in cells if metric in c.metrics)
    if not held:
        return "no points", ""
    (first, low), (last, high) = held[0], held[-1]
    start = f"{unit.text(low)} at {TOKENS.text(first)}"
    if first == last:
        return start, unit.text(low)
    ratio = f" (×{PLAIN.text(float(f'{high / low:.3g}'))})" if low else ""
    long = f"{start} → {unit.text(high)} at {TOKENS.text(last)}{ratio}"
    return long, f"{unit.text(low)} → {unit.text(high)}"


def fit_text(verdict: Verdict, unit: Unit) -> str:
    """The chosen a + b·n + c·n² in units that can be read: per token for bytes, else per 1K."""
    per = 1.0 if unit is BYTES else 1024.0
    name = "token" if unit is BYTES else "1K tokens"
    ends = {"a": "", "b": f" per {name}", "c": f" per ({name})²"}
    terms: list[str] = []
    for power, (key, end) in enumerate(ends.items()):
        if key in verdict.coefficients and (value := verdict.coefficients[key].value) != 0:
            sign = ("− " if value < 0 else "+ ") if terms else ("−" if value < 0 else "")
            terms.append(f"{sign}{unit.text(abs(value) * per**power)}{end}")
    return " ".join(terms) or "–"


def _flat_text(verdict: Verdict) -> str:
    if verdict.flat_beyond_tokens is None:
        return ""
    return f", flat beyond {TOKENS.text(verdict.flat_beyond_tokens)}"


def slope_text(slope: Estimate | None) -> str:
    """The log-log slope with its interval."""
    if slope is None:
        return "no slope"
    if slope.low is None or slope.high is None:
        return f"slope {_two(slope.value)}"
    return f"slope {_two(slope.value)} ({_two(slope.low)} to {_two(slope.high)})"


def _two(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text.replace("-", "−")


def answer(summary: Summary) -> str:
    """The question's answer, made from the verdicts, and what kept them open."""
    rows = verdict_rows(summary)
    parts = [part for column in COLUMNS if (part := _grouped(column, rows))]
    if summary.cells and not any(cell.metrics for cell in summary.cells):
        return f"Nothing was measured: {len(failed_cells(summary))} cells have no figures."
    if not parts:
        return f"Nothing could be judged: {len(failed_cells(summary))} cells have no figures."
    contexts = sorted(cell.context_tokens for cell in summary.cells)
    reach = f"From {TOKENS.text(contexts[0])} to {TOKENS.text(contexts[-1])} tokens of context"
    return f"{reach}, {'; '.join(parts)}.{_disagreeing(summary)}{_unsteady(summary)}"


def _disagreeing(summary: Summary) -> str:
    """A sentence more for every reference that engines do not agree with: the figures of the two
    are not of one model."""
    others: dict[str, list[str]] = defaultdict(list)
    for check in summary.numerics:
        if not check.agrees and check.series != check.reference:
            others[check.reference].append(check.series)
    return "".join(
        f" {_joined(names)} {'does' if len(names) == 1 else 'do'} not compute what {reference} "
        "does, although model and weights are the same."
        for reference, names in others.items()
    )


def _unsteady(summary: Summary) -> str:
    """A sentence more where the sentinel saw the machine change, for that keeps verdicts open."""
    open_ = {v.metric for v in summary.verdicts if v.scaling == "undecided" and v.bic}
    drifts = [drift for drift in summary.drift if drift.metric in open_]
    worst = max(drifts, key=lambda drift: drift.relative_spread, default=None)
    if worst is None or worst.relative_spread < UNSTEADY:
        return ""
    unit = unit_of(worst.metric)
    return (
        f" The machine was not steady: one and the same cell took {unit.text(min(worst.values))} "
        f"to {unit.text(max(worst.values))} in the course of the run, and what does not stand out "
        "from that is undecided."
    )


def _grouped(column: Column, rows: list[VerdictRow]) -> str:
    """``prefill time is O(n) for a and b, O(n²) for the other 7``."""
    groups: dict[ScalingClass, list[str]] = {name: [] for name in WORDS}
    for row in rows:
        cell = row.cells[column.metric]
        if cell is not None:
            groups[cell.scaling].append(row.label)
    held = {scaling: names for scaling, names in groups.items() if names}
    if not held:
        return ""
    largest = max(held, key=lambda scaling: len(held[scaling]))
    texts = []
    for scaling, names in held.items():
        who = _joined(names)
        if scaling == largest and len(names) > 3:
            who = f"the other {len(names)}" if len(held) > 1 else _all(len(names), len(rows))
        # The group that is "the other" comes last: others than those just named.
        texts.append((scaling == largest, f"{scaling} for {who}"))
    return f"{column.subject} is {', '.join(text for _, text in sorted(texts, key=lambda t: t[0]))}"


def _all(known: int, rows: int) -> str:
    return f"all {known}" if known == rows else f"all {known} that tell it"


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
