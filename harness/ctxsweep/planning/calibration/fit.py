"""Speeds fitted to measured cells, and how far they miss cells that the fit has not seen.

Least squares on relative errors with nothing negative: each cell's bound is taken off its time, and
what is left is spread over the parts, so that no share of a ceiling can exceed 1. Cells far off the
others count for less (Huber's weights, J. Ann. Math. Stat. 35, 1964), since a machine that was
disturbed for a moment is slow, not different. Parts that the cells cannot tell apart, such as
weights and calls where all models of a group are of one size, are pulled weakly to their bound.

A rung of a ladder is a climb through all rungs below, so that the prefill of a whole context would
show a fit what it is to be judged on. Prefill is fitted and judged on what each rung adds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

from ctxsweep.analysis.ceilings import highest
from ctxsweep.analysis.predicted import PREDICTED, Errors, PredictedMetric
from ctxsweep.planning.calibration.calibration import (
    Calibration,
    Group,
    Measured,
    ProcessMemory,
    call_tokens,
)
from ctxsweep.planning.calibration.code_path import CodePath, code_path
from ctxsweep.planning.calibration.observed import Observed, Run
from ctxsweep.planning.calibration.speeds import (
    PARTS,
    BadCalibration,
    Columns,
    Speeds,
    added_demand,
    columns,
    demand_of,
    held_bytes,
)
from ctxsweep.planning.footprint import weights_bytes
from ctxsweep.records import Ceilings

PULL = 0.1  # weight of the pull to the bound, in units of a part's mean share of a cell
ROUNDS = 12
LEAST_SCATTER = 0.02  # of relative errors
TUNING = 1.5  # scatters beyond which a cell counts for less
MIN_CONTEXTS = 2
SIZES_APART = 1.5  # factor of bytes of weights from which on models count as of another size
MIN_HELD_OUT = 4
"""Contexts that a series must have for half of them to be held out."""
TOLD = 0.995  # a share above it was left at the ceiling
WHOLE = "whole_prefill"

Floats = NDArray[np.float64]
Missed = dict[str, list[float]]
"""Signed relative errors by metric: ``prefill_s`` of what a rung adds, ``WHOLE`` of all of it."""
Split = Callable[[Sequence[int]], tuple[tuple[set[int], set[int]], ...]]
"""From a series' contexts, ascending, to pairs: contexts to fit to, contexts to predict."""


def alternating(contexts: Sequence[int]) -> tuple[tuple[set[int], set[int]], ...]:
    """Every second context is fitted to and the others predicted, then the other way round."""
    odd, even = set(contexts[::2]), set(contexts[1::2])
    return (odd, even), (even, odd)


def shorter_half(contexts: Sequence[int]) -> tuple[tuple[set[int], set[int]], ...]:
    """The shorter half is fitted to, the longer predicted: what an extrapolation is worth."""
    middle = (len(contexts) + 1) // 2
    return ((set(contexts[:middle]), set(contexts[middle:])),)


def by_path(cells: Iterable[Observed], ceilings: Ceilings) -> dict[CodePath, list[Observed]]:
    """Cells that share their code; those that no calibration describes are left out."""
    groups: dict[CodePath, list[Observed]] = defaultdict(list)
    for cell in cells:
        path = code_path(cell.config, cell.deployment, cell.backend)
        known = path is not None and cell.here and path.dtype in ceilings.matmul_flops_per_s
        if path is not None and known and ("itl_s" in cell.values or cell.added_s):
            groups[path].append(cell)
    return {
        path: rows
        for path, rows in groups.items()
        if len({row.context_tokens for row in rows}) >= MIN_CONTEXTS
    }


def calibrate(
    runs: Sequence[Run], machine: str, made_at: str, commit: str | None, *, hold_out: bool = True
) -> Calibration:
    """The speeds of a machine from its runs, fitted to all cells.

    With ``hold_out`` the errors on what was not seen come first, in all and by code path: each half
    of the contexts predicted by a fit of the other half, and the longer half by one of the shorter.
    The peak of a process carries over to all later rungs, so that only the latter says anything of
    it. Raises ``BadCalibration``.
    """
    try:
        ceilings = highest([run.ceilings for run in runs if run.ceilings is not None])
    except ValueError as error:
        raise BadCalibration(f"{error}; calibrate them apart, each with --out FILE") from None
    names = ", ".join(run.run_id for run in runs)
    if ceilings is None:
        raise BadCalibration(f"{names}: {runs[0].problem}; another run may do")
    paths = by_path((cell for run in runs for cell in run.cells), ceilings)
    if not paths:
        raise BadCalibration(
            f"{names}: no series was measured at {MIN_CONTEXTS} contexts or more, which a fit "
            "needs; a run that has them: ctxsweep run long_ctx"
        )
    groups, alternated, extrapolated, sizes = [], [], [], []
    for path, rows in paths.items():
        group = fit_group(path, rows, ceilings)
        if hold_out:
            later = unseen(path, rows, ceilings, shorter_half)
            each = unseen(path, rows, ceilings, alternating)
            if any(row.rung for row in rows):
                each.pop("process_peak_bytes", None)
                each |= {k: v for k, v in later.items() if k == "process_peak_bytes"}
            alternated.append(each)
            extrapolated.append(later)
            sizes.append(other_sizes(path, rows, ceilings))
            group = group.model_copy(update={"held_out": summed([each])})
        groups.append(group)
    whole = [error for part in alternated for error in part.get(WHOLE, ())]
    return Calibration(
        machine=machine,
        ceilings=ceilings.model_copy(update={"by_threads": {}}),
        made_at=made_at,
        commit=commit,
        runs=tuple(run.run_id for run in runs),
        held_out=summed(alternated),
        whole_prefill=Errors.of(whole),
        longer=summed(extrapolated),
        sizes=summed(sizes),
        groups=tuple(groups),
    )


def fit_group(path: CodePath, rows: Sequence[Observed], ceilings: Ceilings) -> Group:
    """One code path's speeds and memory, with its errors on these very cells."""
    speeds, untold = _speeds(rows, ceilings)
    group = Group(
        path=path,
        speeds=speeds,
        untold=untold,
        memory=_memory(rows),
        measured=_measured(rows),
    )
    return group.model_copy(update={"fitted": summed([missed(group, rows, ceilings)])})


def unseen(path: CodePath, rows: Sequence[Observed], ceilings: Ceilings, split: Split) -> Missed:
    """Errors on contexts that the fit has not seen; empty where a series has too few."""
    contexts: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        contexts[row.series].add(row.context_tokens)
    splits = {name: split(sorted(n)) for name, n in contexts.items() if len(n) >= MIN_HELD_OUT}
    rows = [row for row in rows if row.series in splits]
    found: Missed = defaultdict(list)
    for turn in range(len(next(iter(splits.values()), ()))):
        seen = [row for row in rows if row.context_tokens in splits[row.series][turn][0]]
        left = [row for row in rows if row.context_tokens in splits[row.series][turn][1]]
        for metric, errors in missed(fit_group(path, seen, ceilings), left, ceilings).items():
            found[metric] += errors
    return dict(found)


def other_sizes(path: CodePath, rows: Sequence[Observed], ceilings: Ceilings) -> Missed:
    """Errors on the models of each size by a fit of the others; empty where all are of one."""
    by_size: list[list[Observed]] = []
    last = 0
    for row in sorted(rows, key=_size):
        if _size(row) > SIZES_APART * last:
            by_size.append([])
        by_size[-1].append(row)
        last = _size(row)
    found: Missed = defaultdict(list)
    for left in by_size if len(by_size) > 1 else ():
        seen = [row for rows in by_size if rows is not left for row in rows]
        for metric, errors in missed(fit_group(path, seen, ceilings), left, ceilings).items():
            found[metric] += errors
    return dict(found)


def _size(row: Observed) -> int:
    return weights_bytes(row.config, row.deployment)


def missed(group: Group, rows: Iterable[Observed], ceilings: Ceilings) -> Missed:
    """How far the group's predictions of cells lie off."""
    found: Missed = defaultdict(list)
    for row in rows:
        for metric in PREDICTED:
            value = row.values.get(metric)
            said = group.predict(metric, row.config, row.deployment, row.context_tokens, ceilings)
            if value is not None and said is not None:
                found[WHOLE if metric == "prefill_s" else metric].append(said / value - 1)
        if row.added_s:
            said = group.speeds.seconds(_added(row, ceilings))
            found["prefill_s"].append(said / row.added_s - 1)
    return dict(found)


def _added(row: Observed, ceilings: Ceilings) -> Columns:
    """The parts of the prefill that a cell adds to the one before."""
    asked = added_demand(row.config, row.deployment, row.begins_tokens, row.context_tokens)
    return columns(row.config, row.deployment, asked, ceilings)


def summed(
    parts: Iterable[Mapping[str, Sequence[float]]],
) -> dict[PredictedMetric, Errors]:
    """Errors by metric over several groups."""
    found: Missed = defaultdict(list)
    for part in parts:
        for metric, errors in part.items():
            found[metric] += errors
    told = {metric: Errors.of(found[metric]) for metric in PREDICTED if metric in found}
    return {metric: errors for metric, errors in told.items() if errors is not None}


def _speeds(rows: Sequence[Observed], ceilings: Ceilings) -> tuple[Speeds, tuple[str, ...]]:
    """Fitted speeds, and the shares that the cells do not tell from the overhead."""
    parts, times = [], []
    for row in rows:
        if "itl_s" in row.values:
            asked = demand_of("itl_s", row.config, row.deployment, row.context_tokens)
            parts.append(columns(row.config, row.deployment, asked, ceilings))
            times.append(row.values["itl_s"])
        if row.added_s:
            parts.append(_added(row, ceilings))
            times.append(row.added_s)
    # As shares of each cell's time; the first column, calls, is in milliseconds.
    shares = np.array(parts) * np.array([1e-3, 1, 1, 1, 1]) / np.array(times)[:, None]
    bound = np.array([0.0, 1, 1, 1, 1])
    besides = robust_nnls(shares, 1 - shares @ bound, np.array([0, PULL, PULL, PULL, PULL]))
    found = dict(zip(PARTS, (1 / (1 + besides[1:])).tolist(), strict=True))
    there = dict(zip(PARTS, shares[:, 1:].any(axis=0), strict=True))
    untold = tuple(name for name in PARTS if there[name] and found[name] > TOLD)
    return Speeds(call_s=besides[0] * 1e-3, **found), untold


def _memory(rows: Sequence[Observed]) -> ProcessMemory | None:
    told = [row for row in rows if "process_peak_bytes" in row.values]
    if len({row.context_tokens for row in told}) < MIN_CONTEXTS:
        return None
    peak = np.array([row.values["process_peak_bytes"] for row in told])
    held = np.array([held_bytes(r.config, r.deployment, r.context_tokens) for r in told])
    tokens = np.array([r.context_tokens * r.deployment.batch_size for r in told])
    mib = 2.0**20
    shares = np.stack([mib / peak, tokens / peak], axis=1)
    base, per_token = robust_nnls(shares, 1 - held / peak, np.zeros(2))
    return ProcessMemory(base_bytes=base * mib, bytes_per_token=per_token)


def robust_nnls(parts: Floats, wanted: Floats, pull: Floats) -> Floats:
    """Factors of the columns of ``parts`` [N, K], none negative, whose sum comes near ``wanted``.

    ``pull`` [K] draws a factor to 0, by its weight times the column's mean.
    """
    draw = np.diag(pull * parts.mean(axis=0))
    weight = np.ones(len(wanted))
    for _ in range(ROUNDS):
        rows = np.vstack([parts * weight[:, None], draw])
        found, _ = nnls(rows, np.concatenate([wanted * weight, np.zeros(len(pull))]))
        off = np.abs(parts @ found - wanted)
        scatter = max(1.4826 * float(np.median(off)), LEAST_SCATTER)
        weight = np.sqrt(1 / np.maximum(1, off / (TUNING * scatter)))
    return np.asarray(found, dtype=float)


def _measured(rows: Sequence[Observed]) -> Measured:
    contexts = [row.context_tokens for row in rows]
    batches = [row.deployment.batch_size for row in rows]
    weights = [_size(row) for row in rows]
    calls = [call_tokens(row.deployment, row.context_tokens) for row in rows if row.added_s]
    return Measured(
        models=tuple(dict.fromkeys(row.config.name for row in rows)),
        contexts=(min(contexts), max(contexts)),
        batch_sizes=(min(batches), max(batches)),
        weights_bytes=(min(weights), max(weights)),
        call_tokens=(min(calls, default=0), max(calls, default=0)),
        cells=len(rows),
    )
