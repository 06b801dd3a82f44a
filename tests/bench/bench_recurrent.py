"""Recurrent ops at the shapes of a 256-wide model: chunked prefill against the token loop.

The token loop is what a recurrence costs when its definition is run as it stands; the causal
convolution is also held against torch's grouped `conv1d`. One thread, float32, one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from pairs import Thunk, paired

from ctxsweep_kernels.causal_conv import causal_conv1d
from ctxsweep_kernels.causal_conv.reference import causal_conv1d_reference
from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.retention.reference import retention_reference
from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_scan.reference import selective_scan_reference
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference
from ctxsweep_kernels.wkv6 import wkv6
from ctxsweep_kernels.wkv6.reference import wkv6_reference
from ctxsweep_kernels.wkv7 import wkv7
from ctxsweep_kernels.wkv7.reference import wkv7_reference

TOKENS = 1024
RELEASED_BYTES = 16 << 20


class Row(NamedTuple):
    """One line of the table of ratios: the other's time over ours."""

    name: str
    ratio: float
    goal: float
    detail: str


class Contest(NamedTuple):
    """An op and what it is measured against, over the same arguments."""

    ours: Thunk
    other: Thunk
    goal: float


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, and an allocator that has seen a large block freed, as it has beside a model.

    Before that, glibc returns every activation to the system and faults it in again.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.ones(RELEASED_BYTES, dtype=torch.uint8)
    yield
    torch.set_num_threads(threads)


def sequence(*shape: int) -> torch.Tensor:
    return torch.randn(1, TOKENS, *shape)


def mamba2() -> Contest:
    heads, P, N = 8, 64, 64
    args = (
        sequence(heads, P),
        sequence(heads).sigmoid() * 0.1,
        -torch.rand(heads) * 16,
        sequence(1, N),
        sequence(1, N),
        torch.zeros(1, heads, P, N),
    )
    return Contest(lambda: ssd_chunk_scan(*args), lambda: ssd_chunk_scan_reference(*args), 4)


def mamba1() -> Contest:
    channels, N = 512, 16
    args = (
        sequence(channels),
        sequence(channels).sigmoid() * 0.1,
        -torch.rand(channels, N) * 16,
        sequence(N),
        sequence(N),
        torch.zeros(1, channels, N),
    )
    return Contest(lambda: selective_scan(*args), lambda: selective_scan_reference(*args), 2)


def rwkv6() -> Contest:
    heads, K = 4, 64
    args = (
        sequence(heads, K),
        -torch.exp(sequence(heads, K) - 3),
        sequence(heads, K),
        sequence(heads, K),
        torch.randn(heads, K),
        torch.zeros(1, heads, K, K),
    )
    return Contest(lambda: wkv6(*args), lambda: wkv6_reference(*args), 4)


def rwkv7() -> Contest:
    heads, K = 4, 64
    kappa = F.normalize(sequence(heads, K), dim=-1)
    args = (
        sequence(heads, K),
        -0.6065 * sequence(heads, K).sigmoid(),
        sequence(heads, K),
        sequence(heads, K),
        -kappa,
        kappa * sequence(heads, K).sigmoid(),
        torch.zeros(1, heads, K, K),
    )
    return Contest(lambda: wkv7(*args), lambda: wkv7_reference(*args), 4)


def retnet() -> Contest:
    heads, K, V = 4, 64, 128
    args = (
        sequence(heads, K),
        sequence(heads, K) * K**-0.5,
        sequence(heads, V),
        torch.log1p(-(2.0 ** (-5 - torch.arange(heads)))),
        torch.zeros(1, heads, K, V),
    )
    return Contest(lambda: retention(*args), lambda: retention_reference(*args), 4)


def convolution() -> tuple[torch.Tensor, ...]:
    channels, taps = 640, 4
    return (
        sequence(channels),
        torch.randn(channels, taps),
        torch.randn(channels),
        torch.zeros(1, taps - 1, channels),
    )


def conv_loop() -> Contest:
    args = convolution()
    return Contest(
        lambda: causal_conv1d(*args, "silu"), lambda: causal_conv1d_reference(*args, "silu"), 10
    )


def conv_library() -> Contest:
    x, weight, bias, state = convolution()

    def grouped() -> torch.Tensor:
        padded = torch.cat((state, x), dim=1).mT
        return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(bias)).mT)

    return Contest(lambda: causal_conv1d(x, weight, bias, state, "silu"), grouped, 1)


CONTESTS: dict[str, Callable[[], Contest]] = {
    "ssd_chunk_scan over the token loop": mamba2,
    "selective_scan over the token loop": mamba1,
    "wkv6 over the token loop": rwkv6,
    "wkv7 over the token loop": rwkv7,
    "retention over the token loop": retnet,
    "causal_conv1d over the token loop": conv_loop,
    "causal_conv1d over grouped conv1d": conv_library,
}


def measure(name: str, contest: Contest) -> Row:
    """Ratio of times in this run, with both speeds in tokens per second as the detail."""
    times = paired(contest.ours, contest.other)
    detail = f"{TOKENS / times.first_s:,.0f} against {TOKENS / times.second_s:,.0f} tok/s"
    return Row(name, times.ratio, contest.goal, detail)


@pytest.mark.parametrize("name", CONTESTS)
def test_recurrent_op(name: str, benchmark, add_ratio: Callable[..., None]) -> None:
    torch.manual_seed(0)
    contest = CONTESTS[name]()
    benchmark.extra_info["tokens"] = TOKENS
    benchmark(contest.ours)
    row = measure(name, contest)
    add_ratio(row.name, row.ratio, row.goal, detail=row.detail)
