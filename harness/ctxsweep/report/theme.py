"""Colours, symbols and dashes, light and dark: for the charts and for the page's CSS alike.

Both palettes were sought in OKLab for the largest least distance between any two of the nine,
under normal sight, protanopia and deuteranopia (matrices of Machado et al., 2009), with a contrast
of at least 3:1 to the background. Symbol and dash tell the series apart without any colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FONT = "system-ui, 'Segoe UI', 'Liberation Sans', Arial, sans-serif"
STATIC_FONT = "Liberation Sans, Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours of one mode. ``series`` in the order of the scenario's series; ``shares`` from 0
    to 1, each with a contrast of at least 4.5:1 to the text or to the background."""

    name: str
    background: str
    surface: str
    text: str
    muted: str
    grid: str
    accent: str
    alarm: str
    badges: dict[str, str]
    parts: tuple[str, ...]
    shares: tuple[str, ...]
    series: tuple[str, ...]


LIGHT = Theme(
    name="light",
    background="#ffffff",
    surface="#f4f5f7",
    text="#16191d",
    muted="#565d66",
    grid="#e1e4e8",
    accent="#1f4fc4",
    alarm="#b3261e",
    badges={"O(1)": "#0b6b3a", "O(n)": "#1f4fc4", "O(n²)": "#a0351c", "undecided": "#565d66"},
    parts=("#565d66", "#2743ba", "#8a94a3", "#d9480f", "#0b7a4b"),
    shares=("#f3e4df", "#d7dcf2", "#8b9de0", "#4860c6", "#2743ba"),
    series=(
        "#2743ba",
        "#f95d17",
        "#4da181",
        "#72276d",
        "#1698ef",
        "#695118",
        "#610003",
        "#666e93",
        "#33044a",
    ),
)

DARK = Theme(
    name="dark",
    background="#14171b",
    surface="#1e2228",
    text="#eceff3",
    muted="#a7afb9",
    grid="#333941",
    accent="#8fb4ff",
    alarm="#ff8a80",
    badges={"O(1)": "#6fdc9c", "O(n)": "#8fb4ff", "O(n²)": "#ff9d7a", "undecided": "#a7afb9"},
    parts=("#c3cad3", "#7c9dfe", "#7d8793", "#f5ab12", "#4cc38a"),
    shares=("#46302c", "#2b3556", "#33427c", "#7f9ff0", "#a9c1fb"),
    series=(
        "#75a2f1",
        "#e3aa00",
        "#2a8e81",
        "#fb9da7",
        "#25deff",
        "#c1fe0d",
        "#fb1049",
        "#f6f0c4",
        "#8d62fe",
    ),
)

# Paths in the square from -1 to 1, as Vega wants its own symbols; the page draws the same.
SYMBOLS: tuple[str, ...] = (
    "M-.8,0A.8,.8,0,1,1,.8,0A.8,.8,0,1,1,-.8,0Z",
    "M-.7,-.7H.7V.7H-.7Z",
    "M0,-.95L.9,.7H-.9Z",
    "M0,-1L.8,0L0,1L-.8,0Z",
    "M-.3,-.9H.3V-.3H.9V.3H.3V.9H-.3V.3H-.9V-.3H-.3Z",
    "M0,.95L.9,-.7H-.9Z",
    "M-.95,0L.7,-.9V.9Z",
    "M0,-1L.24,-.32L.95,-.31L.38,.12L.59,.81L0,.4L-.59,.81L-.38,.12L-.95,-.31L-.24,-.32Z",
    "M.95,0L-.7,-.9V.9Z",
)
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 3), (9, 3, 2, 3))
FAILURE_SYMBOL = "M-.9,-.6L-.6,-.9L0,-.3L.6,-.9L.9,-.6L.3,0L.9,.6L.6,.9L0,.3L-.6,.9L-.9,.6L-.3,0Z"


def symbol(index: int) -> str:
    """Symbol of the series at this place of the scenario."""
    return SYMBOLS[index % len(SYMBOLS)]


def dash(index: int) -> list[int]:
    """Dash of the series at this place; colour, symbol and dash together repeat after 36."""
    return list(DASHES[(index % len(SYMBOLS) + index // len(SYMBOLS)) % len(DASHES)])


def color(theme: Theme, index: int) -> str:
    """Colour of the series at this place of the scenario."""
    return theme.series[index % len(theme.series)]


def vega_config(theme: Theme, font: str = FONT) -> dict[str, Any]:
    """The theme as a Vega-Lite config; a chart's definition itself holds no colour."""
    axis = {
        "labelColor": theme.muted,
        "titleColor": theme.muted,
        "gridColor": theme.grid,
        "domainColor": theme.grid,
        "tickColor": theme.grid,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    }
    halo = {"color": theme.background, "stroke": theme.background, "strokeWidth": 5}
    return {
        "background": theme.background,
        "font": font,
        "view": {"stroke": None},
        "axis": axis,
        "legend": {
            "labelColor": theme.text,
            "labelFontSize": 12,
            "symbolSize": 90,
            "symbolStrokeWidth": 2,
            "labelLimit": 220,
        },
        "header": {"labelColor": theme.text, "labelFontSize": 12, "labelFontWeight": "bold"},
        "title": {
            "color": theme.text,
            "subtitleColor": theme.muted,
            "fontSize": 16,
            "subtitleFontSize": 12,
            "anchor": "start",
            "offset": 12,
        },
        "text": {"color": theme.text},
        "rule": {"color": theme.muted},
        "style": {
            "alarm": {"color": theme.alarm},
            "muted": {"color": theme.muted},
            "halo": halo,
            "inverse": {"color": theme.background},
        },
        "range": {
            "category": list(theme.series),
            "ordinal": list(theme.parts),
            "heatmap": list(theme.shares),
        },
    }
