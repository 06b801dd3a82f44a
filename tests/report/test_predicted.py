"""What the report says of predictions: the table, the panels, the terminal's sentence."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from ctxsweep.analysis.predicted import (
    Basis,
    CalibrationOverview,
    CalibrationUsed,
    Errors,
    GroupOverview,
    PredictedCell,
    PredictedMetric,
    Predictions,
)
from ctxsweep.analysis.summary import Summary
from ctxsweep.report.calibration import print_calibration
from ctxsweep.report.charts import CHARTS
from ctxsweep.report.page import render_page, write_plots
from ctxsweep.report.predicted import cells_text, percent, predicted_line, predicted_table
from ctxsweep.report.predicted_charts import entries, names
from ctxsweep.report.terminal import print_summary

HELD_OUT: dict[PredictedMetric, Errors] = {
    "itl_s": Errors(median=0.1094, p90=0.4, worst=0.77, cells=72, low=0.6, high=2.5, coverage=0.97),
    "held_bytes": Errors(median=0, p90=0, worst=0, cells=72, low=1, high=1, coverage=0.97),
}


def predicted(
    summary: Summary, factor: float, basis: Basis, calibration: CalibrationUsed | None = None
) -> Predictions:
    """Every measured time of a summary times ``factor``; bytes as they are."""
    measured: dict[PredictedMetric, str] = {
        "itl_s": "itl_s",
        "prefill_s": "prefill_s",
        "held_bytes": "cache_used_bytes",
    }
    return Predictions(
        run_id=summary.run_id,
        calibration=calibration,
        cells=tuple(
            PredictedCell(
                series=cell.series,
                context_tokens=cell.context_tokens,
                batch_size=cell.batch_size,
                metric=metric,
                basis="formula" if metric == "held_bytes" else basis,
                predicted=estimate.value * (1 if metric == "held_bytes" else factor),
                measured=estimate.value,
            )
            for cell in summary.cells
            for metric, name in measured.items()
            if (estimate := cell.metrics.get(name)) is not None
        ),
        missing={"gone": "'tiny-gone' is not in the catalogue"},
    )


def specs_of(summary: Summary, predictions: Predictions) -> dict[str, dict[str, Any]]:
    """The charts of predictions alone; a report draws many others."""
    charts = {e.name: e.chart(summary) for e in entries(predictions) if e.name in names()}
    return {name: chart.to_dict() for name, chart in charts.items() if chart is not None}


@pytest.fixture
def bounds(summary: Summary) -> Predictions:
    return predicted(summary, 0.25, "bound")


@pytest.fixture
def forecast(summary: Summary) -> Predictions:
    used = CalibrationUsed(
        file="results/calibration/box.yaml",
        made_at="2026-01-02T03:04:05Z",
        runs=("another",),
        held_out=HELD_OUT,
    )
    return predicted(summary, 1.1, "calibration", used)


def test_a_bound_is_told_as_the_share_that_was_reached(
    summary: Summary, bounds: Predictions
) -> None:
    table = predicted_table(summary, bounds)
    row = dict(zip(table.heads, table.rows[0], strict=True))
    assert row["Series"] == "gqa"
    assert row["Per generated token"] == "25% of the bound (25% to 25%)"
    assert "ctxsweep calibrate" in table.notes[0]
    assert table.notes[-1] == "gone: nothing was predicted: 'tiny-gone' is not in the catalogue."
    assert predicted_line(bounds).startswith(
        "Predicted beside measured: decode 25% of the bound, prefill 25% of the bound"
    )


def test_a_forecast_is_told_by_its_errors(summary: Summary, forecast: Predictions) -> None:
    table = predicted_table(summary, forecast)
    assert table.rows[0][1] == "10% off (worst 10%)"
    assert "results/calibration/box.yaml, made 2026-01-02" in table.notes[0]
    assert "What a fit had not seen: decode 11% off, weights and cache exact" in table.notes[1]
    assert "decode 10% off" in predicted_line(forecast)


def test_errors_of_a_fit_are_not_sold_as_a_forecast(
    summary: Summary, forecast: Predictions
) -> None:
    assert forecast.calibration is not None
    used = forecast.calibration.model_copy(update={"runs": (summary.run_id,)})
    same = forecast.model_copy(update={"calibration": used})
    assert any("errors of a fit" in note for note in predicted_table(summary, same).notes)
    assert predicted_line(same).endswith("The calibration was fitted to this very run.")
    assert "very run" not in predicted_line(forecast)


def test_why_no_calibration_was_used_is_said(summary: Summary, bounds: Predictions) -> None:
    damaged = bounds.model_copy(update={"why_bounds": "box.yaml: not YAML"})
    assert "box.yaml: not YAML" in predicted_line(damaged)
    assert "box.yaml: not YAML" in predicted_table(summary, damaged).notes[0]


def test_nothing_predicted_is_nothing_said(summary: Summary) -> None:
    empty = Predictions(run_id="r", calibration=None, cells=())
    for nothing in (None, empty):
        table = predicted_table(summary, nothing)
        assert not table.rows and not table.notes
        assert predicted_line(nothing) == ""
    assert entries(None) == CHARTS
    assert not specs_of(summary, empty)


def test_both_bases_of_a_series_are_told_apart(bounds: Predictions, forecast: Predictions) -> None:
    both = (*bounds.of("itl_s", series="gqa"), *forecast.of("itl_s", series="gqa"))
    assert cells_text(both) == "10% off (worst 10%); 25% of the bound (25% to 25%)"
    assert cells_text(bounds.of("held_bytes", series="gqa")) == "exact"
    assert cells_text(()) == "–"


def test_extrapolated_cells_are_marked(summary: Summary, forecast: Predictions) -> None:
    reason = "context 1,048,576: 1,024 to 131,072 measured"
    cells = [
        cell.model_copy(update={"beyond": (reason,)}) if cell.metric == "itl_s" else cell
        for cell in forecast.cells
    ]
    marked = forecast.model_copy(update={"cells": tuple(cells)})
    table, gqa = predicted_table(summary, marked), len(marked.of("itl_s", series="gqa"))
    assert table.rows[0][1] == f"10% off (worst 10%), {gqa} of {gqa} extrapolated*"
    assert any(note.startswith("* Beyond") and reason in note for note in table.notes)
    all_cells = len(marked.of("itl_s"))
    assert f"{all_cells} of {2 * all_cells} forecasts are extrapolated" in predicted_line(marked)
    assert "xtrapolated" not in predicted_line(forecast)
    assert not any("Beyond" in note for note in predicted_table(summary, forecast).notes)
    rows = str(specs_of(summary, marked)["predicted_decode"])
    assert ", extrapolated" in rows


def test_the_page_and_its_plots_hold_them(
    summary: Summary, forecast: Predictions, tmp_path: Path
) -> None:
    specs = specs_of(summary, forecast)
    page = render_page(summary, specs, forecast)
    assert '<h2 id="predicted">Predicted beside measured</h2>' in page
    assert 'data-chart="predicted_decode"' in page
    write_plots(specs, tmp_path / "plots")
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"predicted_decode.png", "predicted_prefill.svg"} <= drawn
    assert "predicted_process.png" not in drawn
    write_plots({}, tmp_path / "plots")
    assert not list((tmp_path / "plots").iterdir())


def test_panels_show_both_and_follow_the_picker(summary: Summary, bounds: Predictions) -> None:
    spec = specs_of(summary, bounds)["predicted_decode"]
    rows = next(
        one["data"]["values"] for one in (spec, spec["spec"]) if "values" in one.get("data", {})
    )
    assert {row["part"] for row in rows} == {"measured", "bound"}
    assert {row["series"] for row in rows} == {cell.series for cell in bounds.of("itl_s")}
    assert any(param["name"] == "shown" for param in spec["params"])


def test_the_terminal_says_it(summary: Summary, bounds: Predictions) -> None:
    out = io.StringIO()
    print_summary(summary, console=Console(file=out, width=80), predictions=bounds)
    assert "decode 25% of the bound" in " ".join(out.getvalue().split())


def overview(
    held_out: dict[PredictedMetric, Errors], untold: tuple[str, ...] = ()
) -> CalibrationOverview:
    group = GroupOverview(
        engine="native float32",
        kind="attention",
        models=("tiny-gqa", "tiny-mqa"),
        cells=16,
        call_s=3.7e-4,
        shares={"linear": 0.4},
        untold=untold,
        held_out=held_out,
    )
    return CalibrationOverview(
        machine="box",
        device="cpu",
        threads=1,
        runs=("one",),
        held_out=held_out,
        longer=held_out,
        groups=(group,),
    )


def printed(made: CalibrationOverview) -> str:
    out = io.StringIO()
    print_calibration(made, Path("results/calibration/box.yaml"), Console(file=out, width=80))
    return out.getvalue()


def test_calibrate_begins_with_the_answer() -> None:
    text = printed(overview(HELD_OUT))
    first = text.splitlines()[0]
    assert first == "decode: median error 11% on 72 cells it had not seen (9 of 10 below 40%)"
    assert "weights and cache: exact on 72 cells" in text
    assert "attention: tiny-gqa, tiny-mqa" in text and "370 µs" in text
    assert "box, cpu, 1 thread; fitted to all cells of one." in text
    assert text.rstrip().endswith("Written: results/calibration/box.yaml")
    assert max(map(len, text.splitlines())) <= 80


def test_shares_that_are_not_told_apart_are_marked() -> None:
    text = " ".join(printed(overview(HELD_OUT, untold=("weights",))).split())
    assert "370 µs*" in text
    assert "* holds the reading of weights too, which these cells do not tell from it" in text
    assert "*" not in printed(overview(HELD_OUT))


def test_without_held_out_cells_no_error_is_claimed() -> None:
    text = printed(overview({}))
    assert text.startswith("No cells were held out, so how far predictions lie off is not known")
    assert "%" not in text


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0938, "9.4%"), (0.0034, "0.34%"), (1.2, "120%"), (0.104, "10%"), (0, "0%")],
)
def test_percent_has_two_digits(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize("kind", [Predictions, PredictedCell, CalibrationUsed, Errors])
def test_the_results_page_names_every_key(kind: type[BaseModel]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    section = text.partition("## predictions.json")[2].partition("\n## ")[0]
    assert set(kind.model_fields) <= set(re.findall(r"`([^`]+)`", section))
