"""The goals that kernels are held to: one row a goal, one column an architecture."""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.report.kernels_table import NOTHING, Cell, Data, goals_of

SAYINGS = {
    "per_unit": "warp instructions per {unit}, average",
    "masked": "a masked tile over an unmasked one",
    "traffic": "bytes moved over the least",
    "unique": "bytes that reach memory over the least",
}


@dataclass(frozen=True)
class Goal:
    """A figure of a kernel that may not be above `most`; found: a cell for each architecture."""

    case: str
    what: str
    most: float
    found: tuple[Cell, ...]


def architectures(data: Data) -> list[str]:
    """In the order in which they were judged."""
    return list(dict.fromkeys(one["arch"] for one in data["figures"]))


def goals(data: Data) -> list[Goal]:
    """All goals, in the order of the cases. Traffic is counted once, not for each architecture."""
    archs = architectures(data)
    found: dict[tuple[str, str], tuple[float, dict[str, Cell]]] = {}
    for one in data["figures"]:
        if one["launch"] or one["error"]:
            continue
        for name, most, value in goals_of(one, data["traffic"].get(one["case"])):
            what = SAYINGS[name].format(unit=one["unit"])
            cells = found.setdefault((one["case"], what), (most, {}))[1]
            cells[one["arch"]] = _cell(value, most)
    return [
        Goal(case, what, most, tuple(cells.get(arch, NOTHING) for arch in archs))
        for (case, what), (most, cells) in found.items()
    ]


def _cell(value: float | None, most: float) -> Cell:
    if value is None:
        return NOTHING
    text = f"{value:.3g}" if value >= 10 else f"{value:.3f}"
    return Cell(f"{text} ✓") if value <= most else Cell(f"{text} ✕", alarm=True)
