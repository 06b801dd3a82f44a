"""What the static bench judges: RWKV-7 2048 wide, decode of 64 sequences and a prefill."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Trace, Work
from ctxsweep_kernels.wkv7.plan import plan_wkv7

HEADS, K, V = 32, 64, 64


def launches(
    tokens: int, batch: int, heads: int, dtype: torch.dtype, device: str, arch: str
) -> list[Launch]:
    sequences = tuple(
        torch.zeros(batch, tokens, heads, K, dtype=dtype, device=device) for _ in range(6)
    )
    state, new_state = (torch.zeros(batch, heads, V, K, device=device) for _ in range(2))
    y = torch.zeros(batch, tokens, heads, V, dtype=dtype, device=device)
    return plan_wkv7(sequences, state, y, new_state, arch)


def plan(tokens: int, batch: int, dtype: torch.dtype) -> Callable[[str], list[Launch]]:
    return lambda arch: launches(tokens, batch, HEADS, dtype, "meta", arch)


def decode_work(launch: Launch) -> Work:
    """The state that one program reads and writes."""
    moved = launch.arguments["ROWS"] * K * 2 * 4
    return Work("KiB", (), (), units_outside_loops=moved / 1024)


def decode_trace() -> Trace:
    """As many heads as the plan for a full device takes."""
    made = launches(1, 17, HEADS, torch.bfloat16, "cpu", "sm_90")
    tensors = {n: t for n, t in made[0].arguments.items() if isinstance(t, torch.Tensor)}
    return Trace(made, {name: tensor.nbytes for name, tensor in tensors.items()})


def prefill_work(launch: Launch) -> Work:
    """The launch that does most of the work, one chunk of one head for each program."""
    return Work("update", (), (), units_outside_loops=launch.arguments["C"] * K * V)


CASES = (
    Case(
        "wkv7_decode/bf16-k64",
        plan(1, 64, torch.bfloat16),
        (),
        decode_work,
        decode_trace,
        goal={"per_unit": 36, "traffic": 1.02},
    ),
    Case("wkv7_decode/bf16-k64-one-sequence", plan(1, 1, torch.bfloat16), (), decode_work),
    Case("wkv7_prefill/bf16-k64", plan(4096, 1, torch.bfloat16), (), prefill_work),
    Case("wkv7_prefill/fp16-k64", plan(4096, 1, torch.float16), (), prefill_work),
    Case("wkv7_prefill/fp32-k64", plan(4096, 1, torch.float32), (), prefill_work),
)
