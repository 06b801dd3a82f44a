"""Prefill attention in the shapes of real models, for the static bench."""

from __future__ import annotations

import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window.plan import plan_window


def _plan(
    arch: str,
    dtype=torch.bfloat16,
    dim=128,
    window=4096,
    heads=32,
    kv_heads=8,
    tokens=16384,
    **options,
) -> list[Launch]:
    q = torch.empty(1, heads, tokens, dim, dtype=dtype, device="meta")
    k = torch.empty(1, kv_heads, tokens, dim, dtype=dtype, device="meta")
    options = dict(sinks=0, scale=None, alibi_slopes=None, softcap=None) | options
    rule = make_rule(q, kv_heads, window=window, **options)
    return plan_window(q, k, k, rule, torch.empty_like(q), arch)


def window_bf16(arch):
    return _plan(arch)


def full_bf16(arch):
    return _plan(arch, window=None)


def softcap(arch):
    return _plan(arch, softcap=50.0)


def sinks(arch):
    return _plan(arch, sinks=4)
