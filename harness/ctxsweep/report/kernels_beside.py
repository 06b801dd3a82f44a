"""Other libraries' kernels beside ours: rows from the plain data of the kernels' bench."""

from __future__ import annotations

from ctxsweep.report.kernels_table import KIB, Data, registers_of, steady_loop


def ratio_rows(data: Data) -> list[tuple[str, ...]]:
    """Ours beside every other library's kernel: case, against, arch, figures, ratios."""
    ours = {(one["case"], one["arch"]): one for one in data["figures"] if one["launch"] == 0}
    theirs = {(one["case"], one["arch"]): one for one in data["against"]}
    found = []
    for pair in data["ratios"]:
        a = ours[pair["case"], pair["arch"]]
        b = theirs[pair["against"], pair["arch"]]
        found.append(
            (
                pair["case"],
                pair["against"],
                pair["arch"],
                _both(_steady_value(a), _steady_value(b)),
                _ratio(pair["steady"]),
                _both(a["per_unit"], b["per_unit"]),
                _ratio(pair["average"]),
                _both(registers_of(a), registers_of(b)),
                _both(_percent(a["wide_share"]), _percent(b["wide_share"])),
            )
        )
    return found


RATIO_TITLES = (
    "ours",
    "against",
    "arch",
    "steady, ours : theirs",
    "ratio",
    "average, ours : theirs",
    "ratio",
    "registers / spilled",
    "wide loads",
)


def rival_rows(data: Data) -> list[tuple[str, ...]]:
    """The other libraries' kernels by themselves."""
    found = []
    for one in data["against"]:
        if one["error"]:
            error = one["error"].strip().splitlines()[0]
            found.append((one["case"], one["arch"], error, "", "", "", ""))
            continue
        found.append(
            (
                one["case"],
                one["arch"],
                registers_of(one),
                f"{one['shared_bytes'] / KIB:.4g} KiB",
                _number(_steady_value(one)),
                f"{_number(one['per_unit'])} per {one['unit']}",
                _number(_percent(one["wide_share"])),
            )
        )
    return found


RIVAL_TITLES = (
    "kernel",
    "arch",
    "registers / spilled",
    "shared",
    "steady",
    "average",
    "wide loads",
)


def _steady_value(one: Data) -> float | None:
    loop = steady_loop(one)
    return loop["per_unit"] if loop else None


def _number(value: float | str | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _both(a: float | str | None, b: float | str | None) -> str:
    return f"{_number(a)} : {_number(b)}"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}×"
