"""The gate: kernels' figures against a committed baseline, so that none gets worse unseen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctxsweep_kernels.static.devices import limits_of
from ctxsweep_kernels.static.figures import Figures
from ctxsweep_kernels.static.occupancy import occupancy
from ctxsweep_kernels.static.traffic import Traffic

BASELINE = Path(__file__).with_name("baseline.json")
ARCHS = ("sm_80", "sm_90", "sm_100", "gfx942")
MORE_INSTRUCTIONS = 1.03
LESS_WIDE = 0.005
MORE_BYTES = 1.005
RENEW = "if this is meant, renew the baseline: ctxsweep kernels --renew"


class MixedBaseline(ValueError):
    """A baseline would hold figures of two Triton versions."""


@dataclass(frozen=True)
class Worse:
    """One figure that got worse."""

    case: str
    arch: str
    what: str

    def __str__(self) -> str:
        return f"{self.case} on {self.arch}: {self.what}"


def baseline_of(
    triton: str, figures: Sequence[Figures], traffic: dict[str, Traffic]
) -> dict[str, Any]:
    """What a baseline keeps; kernels that do not compile are kept as their error's first line."""
    cases: dict[str, dict[str, Any]] = {}
    for one in figures:
        cases.setdefault(one.key, {})[one.arch] = _kept(one)
    moved = {
        name: {"moved_bytes": one.moved, "dots": one.dots}
        for name, one in traffic.items()
        if not one.error
    }
    return {"triton": triton, "cases": cases, "traffic": moved}


def read_baseline(path: Path = BASELINE) -> dict[str, Any]:
    """The committed baseline; an empty one if there is none."""
    if not path.exists():
        return {"triton": None, "cases": {}, "traffic": {}}
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def write_baseline(now: dict[str, Any], everything: bool, path: Path = BASELINE) -> None:
    """Write `now`; what was not judged, cases or architectures, is kept as it is.

    everything: all cases were judged, so that those of the old baseline that are gone go.

    Raises:
        MixedBaseline: what would be kept is of another Triton version.
    """
    if not everything:
        old = read_baseline(path)
        if other_version(now, old) is not None:
            raise MixedBaseline(
                f"the baseline is of Triton {old['triton']} and this is {now['triton']}: "
                "renew all of it, without --case, --device and --arch"
            )
        now = now | {part: _merged(old[part], now[part]) for part in ("cases", "traffic")}
    text = json.dumps(now, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def worse(
    now: dict[str, Any], was: dict[str, Any], archs: Sequence[str], everything: bool = True
) -> list[Worse]:
    """What got worse from `was` to `now`, both made by `baseline_of`.

    Machine code is compared on `archs`, and only if both are of one Triton version: see
    `other_version`. Traffic, which is counted in the interpreter, always is.
    """
    found: list[Worse] = []
    if other_version(now, was) is None:
        for case, by_arch in now["cases"].items():
            for arch in (a for a in by_arch if a in archs):
                before = was["cases"].get(case, {}).get(arch)
                if before is None:
                    found.append(Worse(case, arch, "is not in the baseline"))
                    continue
                found += [Worse(case, arch, what) for what in _worse(by_arch[arch], before)]
        gone = was["cases"].keys() - now["cases"].keys() if everything else ()
        found += [Worse(case, "all", "is in the baseline and no longer judged") for case in gone]
    for case, moved in now["traffic"].items():
        if before := was["traffic"].get(case):
            found += [Worse(case, "any", what) for what in _more_traffic(moved, before)]
    uncounted = (was["traffic"].keys() & now["cases"].keys()) - now["traffic"].keys()
    found += [Worse(case, "any", "its traffic is no longer counted") for case in sorted(uncounted)]
    return found


def other_version(now: dict[str, Any], was: dict[str, Any]) -> str | None:
    """A remark where the baseline is of another Triton, whose machine code is not comparable."""
    if now["triton"] == was["triton"] or was["triton"] is None:
        return None
    return (
        f"the baseline is of Triton {was['triton']} and this is {now['triton']}: machine code is "
        "not compared, only traffic; ctxsweep kernels --renew makes a baseline for this version"
    )


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    judged = {name.split("#")[0] for name in new}
    kept = {name: v for name, v in old.items() if name in new or name.split("#")[0] not in judged}
    return kept | {name: old.get(name, {}) | figures for name, figures in new.items()}


def _kept(one: Figures) -> dict[str, Any]:
    if one.error:
        return {"error": one.error.splitlines()[0][:200]}
    limits = limits_of(one.arch)
    blocks = (
        occupancy(limits, one.num_warps, one.registers, one.shared_bytes).blocks if limits else None
    )
    return {
        "registers": one.registers,
        "spilled_bytes": one.spilled_bytes,
        "shared_bytes": one.shared_bytes,
        "blocks_per_multiprocessor": blocks,
        "wide_share": _rounded(one.wide_share),
        "instructions": one.instructions,
        "per_unit": _rounded(one.per_unit),
        "loops": {loop.name: _rounded(loop.per_unit) for loop in one.loops},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _worse(now: dict[str, Any], was: dict[str, Any]) -> Iterator[str]:
    if "error" in now:
        if "error" not in was:
            yield f"no longer compiles: {now['error']}"
        return
    if "error" in was:
        return
    if now["spilled_bytes"] > was["spilled_bytes"]:
        yield f"spills {was['spilled_bytes']} → {now['spilled_bytes']} bytes a thread"
    if (now["wide_share"] or 0) < (was["wide_share"] or 0) - LESS_WIDE:
        share = now["wide_share"] or 0.0
        yield f"bytes in 16-byte or TMA loads {was['wide_share']:.1%} → {share:.1%}"
    if (now["blocks_per_multiprocessor"] or 0) < (was["blocks_per_multiprocessor"] or 0):
        yield (
            f"blocks that fit on a multiprocessor {was['blocks_per_multiprocessor']} → "
            f"{now['blocks_per_multiprocessor']} ({was['registers']} → {now['registers']} "
            f"registers, {was['shared_bytes']} → {now['shared_bytes']} B shared)"
        )
    if len(now["loops"]) != len(was["loops"]):
        yield f"loops {_listed(was['loops'])} → {_listed(now['loops'])}"
    for name, cost in now["loops"].items():
        yield from _dearer(
            f"warp instructions for a unit in loop {name}", cost, was["loops"].get(name)
        )
    yield from _dearer("warp instructions for a unit on average", now["per_unit"], was["per_unit"])
    if now["per_unit"] is None:
        yield from _dearer("instructions", now["instructions"], was["instructions"])


def _dearer(what: str, now: float | None, was: float | None) -> Iterator[str]:
    if now is None and was:
        yield f"{what} {was:g} → unknown"
    elif now is not None and was and now > was * MORE_INSTRUCTIONS:
        yield f"{what} {was:g} → {now:g} (+{now / was - 1:.1%})"


def _listed(loops: dict[str, Any]) -> str:
    return f"{len(loops)} ({', '.join(loops) or 'none'})"


def _more_traffic(now: dict[str, int], was: dict[str, int]) -> Iterator[str]:
    if now["moved_bytes"] > was["moved_bytes"] * MORE_BYTES:
        yield f"bytes moved {was['moved_bytes']} → {now['moved_bytes']}"
    if now["dots"] > was["dots"]:
        yield f"tiles multiplied {was['dots']} → {now['dots']}"
