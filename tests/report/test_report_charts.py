"""The charts: valid, complete, the same every time, and not blank as SVG and PNG."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
from pictures import contrast, decode_png, rows_of

from ctxsweep.analysis.summary import CellSummary, Estimate, Summary
from ctxsweep.records import Status
from ctxsweep.report import theme
from ctxsweep.report.charts import CHARTS
from ctxsweep.report.page import Spec, chart_specs, write_plots
from ctxsweep.report.rows import metric_rows

# The run of the fixture has no valid power reading, measured no quality and sought no frontier.
LEFT_OUT = ("energy", "quality", "frontier")
DRAWN = {entry.name for entry in CHARTS if not entry.name.startswith(LEFT_OUT)}


@pytest.fixture(scope="module")
def specs(summary: Summary) -> dict[str, Spec]:
    """``to_dict`` validates against the schema of Vega-Lite."""
    return chart_specs(summary)


@pytest.fixture(scope="module")
def plots(specs: dict[str, Spec], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plots")
    write_plots(specs, folder)
    return folder


def changed(summary: Summary, **fields: object) -> Summary:
    return summary.model_copy(update=fields)


def test_every_chart_with_figures_is_made(specs: dict[str, Spec]) -> None:
    assert specs.keys() == DRAWN


def test_same_summary_same_charts(summary: Summary, specs: dict[str, Spec]) -> None:
    assert json.dumps(chart_specs(summary)) == json.dumps(specs)


def test_every_figure_is_a_point(summary: Summary, specs: dict[str, Spec]) -> None:
    points = rows_of(specs["decode"], "point")
    held = {
        (c.series, c.context_tokens, c.metrics["itl_s"].value)
        for c in summary.cells
        if "itl_s" in c.metrics
    }
    assert {(p["series"], p["x"], p["y"]) for p in points} == held
    assert all(p["low"] <= p["y"] <= p["high"] for p in points)


def test_failures_are_marked_with_their_reason(specs: dict[str, Spec]) -> None:
    for name in ("cache", "decode", "prefill", "mbu", "memory"):
        crosses = rows_of(specs[name], "failure")
        assert {(c["series"], c["x"], c["status"]) for c in crosses} == {
            ("moe", 65536, "out of memory"),
            ("moe", 131072, "out of memory"),
            ("gqa-fp8", 131072, "over budget"),
        }
        assert all("limit" in str(c["reason"]) or "budget" in str(c["reason"]) for c in crosses)
        points = rows_of(specs[name], "point")
        top = max(float(p["y"]) for p in points)
        assert all(float(c["y"]) > top for c in crosses)


def test_window_is_flat_and_growth_starts_at_zero(specs: dict[str, Spec]) -> None:
    held = [p["y"] for p in rows_of(specs["held"], "point") if p["series"] == "window"]
    assert len(set(held[2:])) == 1
    added = rows_of(specs["growth"], "point")
    assert {p["y"] for p in added if p["x"] == 0} == {0}
    assert {p["y"] for p in added if p["series"] in ("mamba2", "rwkv7", "retnet")} == {0}


def test_names_at_the_ends_do_not_overlap(specs: dict[str, Spec]) -> None:
    for name in DRAWN - {"memory"}:
        spec = specs[name]
        encoded = next(
            layer["encoding"]["y"]["scale"]
            for layer in spec["layer"]
            if "scale" in layer["encoding"]["y"]
        )
        low, high = encoded["domain"]
        ends = [float(row["y"]) for row in rows_of(spec, "end")]
        shares = sorted(
            _log_share(y, low, high) if encoded["type"] == "log" else (y - low) / (high - low)
            for y in ends
        )
        pixels = [share * spec["height"] for share in shares]
        assert all(b - a > 13.9 for a, b in pairwise(pixels)), name


def _log_share(y: float, low: float, high: float) -> float:
    return math.log(y / low) / math.log(high / low)


def test_batches_and_procedures_are_lines_of_their_own(summary: Summary) -> None:
    extra = [
        cell.model_copy(update={"batch_size": 4, "key": f"{cell.key}-4"})
        for cell in summary.cells
        if cell.series == "gqa"
    ]
    rows = metric_rows(changed(summary, cells=(*summary.cells, *extra)), "itl_s")
    assert {"gqa ×1", "gqa ×4", "mqa ×1"} <= {row["line"] for row in rows}


def test_energy_is_drawn_where_it_was_valid(summary: Summary) -> None:
    def powered(cell: CellSummary) -> CellSummary:
        joules = {"joules_per_generated_token": Estimate(value=0.2 + cell.context_tokens / 1e6)}
        return cell.model_copy(update={"metrics": cell.metrics | joules})

    cells = tuple(powered(c) if c.status is Status.OK else c for c in summary.cells)
    assert "energy_decode" in chart_specs(changed(summary, cells=cells))


def test_one_cell_or_none_is_no_obstacle(summary: Summary) -> None:
    one = summary.cells[:1]
    single = changed(summary, cells=one, growth={}, series=summary.series[:1])
    assert "decode" in chart_specs(single)
    failed = tuple(c.model_copy(update={"status": Status.ERROR, "metrics": {}}) for c in one)
    assert chart_specs(changed(single, cells=failed)) == {}
    assert chart_specs(changed(single, cells=())) == {}


@pytest.mark.parametrize("name", sorted(DRAWN))
def test_svg_and_png_show_something(plots: Path, name: str) -> None:
    svg = (plots / f"{name}.svg").read_text(encoding="utf-8")
    colours = {c.lower() for c in re.findall(r'(?:stroke|fill)="(#[0-9a-fA-F]{6})"', svg)}
    own = theme.LIGHT.parts if name == "memory" else theme.LIGHT.series
    assert colours >= set(own[:4])
    width, height, pixels = decode_png((plots / f"{name}.png").read_bytes())
    assert width > 1200
    assert height > 600
    assert len(pixels) > 30, "hardly any colour: blank?"


def test_plots_of_an_earlier_report_are_removed(specs: dict[str, Spec], tmp_path: Path) -> None:
    (tmp_path / "energy_decode.png").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    write_plots({}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_colours_can_be_told_from_the_ground_and_from_each_other() -> None:
    for mode in (theme.LIGHT, theme.DARK):
        for colour in (*mode.series, *mode.parts):
            assert contrast(colour, mode.background) >= 3, (mode.name, colour)
        words = (mode.text, mode.muted, mode.accent, mode.alarm, *mode.badges.values())
        for colour in words:
            assert contrast(colour, mode.background) >= 4.5, (mode.name, colour)
        assert len(set(mode.series)) == 9
    looks = {
        (theme.color(theme.LIGHT, i), theme.symbol(i), tuple(theme.dash(i))) for i in range(36)
    }
    assert len(looks) == 36
