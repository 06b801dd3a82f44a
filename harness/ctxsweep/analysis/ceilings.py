"""Several readings of one machine's ceilings, taken together."""

from __future__ import annotations

from collections.abc import Sequence

from ctxsweep.records import Ceilings


def highest(seen: Sequence[Ceilings]) -> Ceilings | None:
    """The highest rates of several readings on one device with as many threads; None of none.

    A child measures for a moment only, and one that was disturbed then reads too low. Raises
    ``ValueError`` if they are of several devices or numbers of threads.
    """
    if not seen:
        return None
    kinds = sorted({kind_of(c) for c in seen})
    if len(kinds) > 1:
        words = ", ".join(f"{device} with {threads} threads" for device, threads in kinds)
        raise ValueError(f"ceilings of {words}, not of one kind")
    rates: dict[str, float] = {}
    for ceilings in seen:
        for dtype, rate in ceilings.matmul_flops_per_s.items():
            rates[dtype] = max(rate, rates.get(dtype, 0.0))
    read = max(c.read_bytes_per_s for c in seen)
    return seen[0].model_copy(update={"matmul_flops_per_s": rates, "read_bytes_per_s": read})


def kind_of(ceilings: Ceilings) -> tuple[str, int]:
    """What readings must have in common: device and threads."""
    return ceilings.device, ceilings.threads
