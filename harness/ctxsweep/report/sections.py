"""What stands below the charts: tables of text, each with a heading and a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial

from ctxsweep.analysis.predicted import Predictions
from ctxsweep.analysis.summary import CellSummary, Summary
from ctxsweep.records import Environment
from ctxsweep.report.crossings import crossing_tables
from ctxsweep.report.frontier import frontier_tables
from ctxsweep.report.predicted import predicted_table
from ctxsweep.report.quality_tables import quality_tables
from ctxsweep.report.rows import STATUS_TEXT, failed_cells, interval_text, series_names
from ctxsweep.report.side_by_side import HEADS, same_model_rows
from ctxsweep.report.table import Table
from ctxsweep.report.units import (
    BYTES,
    BYTES_PER_S,
    FLOPS,
    PLAIN,
    SECONDS,
    SHARE,
    TOKENS,
    unit_of,
)
from ctxsweep.report.verdicts import COLUMNS, fit_text, slope_text

PROCEDURES = {
    "ladder": (
        "one chunked prefill climbs to the longest context; at every rung the state is marked, "
        "decode is timed there, and the climb goes on from the mark. The prefill time of a rung "
        "is the sum of its chunks."
    ),
    "independent": "every cell prefills its whole context afresh, and decode is timed after it.",
    "scored": (
        "every cell prefills real text afresh, and every token of it is scored on the way. Prefill "
        "is timed without the scoring, decode after it."
    ),
}
STOPS = {
    "noise": "because the interval of the median was narrow enough",
    "time": "because the cell's time was spent",
    "count": "after the number of repetitions that the scenario fixes",
}


def tables(summary: Summary, predictions: Predictions | None = None) -> list[Table]:
    """All tables that have something to say, in the order of the page."""
    found = (
        *quality_tables(summary),
        *frontier_tables(summary),
        _same_model(summary),
        *crossing_tables(summary, partial(metric_title, summary)),
        predicted_table(summary, predictions),
        _failures(summary),
        _drift(summary),
        _ladder(summary),
        _environment(summary.environment),
        _ceilings(summary),
        _method(summary),
        _evidence(summary),
        _figures(summary),
    )
    return [table for table in found if table.rows or table.notes]


def metric_title(summary: Summary, metric: str) -> str:
    """What people call a metric: the verdict table's word, else its description."""
    titles = {info.name: info.description for info in summary.metrics}
    titles |= {column.metric: column.title for column in COLUMNS}
    return titles.get(metric, metric)


def _same_model(summary: Summary) -> Table:
    rows = same_model_rows(summary)
    note = (
        "Series that run one model with one set of weights, at the longest context that two or "
        "more of them reached; fastest prefill first, with 95% intervals. They were measured one "
        "after the other: what the machine itself changed meanwhile stands under 'Drift'."
    )
    title = "The same model, side by side"
    return Table("same-model", title, HEADS, rows, (note,) if rows else (), first=True)


def _failures(summary: Summary) -> Table:
    rows = [
        (
            cell.series,
            TOKENS.text(cell.context_tokens),
            str(cell.batch_size),
            f"✕ {STATUS_TEXT[cell.status]}",
            cell.detail or "no reason was stored",
        )
        for cell in failed_cells(summary)
    ]
    heads = ("Series", "Context", "Batch", "What happened", "Why, and what would help")
    note = f"{len(rows)} of {len(summary.cells)} cells have no figures; a failure is a result too."
    if not rows:
        note = f"None: all {len(summary.cells)} cells have figures."
    return Table("failures", "What did not finish", heads, rows, (note,))


def _drift(summary: Summary) -> Table:
    rows = []
    for drift in summary.drift:
        unit = unit_of(drift.metric)
        rows.append(
            (
                drift.series,
                TOKENS.text(drift.context_tokens),
                metric_title(summary, drift.metric),
                " · ".join(unit.text(value) for value in drift.values),
                SHARE.text(drift.relative_spread),
            )
        )
    heads = ("Series", "Context", "What", "Medians in the order of time", "Spread")
    note = "The same cell, measured again through the run: what the machine itself changed."
    return Table("drift", "Drift of the machine", heads, rows, (note,) if rows else ())


def _ladder(summary: Summary) -> Table:
    rows = [
        (
            cost.series,
            str(cost.batch_size),
            SECONDS.text(cost.longest_prefill_s),
            SECONDS.text(cost.climb_s),
            f"{cost.ratio:.2f}×",
        )
        for cost in summary.ladder
    ]
    heads = ("Series", "Batch", "Longest prefill alone", "Whole climb", "Ratio")
    note = "What measuring every context cost over the longest prefill alone."
    return Table("ladder", "Cost of the climb", heads, rows, (note,) if rows else ())


def _environment(environment: Environment | None) -> Table:
    if environment is None:
        return Table("environment", "Environment", notes=("The run stored no environment.",))
    e = environment
    commit = f"{(e.commit or 'not known')[:12]}{', with uncommitted changes' if e.dirty else ''}"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(e.versions.items()))
    rows = [
        ("Machine", e.machine),
        ("Processor", f"{e.cpu_model}, {e.physical_cores} cores, {e.logical_cores} logical"),
        ("Instruction sets", ", ".join(e.cpu_flags) or "–"),
        ("Memory", BYTES.text(e.memory_bytes)),
        ("Device, threads", f"{e.device}, {e.threads}"),
        ("GPU, driver", f"{e.gpu}, {e.gpu_driver}" if e.gpu else "none"),
        ("Load before the run", PLAIN.text(e.load_average)),
        ("Clock governor", e.cpu_governor or "not readable"),
        ("System", f"{e.os}, Python {e.python}"),
        ("Versions", versions or "–"),
        ("Commit", commit),
    ]
    return Table("environment", "Environment", ("What", "Value"), rows)


def _ceilings(summary: Summary) -> Table:
    rows = []
    for name in series_names(summary):
        if (ceilings := summary.ceilings.get(name)) is None:
            continue
        rates = ceilings.matmul_flops_per_s.items()
        rows.append(
            (
                name,
                f"{ceilings.device}, {ceilings.threads}",
                ", ".join(f"{dtype} {FLOPS.text(rate)}" for dtype, rate in rates) or "–",
                BYTES_PER_S.text(ceilings.read_bytes_per_s),
            )
        )
    heads = ("Series", "Device, threads", "Matrix multiply", "Read bandwidth")
    note = (
        "Measured by the run itself, in the process that measured the series. Shares are of the "
        "highest of the run."
    )
    return Table("ceilings", "Ceilings of this machine", heads, rows, (note,) if rows else ())


def _method(summary: Summary) -> Table:
    procedures = Counter(cell.procedure for cell in summary.cells)
    notes = [f"{kind.capitalize()}: {PROCEDURES[kind]}" for kind in sorted(procedures)]
    stops = Counter(cell.stopped_by for cell in summary.cells if cell.stopped_by)
    for kind, count in stops.most_common():
        cells = "1 cell" if count == 1 else f"{count} cells"
        notes.append(f"{cells} stopped sampling {STOPS.get(kind, kind)}.")
    shares = [c.contended_share for c in summary.cells if c.contended_share]
    if shares:
        notes.append(
            f"In {len(shares)} cells other work competed for the processor in up to "
            f"{SHARE.text(max(shares))} of the samples; these are flagged, not dropped."
        )
    outliers = sum(cell.outliers for cell in summary.cells)
    notes.append(f"{outliers} samples are flagged as outliers; none is dropped.")
    notes.append(
        "Medians carry 95% intervals. A verdict is a fit of a, a + b·n or a + b·n + c·n² with "
        "intercept, chosen by BIC, beside the log-log slope with a bootstrap interval; where they "
        "do not suffice it is undecided. docs/measurement.md has the method, docs/results.md the "
        "files of a run."
    )
    return Table("method", "How it was measured", notes=tuple(notes))


def _evidence(summary: Summary) -> Table:
    rows = []
    for verdict in summary.verdicts:
        unit = unit_of(verdict.metric)
        bic = ", ".join(f"{name} {value:.1f}" for name, value in verdict.bic.items())
        rows.append(
            (
                f"{verdict.series} ×{verdict.batch_size}",
                metric_title(summary, verdict.metric),
                verdict.scaling,
                fit_text(verdict, unit),
                slope_text(verdict.slope),
                bic or "–",
                str(verdict.points),
                verdict.evidence,
            )
        )
    heads = ("Series", "What", "Verdict", "Fit", "Log-log slope", "BIC", "Points", "Evidence")
    return Table("evidence", "Evidence for every verdict", heads, rows, folded=True)


def _figures(summary: Summary) -> Table:
    held = {name for cell in summary.cells for name in cell.metrics}
    names = [info.name for info in summary.metrics if info.name in held]
    place = {name: i for i, name in enumerate(series_names(summary))}
    cells = sorted(summary.cells, key=lambda c: (place[c.series], c.batch_size, c.context_tokens))
    rows = [tuple(_figure_texts(cell, names)) for cell in cells]
    heads = ("Series", "Context", "Batch", "Status", *names)
    return Table("figures", "All figures", heads, rows, folded=True)


def _figure_texts(cell: CellSummary, names: list[str]) -> Iterable[str]:
    yield from (cell.series, TOKENS.text(cell.context_tokens), str(cell.batch_size))
    yield STATUS_TEXT[cell.status]
    for name in names:
        estimate = cell.metrics.get(name)
        if estimate is None:
            yield "–"
            continue
        unit = unit_of(name)
        has_interval = estimate.low is not None and estimate.low != estimate.high
        text = unit.text(estimate.value)
        yield f"{text} ({interval_text(estimate, unit)})" if has_interval else text
