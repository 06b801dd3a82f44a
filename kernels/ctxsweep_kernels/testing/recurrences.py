"""What every recurrent op promises, as checks that the tests of each op run.

The oracle is the token loop in float64, the budget what the same loop loses in float32 (see
`ctxsweep_kernels.testing`). Work space is poisoned with NaN, so a value that is read before it is
written shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ctxsweep_kernels.testing import budget

Result = tuple[torch.Tensor, torch.Tensor]
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recurrence:
    """An op and its oracle, both called with the same named arguments.

    `sequences` names the arguments `[B, T, ...]`; the state, `[B, ...]`, is named `state`, and
    all others are parameters without a batch.
    """

    op: Callable[..., Result]
    reference: Callable[..., Result]
    sequences: tuple[str, ...]

    def tokens(self, inputs: Inputs, span: slice) -> Inputs:
        """The same call over some of its tokens."""
        return {n: t[:, span] if n in self.sequences else t for n, t in inputs.items()}

    def row(self, inputs: Inputs, index: int) -> Inputs:
        """The same call for one sequence of the batch."""
        batched = (*self.sequences, "state")
        return {n: t[index : index + 1] if n in batched else t for n, t in inputs.items()}

    def narrowed(self, inputs: Inputs, dtype: torch.dtype) -> Inputs:
        """The same call with its sequences in another dtype."""
        return {n: t.to(dtype) if n in self.sequences else t for n, t in inputs.items()}


def assert_within_budget(
    actual: torch.Tensor, exact: torch.Tensor, reference: torch.Tensor
) -> None:
    """Hold a result against the budget that the plain loop's error and its own dtype allow."""
    assert actual.shape == exact.shape, f"{list(actual.shape)} is not {list(exact.shape)}"
    allowed = budget(exact, reference, actual.dtype)
    error = (actual.double() - exact).abs().max().item()
    assert error <= allowed, f"error {error:.3e} is above the budget {allowed:.3e}"  # NaN fails


def assert_matches(recurrence: Recurrence, inputs: Inputs, result: Result) -> None:
    """Hold (y, new state) against the float64 token loop over the same inputs."""
    oracle = recurrence.reference(**{n: t.double() for n, t in inputs.items()})
    loop = recurrence.reference(**{n: t.float() for n, t in inputs.items()})
    for got, true, plain in zip(result, oracle, loop, strict=True):
        assert_within_budget(got, true, plain.to(got.dtype))


def check_oracle(recurrence: Recurrence, inputs: Inputs, **options: object) -> None:
    """The op agrees with the oracle, keeps the dtypes, and leaves its arguments as they were."""
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    with poisoned_memory():
        y, state = recurrence.op(**inputs, **options)
    assert y.dtype == inputs[recurrence.sequences[0]].dtype
    assert state.dtype == inputs["state"].dtype
    assert state.is_contiguous()
    for name, tensor in inputs.items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"
    assert_matches(recurrence, inputs, (y, state))


def check_split(recurrence: Recurrence, inputs: Inputs, cuts: list[int], **options: object) -> None:
    """Feeding the tokens in pieces, with the state carried, is the same as feeding them at once."""
    outputs, state = [], inputs["state"]
    edges = [0, *sorted(cuts), inputs[recurrence.sequences[0]].shape[1]]
    for start, stop in pairwise(edges):
        piece = recurrence.tokens(inputs, slice(start, stop)) | {"state": state}
        y, state = recurrence.op(**piece, **options)
        outputs.append(y)
    assert_matches(recurrence, inputs, (torch.cat(outputs, dim=1), state))


def check_batch(recurrence: Recurrence, inputs: Inputs, **options: object) -> None:
    """Every row of a batch is what that sequence gives alone."""
    y, state = recurrence.op(**inputs, **options)
    for index in range(state.shape[0]):
        alone = recurrence.row(inputs, index)
        assert_matches(recurrence, alone, (y[index : index + 1], state[index : index + 1]))
        assert_matches(recurrence, alone, recurrence.op(**alone, **options))


def check_strided(recurrence: Recurrence, inputs: Inputs, **options: object) -> None:
    """Arguments that are views with any strides give the same result."""
    strided = {name: spread(tensor) for name, tensor in inputs.items()}
    with poisoned_memory():
        assert_matches(recurrence, inputs, recurrence.op(**strided, **options))


def check_memory(recurrence: Recurrence, inputs: Inputs, **options: object) -> None:
    """However long the sequence, no tensor is made that is larger than y."""
    with LargestTensor() as seen:
        y, _ = recurrence.op(**inputs, **options)
    largest = max(seen.sizes)
    assert largest <= y.untyped_storage().nbytes(), f"a tensor of {largest} bytes was made"


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """The same values as a view with a gap between entries and its dimensions in reverse order."""
    order = tuple(reversed(range(tensor.ndim)))
    gapped = tensor.permute(order)[..., None].repeat_interleave(2, -1)[..., 0]
    return gapped.permute(order)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every `torch.empty` inside starts as NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class LargestTensor(TorchDispatchMode):
    """Notes the storage size in bytes of every tensor that an op returns."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in given:
                self.sizes.append(storage.nbytes())
        return result
