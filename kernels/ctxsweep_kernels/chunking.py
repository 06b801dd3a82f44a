"""What the chunked recurrences share: how a span of tokens is cut, and what their arguments are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch

LOG2E = math.log2(math.e)  # decays are kept in powers of two: exp2 is the cheaper function

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_BLOCKS = 65535  # along any axis of a CUDA grid but the first


def whole_and_tail(tokens: int, chunk: int) -> Iterator[tuple[slice, int]]:
    """Cut `tokens` into the span of whole chunks and the ragged tail, as (span, chunk length).

    The tail is one shorter chunk, so nothing is padded and no token that is not there can
    touch the state.
    """
    whole = tokens - tokens % chunk
    if whole:
        yield slice(0, whole), chunk
    if whole < tokens:
        yield slice(whole, tokens), tokens - whole


def scratch_like(state: torch.Tensor) -> partial[torch.Tensor]:
    """Make `torch.empty` for work space of the state's dtype and device, always contiguous.

    Work space is allocated once per call and written with `out=`: a fresh tensor for every
    chunk costs more in page faults than the arithmetic that fills it.
    """
    return partial(torch.empty, dtype=state.dtype, device=state.device)


def check_shapes(op: str, **arguments: tuple[torch.Tensor | None, str]) -> dict[str, int]:
    """Bind dimension names such as `"B T H P"` to sizes; an absent (`None`) argument is skipped.

    Raises:
        ValueError: an argument has the wrong rank, is empty, or disagrees with one before it.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, spec) in arguments.items():
        if tensor is None:
            continue
        dims, shape = spec.split(), list(tensor.shape)
        layout = f"[{', '.join(dims)}]"
        if len(dims) != len(shape):
            raise ValueError(f"{op}: {name} must be {layout}, got shape {shape}")
        if 0 in shape:
            raise ValueError(f"{op}: {name} {layout} is empty: shape {shape}")
        expected = [sizes.setdefault(dim, size) for dim, size in zip(dims, shape, strict=True)]
        if expected != shape:
            raise ValueError(f"{op}: {name} must be {layout} = {expected}, got shape {shape}")
    return sizes


def check_state_dtype(op: str, state: torch.Tensor) -> None:
    """A carried state is float32 (or float64) whatever the inputs are; all sums are in its dtype.

    Raises:
        ValueError: the state has another dtype.
    """
    if state.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{op}: state must be float32 (or float64), got {state.dtype}")


def unfit_dtypes(**arguments: torch.Tensor | None) -> str | None:
    """Why the Triton kernels, which compute in float32, cannot take these arguments, if so."""
    for name, tensor in arguments.items():
        if tensor is not None and tensor.dtype not in KERNEL_DTYPES:
            return f"{name} is {tensor.dtype} and it computes in float32; use impl='torch'"
    return None


def unfit_sizes(sizes: dict[str, int], most_keys: int) -> str | None:
    """Why the Triton kernels of linear attention cannot take dimensions `B T H K V`, if so."""
    if sizes["K"] > most_keys:
        return f"K = {sizes['K']} and it takes at most {most_keys}; use impl='torch'"
    pairs = sizes["B"] * sizes["H"]
    if sizes["T"] > 1 and pairs > MOST_BLOCKS:
        return (
            f"B * H = {pairs} and for more than one token it takes at most {MOST_BLOCKS}; "
            "split the batch or use impl='torch'"
        )
    return None


def check_chunk(op: str, chunk: int, most: int | None = None) -> None:
    """Raise ValueError unless `chunk` is at least 1 and at most `most` tokens."""
    if chunk < 1 or (most is not None and chunk > most):
        bound = "at least 1" if most is None else f"1 to {most}"
        raise ValueError(f"{op}: chunk must be {bound}, got {chunk}")
