"""llama.cpp under the contract: every architecture that is written as GGUF, and narrow cells."""

from __future__ import annotations

from .contract import Case, Contract


class TestLlamaCpp(Contract):
    backend = "llama_cpp"
    cases = (
        Case("tiny-gqa"),
        Case("tiny-moe"),
        Case("tiny-mamba1"),
        Case("tiny-mamba2"),
        Case("tiny-hybrid"),
        Case("tiny-mqa", {"dtype": "bfloat16"}),
        Case("tiny-mha", {"kv_dtype": "int8"}),
    )
