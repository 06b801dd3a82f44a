"""Which implementation of an op runs: asked for by name, or the best one that is there.

A choice is never replaced in silence: asking for an implementation that an op does not have
is an error, so that a timing always belongs to the code that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Impl = Literal["auto", "torch", "triton"]


class UnsupportedImplementation(ValueError):
    """The implementation asked for does not exist for this op, or cannot run here."""


def choose(impl: Impl, *, available: Sequence[str] = ("torch",)) -> str:
    """Name the implementation to run.

    `available` lists what the op can run on these tensors, best first; `"auto"` takes the first.

    Raises:
        UnsupportedImplementation: `impl` is not among `available`.
        ValueError: `impl` is not a name that any op knows.
    """
    if impl == "auto":
        return available[0]
    if impl not in get_args(Impl):
        raise ValueError(f"impl={impl!r} is unknown; use one of {', '.join(get_args(Impl))}")
    if impl not in available:
        raise UnsupportedImplementation(
            f"impl={impl!r} is not available for this op on these tensors; "
            f"available: {', '.join(available)} (or 'auto')"
        )
    return impl
