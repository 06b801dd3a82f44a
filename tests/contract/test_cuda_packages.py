"""The packages that need a GPU under the contract, for the machines that have one."""

from __future__ import annotations

from .contract import Case, Contract


class TestMambaPackage(Contract):
    backend = "mamba_ssm"
    device = "cuda"
    cases = (Case("tiny-mamba1"), Case("tiny-mamba2"))


class TestFlaModels(Contract):
    backend = "fla"
    device = "cuda"
    cases = (Case("tiny-retnet"), Case("tiny-rwkv7"))
