"""Predictions beside what was measured, in words: the page's table and the terminal's lines."""

from __future__ import annotations

from ctxsweep.analysis.predicted import (
    PREDICTED,
    Errors,
    PredictedCell,
    PredictedMetric,
    Predictions,
    errors,
    shares,
)
from ctxsweep.analysis.summary import Summary
from ctxsweep.report.rows import series_names
from ctxsweep.report.table import Table

TITLE = "Predicted beside measured"
HEADS: dict[PredictedMetric, str] = {
    "itl_s": "Per generated token",
    "prefill_s": "Prefill",
    "held_bytes": "Weights and cache",
    "process_peak_bytes": "Peak of the process",
}
SHORT: dict[PredictedMetric, str] = {
    "itl_s": "decode",
    "prefill_s": "prefill",
    "held_bytes": "weights and cache",
    "process_peak_bytes": "peak of the process",
}
EXACT = 1e-9


def predicted_table(summary: Summary, predictions: Predictions | None) -> Table:
    """A row per series, a column per metric that was predicted."""
    if predictions is None:
        return Table("predicted", TITLE)
    metrics = [metric for metric in PREDICTED if predictions.of(metric)]
    rows = [
        (name, *(cells_text(predictions.of(metric, series=name)) for metric in metrics))
        for name in series_names(summary)
        if any(predictions.of(metric, series=name) for metric in metrics)
    ]
    notes = [*_basis(predictions)]
    notes += _beyond(predictions)
    notes += [f"{name}: nothing was predicted: {why}." for name, why in predictions.missing.items()]
    heads = ("Series", *(HEADS[metric] for metric in metrics))
    return Table("predicted", TITLE, heads, rows, tuple(notes) if rows else ())


def predicted_line(predictions: Predictions | None) -> str:
    """One sentence for the terminal; empty if nothing was predicted."""
    if predictions is None or not predictions.cells:
        return ""
    parts = []
    for metric in PREDICTED:
        cells = predictions.of(metric)
        bounds = [cell for cell in cells if cell.basis == "bound"]
        others = [cell for cell in cells if cell.basis != "bound"]
        said = [_median(group) for group in (others, bounds) if group]
        parts += [f"{SHORT[metric]} {' and '.join(said)}"] if said else []
    line = f"{TITLE}: {', '.join(parts)} (medians of the cells)."
    if predictions.why_bounds:
        return f"{line} No calibration was used: {predictions.why_bounds}."
    if predictions.calibration is None:
        return f"{line} Forecasts in place of bounds: ctxsweep calibrate."
    if predictions.fitted_to_this_run:
        line = f"{line} The calibration was fitted to this very run."
    beyond = sum(bool(cell.beyond) for cell in predictions.cells)
    fitted = sum(cell.basis == "calibration" for cell in predictions.cells)
    return f"{line} {beyond} of {fitted} forecasts are extrapolated." if beyond else line


def cells_text(cells: tuple[PredictedCell, ...]) -> str:
    """``9.4% off (worst 35%)``, ``37% of the bound (31% to 50%)``, ``exact``; with ``*`` and how
    many of them lie beyond what the calibration was fitted to."""
    bounds = [cell for cell in cells if cell.basis == "bound"]
    found = errors([cell for cell in cells if cell.basis != "bound"])
    reached = shares(bounds)
    said = []
    if found is not None:
        off = f"{percent(found.median)} off (worst {percent(found.worst)})"
        beyond = sum(bool(cell.beyond) for cell in cells)
        extrapolated = f", {beyond} of {found.cells} extrapolated*" if beyond else ""
        said.append("exact" if found.worst < EXACT else f"{off}{extrapolated}")
    if reached is not None:
        middle, least, most = (percent(share) for share in reached)
        said.append(f"{middle} of the bound ({least} to {most})")
    return "; ".join(said) or "–"


def percent(share: float) -> str:
    """Two significant digits: ``9.4%``, ``0.34%``, ``120%``."""
    value = 100 * share
    return f"{value:.0f}%" if value >= 10 else f"{float(f'{value:.2g}'):g}%"


def _beyond(predictions: Predictions) -> list[str]:
    """What lies outside of what the calibration was fitted to, by series."""
    outside: dict[str, dict[str, None]] = {}
    for cell in predictions.cells:
        for reason in cell.beyond:
            outside.setdefault(cell.series, {})[reason] = None
    if not outside:
        return []
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, reasons in outside.items():
        alike.setdefault(tuple(reasons), []).append(name)
    parts = [f"{', '.join(names)}: {_listed(reasons)}" for reasons, names in alike.items()]
    return [f"* Beyond what the calibration was fitted to. {'; '.join(parts)}."]


def _listed(reasons: tuple[str, ...]) -> str:
    """The first and the last of many: they come by context."""
    few = reasons if len(reasons) < 4 else (reasons[0], "…", reasons[-1])
    return ", ".join(few)


def _median(cells: list[PredictedCell]) -> str:
    if cells[0].basis == "bound":
        reached = shares(cells)
        return f"{percent(reached[0])} of the bound" if reached else ""
    found = errors(cells)
    return "" if found is None else _off(found)


def _off(found: Errors) -> str:
    if found.median < EXACT:
        return "exact" if found.worst < EXACT else "exact in most"
    return f"{percent(found.median)} off"


def _basis(predictions: Predictions) -> list[str]:
    """What the figures rest on."""
    used = predictions.calibration
    if used is None:
        why = f" ({predictions.why_bounds})" if predictions.why_bounds else ""
        return [
            "Times are given as a share of the bound: the least time that the ceilings of this run "
            f"allow, over the measured one; median, least and most of the contexts{why}. "
            "ctxsweep calibrate fits this machine's own speeds; then errors stand here."
        ]
    notes = [
        f"Predicted from {used.file}, made {used.made_at[:10]}, with this machine's own speeds; "
        "how far each lies off what was measured: median and worst of the contexts. Where its "
        "code was not calibrated, a series has its share of the bound."
    ]
    known = [
        f"{SHORT[metric]} {_off(used.held_out[metric])}"
        for metric in PREDICTED
        if metric in used.held_out
    ]
    if known:
        notes.append(
            f"What a fit had not seen: {', '.join(known)} (medians; of prefill what each context "
            "adds to the one before it)."
        )
    if predictions.fitted_to_this_run:
        notes.append("It was fitted to this very run: these are errors of a fit, not a forecast.")
    return notes
