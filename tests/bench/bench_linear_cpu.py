"""Linear attention and SSMs on a CPU, 256 wide over 4096 tokens: chunked against a token loop.

The token loop is run over fewer tokens, since its time per token does not depend on how many there
are: both speeds are measured in tokens per second. Where CTXSWEEP_PROTOTYPES names a Python file
with `ssd_chunked`, `retention_chunked` and `wkv7_chunked` (plain torch, one sequence without a
batch dimension), ours are held against those too, over the same tokens. One thread, float32.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from pairs import Thunk, paired

from ctxsweep_kernels.retention import retention
from ctxsweep_kernels.retention.reference import retention_reference
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference
from ctxsweep_kernels.wkv7 import wkv7
from ctxsweep_kernels.wkv7.reference import wkv7_reference

PROTOTYPES = "CTXSWEEP_PROTOTYPES"
TOKENS = int(os.environ.get("CTXSWEEP_BENCH_TOKENS", "4096"))
LOOP_TOKENS = min(512, TOKENS)
HEADS, P = 4, 64  # 256 wide
RELEASED_BYTES = 16 << 20


@dataclass(frozen=True)
class Subject:
    """One op three times. Each takes a number of tokens."""

    ours: Callable[[int], object]
    loop: Callable[[int], object]
    prototype: Callable[[ModuleType, int], object]


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


@pytest.fixture(scope="module")
def prototypes() -> ModuleType:
    """The file named by CTXSWEEP_PROTOTYPES, as a module."""
    path = os.environ.get(PROTOTYPES)
    if not path:
        pytest.skip(f"{PROTOTYPES} names no file of chunked prototypes")
    spec = importlib.util.spec_from_file_location("prototypes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sequence(*shape: int) -> torch.Tensor:
    return torch.randn(1, TOKENS, *shape)


def first(tokens: int, *sequences: torch.Tensor) -> list[torch.Tensor]:
    return [tensor[:, :tokens] for tensor in sequences]


def mamba2() -> Subject:
    x, dt = sequence(HEADS, P), sequence(HEADS).sigmoid() * 0.1
    B, C = sequence(1, P), sequence(1, P)
    A, state = -torch.rand(HEADS) * 16, torch.zeros(1, HEADS, P, P)

    def run(op: Callable[..., object], tokens: int) -> object:
        x_, dt_, B_, C_ = first(tokens, x, dt, B, C)
        return op(x_, dt_, A, B_, C_, state)

    def prototype(module: ModuleType, tokens: int) -> object:
        x_, dt_, B_, C_ = (tensor[0] for tensor in first(tokens, x, dt, B, C))
        return module.ssd_chunked(x_, dt_, A, B_[:, 0], C_[:, 0], state[0])

    return Subject(
        lambda tokens: run(ssd_chunk_scan, tokens),
        lambda tokens: run(ssd_chunk_scan_reference, tokens),
        prototype,
    )


def rwkv7() -> Subject:
    kappa = F.normalize(sequence(HEADS, P), dim=-1)
    sequences = (
        sequence(HEADS, P),
        -0.6065 * sequence(HEADS, P).sigmoid(),
        sequence(HEADS, P),
        sequence(HEADS, P),
        -kappa,
        kappa * sequence(HEADS, P).sigmoid(),
    )
    state = torch.zeros(1, HEADS, P, P)
    return Subject(
        lambda tokens: wkv7(*first(tokens, *sequences), state),
        lambda tokens: wkv7_reference(*first(tokens, *sequences), state),
        lambda module, tokens: module.wkv7_chunked(
            *(tensor[0] for tensor in first(tokens, *sequences)), state[0]
        ),
    )


def retnet() -> Subject:
    sequences = (sequence(HEADS, P), sequence(HEADS, P) * P**-0.5, sequence(HEADS, 2 * P))
    log_gamma = torch.log1p(-(2.0 ** (-5 - torch.arange(HEADS))))
    state = torch.zeros(1, HEADS, P, 2 * P)
    return Subject(
        lambda tokens: retention(*first(tokens, *sequences), log_gamma, state),
        lambda tokens: retention_reference(*first(tokens, *sequences), log_gamma, state),
        lambda module, tokens: module.retention_chunked(
            *(tensor[0] for tensor in first(tokens, *sequences)), log_gamma.exp(), state[0]
        ),
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "ssd_chunk_scan": mamba2,
    "wkv7": rwkv7,
    "retention": retnet,
}


def speeds(ours: Thunk, other: Thunk, other_tokens: int) -> tuple[float, str]:
    """Ratio of the tokens per second of ours, over TOKENS, to the other's; and both."""
    times = paired(ours, other)
    ratio = times.ratio * TOKENS / other_tokens
    detail = f"{TOKENS / times.first_s:,.0f} against {other_tokens / times.second_s:,.0f} tok/s"
    return ratio, detail


@pytest.mark.parametrize("name", SUBJECTS)
def test_over_the_token_loop(name: str, benchmark, add_ratio: Callable[..., None]) -> None:
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    benchmark.extra_info["tokens"] = TOKENS
    benchmark(lambda: subject.ours(TOKENS))
    ratio, detail = speeds(
        lambda: subject.ours(TOKENS), lambda: subject.loop(LOOP_TOKENS), LOOP_TOKENS
    )
    add_ratio(f"{name} over the token loop, {TOKENS} tokens", ratio, 4, detail=detail)


@pytest.mark.parametrize("name", SUBJECTS)
def test_over_the_prototype(
    name: str, prototypes: ModuleType, benchmark, add_ratio: Callable[..., None]
) -> None:
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    benchmark.extra_info["tokens"] = TOKENS
    benchmark(lambda: subject.prototype(prototypes, TOKENS))
    ratio, detail = speeds(
        lambda: subject.ours(TOKENS), lambda: subject.prototype(prototypes, TOKENS), TOKENS
    )
    add_ratio(f"{name} over the prototype, {TOKENS} tokens", ratio, 1, detail=detail)
