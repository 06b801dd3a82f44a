"""Chunked prefill in Triton over a paged cache, against a float64 softmax over the same cache.

Everything not written is NaN and pages past a window are -1, so that a read of what must not be
read shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from ctxsweep_kernels.dispatch import UnsupportedImplementation, interpreting
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.paged_prefill import paged_prefill_attention
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.sliding_window import sliding_window_attention
from ctxsweep_kernels.sliding_window.reference import rounded_weights_reference
from ctxsweep_kernels.testing import (
    RAGGED_LENGTHS,
    assert_within,
    budget,
    poisoned_cache,
    rounding_band,
    scattered_table,
)
from ctxsweep_kernels.testing.recurrences import poisoned_memory

# A soft cap saturates through exp2; rows past the end are 0 / 0, and are not stored.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")

SLOPES = torch.tensor([0.5, 0.01])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 65},
    "sinks": {"window": 64, "sinks": 70},
    "all": {"window": 200, "sinks": 5, "alibi_slopes": SLOPES, "softcap": 3.0, "scale": 0.7},
}


class Filled:
    """A cache of several rows, and the queries of all their positions."""

    def __init__(
        self,
        lengths: list[int],
        dtype: torch.dtype = torch.float32,
        cache_dtype: torch.dtype = torch.float32,
        page_size: int = 16,
        heads: int = 2,
        head_dim: int = 32,
    ) -> None:
        self.lengths = lengths
        pages = 3 + sum(-(-n // page_size) for n in lengths)
        self.cache = poisoned_cache(1, pages, page_size, head_dim, cache_dtype)
        self.table = scattered_table(lengths, page_size, pages)
        generator = torch.Generator().manual_seed(sum(lengths))

        def draw(count: int) -> torch.Tensor:
            shape = (len(lengths), count, max(lengths), head_dim)
            return torch.randn(shape, generator=generator).to(dtype)

        self.q, self.k, self.v = draw(heads), draw(1), draw(1)
        for row, n in enumerate(lengths):
            part = slice(row, row + 1), slice(None), slice(0, n)
            written = self.q[part], self.k[part], self.v[part]
            rope_append(*written, self.cache, self.table[row : row + 1], torch.tensor([0]))

    def last(self, tokens: int) -> torch.Tensor:
        """Queries of the last `tokens` positions of every row."""
        spans = [self.q[row, :, n - tokens : n] for row, n in enumerate(self.lengths)]
        return torch.stack(spans)

    def attend(self, tokens: int, device: torch.device, **options: Any) -> torch.Tensor:
        def move(x: Any) -> Any:
            return x.to(device) if isinstance(x, torch.Tensor) else x

        cache = PagedKV(move(self.cache.pages), move(self.cache.scales))
        lengths = torch.tensor(self.lengths)
        with poisoned_memory():
            return paged_prefill_attention(
                move(self.last(tokens)), cache, move(self.table), move(lengths), impl="triton",
                **{name: move(x) for name, x in options.items()},
            ).cpu()  # fmt: skip

    def check(self, tokens: int, device: torch.device, **options: Any) -> None:
        out, q = self.attend(tokens, device, **options), self.last(tokens)
        assert out.dtype == q.dtype and out.shape == q.shape
        lengths = torch.tensor(self.lengths)
        exact = paged_attention_reference(q, self.cache, self.table, lengths, **options)
        narrow = self.cache.dtype == q.dtype or self.cache.dtype.itemsize == 1
        for row, n in enumerate(self.lengths):
            # Weights are rounded to q's dtype where q and the cache are both narrow.
            k, v = gather_row(self.cache, self.table[row], n, torch.float32)
            working = q[row] if narrow else q[row].float()
            plain = rounded_weights_reference(working, k, v, n - tokens, **options).to(q.dtype)
            allowed = budget(exact[row], plain, q.dtype)
            if q.dtype == torch.bfloat16 and interpreting():  # which truncates bfloat16
                allowed += 2 * float(rounding_band(exact[row], q.dtype))
            assert_within(out[row], exact[row], allowed)


@pytest.mark.parametrize("cache_dtype", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_dtypes_and_options(
    dtype: torch.dtype, cache_dtype: torch.dtype, options: dict, device: torch.device
) -> None:
    Filled([200], dtype, cache_dtype).check(140, device, **options)


@pytest.mark.parametrize("page_size", [16, 48, 64, 128, 256])
@pytest.mark.parametrize("window", [None, 1, 64, 200])
def test_page_sizes(page_size: int, window: int | None, device: torch.device) -> None:
    Filled([400], page_size=page_size).check(90, device, window=window)


@pytest.mark.parametrize("length", RAGGED_LENGTHS)
@pytest.mark.parametrize("window", [None, 65])
def test_lengths(length: int, window: int | None, device: torch.device) -> None:
    filled = Filled([length], torch.float16, torch.float16)
    for tokens in {1, min(length, 63), length}:
        filled.check(tokens, device, window=window)


@pytest.mark.parametrize("head_dim", [16, 96, 128, 256])
def test_head_dims(head_dim: int, device: torch.device) -> None:
    for dtype in (torch.float16, torch.int8):
        filled = Filled([150], torch.float16, dtype, head_dim=head_dim)
        filled.check(100, device, window=70)


@pytest.mark.parametrize("heads", [1, 4, 8, 16])
def test_groups_and_ragged_batch(heads: int, device: torch.device) -> None:
    Filled([70, 33, 190], torch.float16, torch.float16, heads=heads).check(33, device, window=50)


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn, torch.int8], ids=str)
def test_chunks_give_what_the_whole_gives(cache_dtype: torch.dtype, device: torch.device) -> None:
    filled = Filled([300], torch.float32, cache_dtype)
    q, n = filled.q, 300
    lengths = torch.tensor([n])
    parts = []
    for first, stop in ((0, 128), (128, 129), (129, 300)):
        filled.lengths, filled.q = [stop], q[:, :, :stop]
        parts.append(filled.attend(stop - first, device, window=100, sinks=3))
    exact = paged_attention_reference(q, filled.cache, filled.table, lengths, window=100, sinks=3)
    k, v = gather_row(filled.cache, filled.table[0], n, torch.float32)
    plain = rounded_weights_reference(q[0], k, v, 0, window=100, sinks=3)
    assert_within(torch.cat(parts, 2), exact, budget(exact[0], plain, torch.float32))


def test_it_is_the_dense_op_over_pages(device: torch.device) -> None:
    filled = Filled([256], torch.float16, torch.float16, page_size=128)
    paged = filled.attend(256, device, window=100)
    tensors = (x.to(device) for x in (filled.q, filled.k, filled.v))
    edges = torch.tensor([0, 256], device=device)  # which brings the blocks of gathered keys
    dense = sliding_window_attention(*tensors, window=100, cu_seqlens=edges, impl="triton").cpu()
    assert torch.equal(paged, dense)


@pytest.mark.parametrize("options", [{"window": 20}, {"window": 20, "sinks": 5}], ids=str)
def test_pages_outside_the_window_are_not_needed(options: dict, device: torch.device) -> None:
    filled = Filled([200], page_size=16)
    before = filled.attend(30, device, **options)
    first = 200 - 30 - 20 + 1
    kept = 1 if "sinks" in options else 0
    filled.table[0, kept : first // 16] = -1
    filled.cache.pages[:, :, filled.table[0, first // 16], : first % 16] = float("nan")
    assert torch.equal(filled.attend(30, device, **options), before)


def test_lengths_and_tables_of_any_stride(device: torch.device) -> None:
    filled = Filled([70, 33])
    expected = filled.attend(5, device)
    lengths = torch.tensor([[70, 0], [33, 0]], device=device)[:, 0]
    table = filled.table.T.contiguous().T.to(device)
    cache = PagedKV(filled.cache.pages.to(device))
    q = filled.last(5).to(device)
    out = paged_prefill_attention(q, cache, table, lengths, impl="triton").cpu()
    assert torch.equal(out, expected)


def test_a_missing_page_is_reported(device: torch.device) -> None:
    if device.type == "cuda":
        pytest.skip("values on a GPU are not read")
    filled = Filled([100])
    filled.table[0, 3] = -1
    with pytest.raises(ValueError, match="logical page 3 is needed"):
        filled.attend(10, device)


def test_head_sizes_that_do_not_fit(device: torch.device) -> None:
    with pytest.raises(UnsupportedImplementation, match="head sizes 16 to 256, got 8"):
        Filled([20], head_dim=8).attend(3, device)


COMPILE = """
import sys
from ctxsweep_kernels.paged_prefill.cases import CASES as paged
from ctxsweep_kernels.sliding_window.cases import CASES as dense
from ctxsweep_kernels.static.compile import compile_launch
for case in dense + paged:
    (launch,) = case.plan(sys.argv[1])
    built = compile_launch(launch, sys.argv[1])
    matrix = [name for name in sys.argv[2].split() if name in built.text]
    print(case.name, built.spilled_bytes, *matrix)
"""
MATRIX_INSTRUCTION = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}


@pytest.mark.parametrize("arch", MATRIX_INSTRUCTION)
def test_nothing_is_spilled_and_tensor_cores_multiply(arch: str) -> None:
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, arch, MATRIX_INSTRUCTION[arch]],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        assert line.split()[1:] == ["0", MATRIX_INSTRUCTION[arch]], line
