"""The charts of quality: every figure in its place, both +5 and +0.01 readable, nothing blank."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pictures import contrast, decode_png, rows_of

from ctxsweep.analysis.summary import Summary
from ctxsweep.records import Status
from ctxsweep.report import theme
from ctxsweep.report.page import Spec, chart_specs, write_plots
from ctxsweep.report.placing import HEIGHT
from ctxsweep.report.quality_charts import DARK_SHARE, loss_scale

CHARTS = ("quality", "quality_positions", "quality_passkey", "quality_multi_key")


@pytest.fixture(scope="module")
def specs(quality_summary: Summary) -> dict[str, Spec]:
    return chart_specs(quality_summary)


def test_they_come_first_and_only_where_there_is_quality(
    specs: dict[str, Spec], quality_summary: Summary
) -> None:
    assert tuple(specs)[: len(CHARTS)] == CHARTS
    without = quality_summary.model_copy(update={"quality": None})
    assert not any(name.startswith("quality") for name in chart_specs(without))
    assert json.dumps(chart_specs(quality_summary)) == json.dumps(specs)


def test_every_difference_is_a_point(specs: dict[str, Spec], quality_summary: Summary) -> None:
    assert quality_summary.quality is not None
    points = rows_of(specs["quality"], "point")
    wanted = {
        (c.series, round(c.difference.value, 9))
        for c in quality_summary.quality.cells
        if c.difference is not None
    }
    assert {(p["series"], round(float(p["y"]), 9)) for p in points} == wanted
    assert len(points) == 21
    for point in points:
        context = {"8K": 8192, "12K": 12288, "16K": 16384}[str(point["context"])]
        assert 0.9 < float(point["x"]) / context < 1.02, "moved apart, but not away"
        assert point.get("low", -9) <= point["y"] <= point.get("high", 9)
    assert [row["y"] for row in rows_of(specs["quality"], "allowed")] == [0.1]


def test_position_curve_shows_where_it_breaks(specs: dict[str, Spec]) -> None:
    points = [p for p in rows_of(specs["quality_positions"], "point") if p["series"] == "none"]
    assert len(points) == 32
    above = [p["position"] for p in points if float(p["y"]) > 0.1]
    assert above[0] == "10K to 10.5K"


def test_names_at_the_ends_do_not_overlap(specs: dict[str, Spec]) -> None:
    for name in CHARTS[:2]:
        spec = specs[name]
        scale = next(
            layer["encoding"]["y"]["scale"]
            for layer in spec["layer"]
            if "scale" in layer["encoding"]["y"]
        )
        low, high, value = (
            np.sign(v) * np.log1p(np.abs(v) / scale["constant"])
            for v in (*scale["domain"], np.array([row["y"] for row in rows_of(spec, "end")]))
        )
        pixels = np.sort((value - low) / (high - low)) * spec["height"]
        assert len(pixels) == 7
        assert all(b - a > 13.9 for a, b in pairwise(pixels)), name


def test_large_and_small_differences_can_both_be_read() -> None:
    scale = loss_scale([-0.02, 0.01, 5.0], 0.02, strip_rows=0)
    pixel = {v: scale.share_of(v) * HEIGHT for v in (0.0, 0.01, 0.1, 1.0, 5.0)}
    places = list(pixel.values())
    assert all(b - a > 15 for a, b in pairwise(places))
    assert scale.value_at(scale.share_of(0.37)) == pytest.approx(0.37)
    ticks = scale.ticks(8)
    assert {0.0, 0.1, 1.0} <= set(ticks)
    assert all((scale.share_of(b) - scale.share_of(a)) * HEIGHT >= 16.9 for a, b in pairwise(ticks))
    strip = loss_scale([5.0], 0.02, strip_rows=2)
    assert strip.high > strip.data_high > 5.0 and max(strip.ticks(8)) <= strip.data_high


def test_heat_map_has_every_depth_with_its_count(
    specs: dict[str, Spec], quality_summary: Summary
) -> None:
    cells = rows_of(specs["quality_passkey"], "cell")
    assert len(cells) == 7 * 3 * 4
    found = {(c["series"], c["context"], c["depth"]): c["label"] for c in cells}
    assert found["none", "16K", "5%"] == "0/2"
    assert found["linear", "12K", "35%"] == "0/2" and found["linear", "12K", "65%"] == "2/2"
    assert found["yarn", "16K", "95%"] == "2/2"


@pytest.mark.parametrize("mode", [theme.LIGHT, theme.DARK], ids=lambda mode: mode.name)
def test_counts_can_be_read_on_every_colour(mode: theme.Theme) -> None:
    stops = np.linspace(0, 1, len(mode.shares))
    parts = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in mode.shares])
    for share in np.linspace(0, 1, 9):
        rgb = [round(float(np.interp(share, stops, parts[:, k]))) for k in range(3)]
        colour = "#" + "".join(f"{v:02x}" for v in rgb)
        text = mode.background if share >= DARK_SHARE else mode.text
        assert contrast(colour, text) >= (4.5 if share in stops else 4), (share, colour)


def test_failed_cells_stand_in_the_strip(quality_summary: Summary) -> None:
    assert quality_summary.quality is not None
    kept = tuple(
        c for c in quality_summary.quality.cells if (c.series, c.context_tokens) != ("yarn", 16384)
    )
    cells = tuple(
        c.model_copy(update={"status": Status.OOM, "metrics": {}, "detail": "too large"})
        if (c.series, c.context_tokens) == ("yarn", 16384)
        else c
        for c in quality_summary.cells
    )
    failed = quality_summary.model_copy(
        update={
            "cells": cells,
            "quality": quality_summary.quality.model_copy(update={"cells": kept}),
        }
    )
    crosses = rows_of(chart_specs(failed)["quality"], "failure")
    assert [(c["series"], c["status"]) for c in crosses] == [("yarn", "out of memory")]


def test_svg_and_png_show_something(specs: dict[str, Spec], tmp_path: Path) -> None:
    write_plots({name: specs[name] for name in CHARTS}, tmp_path)
    for name in CHARTS:
        svg = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        width, height, pixels = decode_png((tmp_path / f"{name}.png").read_bytes())
        assert width > 1200 and height > 600 and len(pixels) > 30, name
        if name in CHARTS[:2]:
            colours = {c.lower() for c in re.findall(r'stroke="(#[0-9a-fA-F]{6})"', svg)}
            assert colours >= set(theme.LIGHT.series[:7])
        else:
            assert svg.count(">2/2<") == 72 and svg.count(">0/2<") == 12
