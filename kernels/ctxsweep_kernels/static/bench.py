"""Judge cases on architectures, in several processes; somebody else's kernels beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from multiprocessing import get_context
from typing import Any

from ctxsweep_kernels.static.against import Rival
from ctxsweep_kernels.static.bound import Bound, bound
from ctxsweep_kernels.static.case import Case
from ctxsweep_kernels.static.devices import Device
from ctxsweep_kernels.static.figures import Figures, judge
from ctxsweep_kernels.static.occupancy import Occupancy, occupancy
from ctxsweep_kernels.static.table import all_cases
from ctxsweep_kernels.static.traffic import Traffic, count_in_process

Progress = Callable[[Figures], None]


@dataclass(frozen=True)
class Pairing:
    """One of our cases beside a rival, on one architecture; ratios below 1 are ours being less.

    steady, average: warp instructions for a unit of work, ours over theirs.
    """

    ours: Figures
    theirs: Figures
    steady: float | None
    average: float | None


@dataclass(frozen=True)
class Report:
    """All that a run of the bench found; figures in the order of the cases, then architectures.

    problems: what could not be judged at all, by the name of the op or the case.
    """

    triton: str
    figures: list[Figures]
    traffic: dict[str, Traffic] = field(default_factory=dict)
    rivals: list[Figures] = field(default_factory=list)
    beside: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def pairings(self) -> list[Pairing]:
        """Every rival beside every case of ours that its `beside` names."""
        return [
            _pair(ours, theirs)
            for theirs in self.rivals
            for ours in self.figures
            if ours.launch == 0
            and ours.arch == theirs.arch
            and not (ours.error or theirs.error)
            and fnmatchcase(ours.case, self.beside[theirs.case])
        ]

    def to_json(self, devices: Sequence[Device] = ()) -> dict[str, Any]:
        """Plain data, for a file; with what each device makes of a kernel."""
        return {
            "triton": self.triton,
            "figures": [
                one.to_json()
                | {"devices": {d.name: _on(one, d) for d in devices if d.arch == one.arch}}
                for one in self.figures
            ],
            "traffic": {
                name: one.to_json() | {"ratio": one.ratio, "unique_ratio": one.unique_ratio}
                for name, one in self.traffic.items()
            },
            "against": [one.to_json() | {"beside": self.beside[one.case]} for one in self.rivals],
            "ratios": [
                {
                    "case": pair.ours.case,
                    "against": pair.theirs.case,
                    "arch": pair.ours.arch,
                    "steady": pair.steady,
                    "average": pair.average,
                }
                for pair in self.pairings()
            ],
            "problems": self.problems,
        }


def run(
    cases: Sequence[str],
    archs: Sequence[str],
    rivals: Sequence[Rival] = (),
    workers: int | None = None,
    progress: Progress | None = None,
    traffic: bool = True,
) -> Report:
    """Judge cases of the table by name, and rivals, on every architecture.

    Kernels are imported in processes of their own, without TRITON_INTERPRET. One kernel that does
    not compile is a row with an error.
    """
    import triton

    names = set(cases)
    known = all_case_names()
    tasks: list[tuple[str | Rival, str]] = [
        (one, arch) for one in (*cases, *rivals) for arch in archs
    ]
    results: dict[int, list[Figures]] = {}
    with ProcessPoolExecutor(
        workers or os.cpu_count(), mp_context=get_context("spawn"), initializer=_compiling
    ) as pool:
        waiting = {pool.submit(_judge, *task): place for place, task in enumerate(tasks)}
        for done in as_completed(waiting):
            results[waiting[done]] = done.result()
            for one in done.result():
                if progress is not None:
                    progress(one)
    ordered = [one for place in range(len(tasks)) for one in results[place]]
    counted = count_in_process([name for name in known if name in names]) if traffic else []
    return Report(
        triton=triton.__version__,
        figures=[one for one in ordered if one.case in names],
        traffic={row.case: row for row in counted},
        rivals=[one for one in ordered if one.case not in names],
        beside={rival.name: rival.beside for rival in rivals},
    )


def all_case_names() -> list[str]:
    """Names of the cases of the table, in its order."""
    return [case.name for case in all_cases().cases]


def occupancy_on(figures: Figures, device: Device) -> Occupancy | None:
    """Occupancy of a kernel on a device; None where it did not compile."""
    if figures.error:
        return None
    return occupancy(device.limits, figures.num_warps, figures.registers, figures.shared_bytes)


def bound_on(figures: Figures, device: Device) -> Bound | None:
    """Bound of a kernel on a device; None where it did not compile or its work is not known."""
    return None if figures.error else bound(figures, device)


def _pair(ours: Figures, theirs: Figures) -> Pairing:
    mine, other = ours.steady, theirs.steady
    steady = (
        mine.per_unit / other.per_unit
        if mine and other and mine.per_unit and other.per_unit
        else None
    )
    average = ours.per_unit / theirs.per_unit if ours.per_unit and theirs.per_unit else None
    return Pairing(ours, theirs, steady, average)


def _on(figures: Figures, device: Device) -> dict[str, Any]:
    held, limit = occupancy_on(figures, device), bound_on(figures, device)
    return {
        "occupancy": vars(held) if held else None,
        "bound": vars(limit) if limit else None,
    }


def _compiling() -> None:
    os.environ.pop("TRITON_INTERPRET", None)


@cache
def _cases() -> dict[str, Case]:
    return {case.name: case for case in all_cases().cases}


def _judge(subject: str | Rival, arch: str) -> list[Figures]:
    if isinstance(subject, str):
        return judge(_cases()[subject], arch)
    try:
        case = subject.case()
    except Exception as problem:  # one rival that cannot be had is a row, never the end
        return [Figures(subject.name, subject.kernel, 0, arch, error=str(problem))]
    return [one for one in judge(case, arch) if one.launch == 0]
