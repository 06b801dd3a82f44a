"""The packages that need a GPU under the contract, for the machines that have one."""

from __future__ import annotations

from .contract import Case, Contract


class TestMambaPackage(Contract):
    backend = "mamba_ssm"
    cases = (Case("tiny-mamba1"), Case("tiny-mamba2"))


class TestFlaModels(Contract):
    backend = "fla"
    cases = (Case("tiny-retnet"), Case("tiny-rwkv7"))
