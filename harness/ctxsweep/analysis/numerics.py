"""Whether engines that run the same model with the same weights compute the same."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ctxsweep.analysis.summary import NumericsCheck
from ctxsweep.records import Probe, Record, Series

# Root mean square of the difference of logits over their spread. About eight times what models of
# 2 to 8 layers with random weights show against float32 (docs/measurement.md).
ALLOWED = {
    "float32": 1e-4,
    "float16": 0.005,
    "bfloat16": 0.04,
    "int8": 0.003,
    "fp8_e4m3": 0.012,
    "fp8_e5m2": 0.025,
}
_EXACT_FIRST = ("float32", "float16", "bfloat16", "int8", "fp8_e4m3", "fp8_e5m2")


def numerics_checks(records: Iterable[Record]) -> tuple[NumericsCheck, ...]:
    """One check for every series whose model another series runs too, with the same weights.

    The reference of a model is the series in the widest dtype with finite logits, of those the
    first measured. Where the reference is not all in float32, its own rounding is allowed for too.
    An engine that does not tell its weights is not compared.
    """
    groups: dict[str, dict[str, tuple[Series, Probe]]] = defaultdict(dict)
    for record in records:
        if record.probe is not None and record.engine.get("weights") is not None:
            series = record.cell.series
            groups[_same(record, record.probe)].setdefault(series.name, (series, record.probe))
    checks = []
    for group in groups.values():
        if len(group) < 2:
            continue
        reference = min(group, key=lambda name: _rank(*group[name]))
        checks += [_check(group, name, reference) for name in group]
    return tuple(checks)


def _same(record: Record, probe: Probe) -> str:
    """What two series must share to be comparable: model, weights, positions and prompt."""
    series = record.cell.series
    rope = None if series.rope is None else series.rope.model_dump()
    weights, prompt = record.engine["weights"], (probe.tokens, probe.vocabulary)
    seen = (series.window, series.sinks)
    return json.dumps([series.model, seen, rope, weights, prompt], sort_keys=True)


def _kinds(series: Series) -> tuple[str, str]:
    return series.dtype, series.dtype if series.kv_dtype == "auto" else series.kv_dtype


def _rank(series: Series, probe: Probe) -> tuple[bool, *tuple[int, ...]]:
    """The least is the reference."""
    return None in probe.logits, *(_EXACT_FIRST.index(kind) for kind in _kinds(series))


def _allowed(series: Series) -> float:
    return max(ALLOWED[kind] for kind in _kinds(series))


def _logits(probe: Probe) -> npt.NDArray[np.float64]:
    return np.array(probe.logits, dtype=np.float64)  # None becomes NaN


def _check(group: dict[str, tuple[Series, Probe]], name: str, reference: str) -> NumericsCheck:
    (series, probe), (against, wanted) = group[name], group[reference]
    difference = _logits(probe) - _logits(wanted)
    allowed = _allowed(series)
    if name != reference and set(_kinds(against)) != {"float32"}:
        allowed += _allowed(against)
    # Logits that are all the same have no spread: then any difference is too large.
    spread = wanted.spread or float(np.finfo(np.float32).tiny)
    rms = float(np.sqrt(np.mean(difference**2))) / spread
    finite = bool(np.isfinite(difference).all())
    return NumericsCheck(
        series=name,
        reference=reference,
        largest_difference=float(np.abs(difference).max()) if finite else None,
        relative_difference=rms if finite else None,
        allowed=allowed,
        agrees=finite and rms <= allowed,
    )
