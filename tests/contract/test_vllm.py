"""vLLM under the contract. Its blocks are of 32 tokens at least, of a hybrid larger."""

from __future__ import annotations

from .contract import Case, Contract


class TestVllm(Contract):
    backend = "vllm"
    page_size = 32
    cases = (
        Case("tiny-gqa"),
        Case("tiny-mamba2"),
        Case({"like": "tiny-hybrid", "attention": {"head_dim": 64}}, {"page_size": 160}),
    )
