"""Rows of the kernels' bench, from its plain data: for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Data = dict[str, Any]

KIB = 1024


@dataclass(frozen=True)
class Cell:
    """A figure as text, with what explains it; `alarm` if it is bad in itself."""

    text: str
    note: str = ""
    alarm: bool = False


@dataclass(frozen=True)
class Column:
    """A column, with the sentence that says what it holds."""

    name: str
    title: str
    meaning: str


COLUMNS = (
    Column("registers", "registers / spilled", "registers of a thread, and bytes that it spills"),
    Column("shared", "shared", "shared memory of a block"),
    Column(
        "occupancy",
        "occupancy",
        "warps that fit on a multiprocessor at once, as a share, and what keeps more out",
    ),
    Column("wide", "wide loads", "share of the bytes in loads of 16 bytes a lane, or by TMA"),
    Column(
        "steady", "steady", "warp instructions for a unit of work in the loop that takes the time"
    ),
    Column(
        "average",
        "average",
        "the same over a whole program of the first launch, straight-line code included",
    ),
    Column("masked", "dearest loop", "cost of the dearest other loop over the steady one"),
    Column(
        "bound",
        "bound by",
        "the busiest pipe of the steady state, and the rate that it alone would allow",
    ),
    Column("traffic", "bytes / least", "bytes that loads and stores touch over the least possible"),
    Column("tiles", "tiles / least", "tiles multiplied over the exact least"),
    Column("goal", "goal", "the figure that the kernel is held to, and whether it is reached"),
)
NOTHING = Cell("–")


@dataclass(frozen=True)
class Row:
    """One launch on one device."""

    case: str
    kernel: str
    cells: dict[str, Cell]
    error: str


def rows_of(data: Data, device: str | None, arch: str) -> list[Row]:
    """Every kernel on a device (None: only what the machine code of `arch` says)."""
    return [_row(one, data, device) for one in data["figures"] if one["arch"] == arch]


def columns_of(rows: Sequence[Row]) -> list[Column]:
    """The columns in which any of the rows has something."""
    return [
        column
        for column in COLUMNS
        if any(row.cells.get(column.name, NOTHING) != NOTHING for row in rows)
    ]


def _row(one: Data, data: Data, device: str | None) -> Row:
    name = one["case"] if one["launch"] == 0 else f"{one['case']} #{one['launch'] + 1}"
    if one["error"]:
        return Row(name, one["kernel"], {}, one["error"].strip().splitlines()[0])
    on = one["devices"].get(device, {})
    moved = data["traffic"].get(one["case"]) if one["launch"] == 0 else None
    cells = {
        "registers": Cell(registers_of(one), alarm=one["spilled_bytes"] > 0),
        "shared": Cell(f"{one['shared_bytes'] / KIB:.4g} KiB"),
        "occupancy": _occupancy(on.get("occupancy")),
        "wide": NOTHING if one["wide_share"] is None else Cell(f"{one['wide_share']:.0%}"),
        "steady": _steady(one),
        "average": _per_unit(one["per_unit"], one["unit"]),
        "masked": _dearest(one),
        "bound": _bound(one, on.get("bound")),
        "traffic": _traffic(moved),
        "tiles": _tiles(moved),
        "goal": _goals(one, moved),
    }
    return Row(name, one["kernel"], cells, "")


def steady_loop(one: Data) -> Data | None:
    """The loop in which the time is spent."""
    return next((loop for loop in one["loops"] if loop["name"] == "steady"), None)


def _occupancy(held: Data | None) -> Cell:
    if held is None:
        return NOTHING
    if held["blocks"] == 0:
        return Cell("does not fit", held["limiter"], alarm=True)
    return Cell(f"{held['share']:.0%}", held["limiter"])


def _per_unit(value: float | None, unit: str) -> Cell:
    return NOTHING if value is None else Cell(f"{value:.3g}", f"per {unit}")


def _steady(one: Data) -> Cell:
    loop = steady_loop(one)
    if loop is None:
        return NOTHING
    cell = _per_unit(loop["per_unit"], one["unit"])
    return (
        Cell(cell.text, f"{cell.note}, unrolled ×{loop['unroll']}") if loop["unroll"] > 1 else cell
    )


def _others(one: Data) -> dict[str, float]:
    """Cost of every other loop over the steady one's, by name."""
    loop = steady_loop(one)
    if loop is None or not loop["per_unit"]:
        return {}
    return {
        other["name"]: other["per_unit"] / loop["per_unit"]
        for other in one["loops"]
        if other["name"] != "steady" and other["per_unit"]
    }


def _dearest(one: Data) -> Cell:
    others = _others(one)
    if not others:
        return NOTHING
    name = max(others, key=lambda key: others[key])
    return Cell(f"{others[name]:.2f}×", name)


def _bound(one: Data, limit: Data | None) -> Cell:
    if limit is None:
        return NOTHING
    loop = steady_loop(one)
    if one["unit"] == "KiB":
        rate = f"{limit['units_per_s'] * KIB / 1e12:.3g} TB/s"
    elif loop and loop["flops_per_unit"]:
        rate = f"{limit['units_per_s'] * loop['flops_per_unit'] / 1e12:.3g} TFLOP/s"
    else:
        rate = f"{limit['units_per_s'] / 1e12:.3g} T{one['unit']}/s"
    most = limit["clocks"][limit["bottleneck"]]
    others = ", ".join(
        f"{pipe} {clocks / most:.0%}" if clocks is not None else f"{pipe} unknown"
        for pipe, clocks in limit["clocks"].items()
        if pipe != limit["bottleneck"]
    )
    return Cell(f"{limit['bottleneck']}, {rate}", others)


def _traffic(moved: Data | None) -> Cell:
    if moved is None:
        return NOTHING
    if moved["error"]:
        return Cell("failed", moved["error"].splitlines()[0], alarm=True)
    if moved["ratio"] is None:
        return NOTHING
    return Cell(f"{moved['ratio']:.3f}×", f"each byte once: {moved['unique_ratio']:.3f}×")


def _tiles(moved: Data | None) -> Cell:
    if moved is None or moved["error"] or moved["minimum_dots"] is None:
        return NOTHING
    return Cell(
        f"{moved['dots']} / {moved['minimum_dots']}", alarm=moved["dots"] > moved["minimum_dots"]
    )


def goals_of(one: Data, moved: Data | None) -> Iterator[tuple[str, float, float | None]]:
    """Name, goal and figure of every goal that the case is held to."""
    reached = {
        "per_unit": one["per_unit"],
        "traffic": moved["ratio"] if moved and not moved["error"] else None,
        "unique": moved["unique_ratio"] if moved and not moved["error"] else None,
        "masked": max(_others(one).values(), default=None),
    }
    for name, goal in one["goal"].items():
        yield name, goal, reached.get(name)


def _goals(one: Data, moved: Data | None) -> Cell:
    texts, missed = [], False
    for name, goal, value in goals_of(one, moved):
        met = value is not None and value <= goal
        missed |= not met
        mark = "unknown" if value is None else "✓" if met else f"✕ {value:.3g}"
        texts.append(f"{name.replace('_', ' ')} ≤ {goal:g} {mark}")
    return Cell("; ".join(texts), alarm=missed) if texts else NOTHING


def registers_of(one: Data) -> str:
    return f"{one['registers']} / {one['spilled_bytes']}"
