"""The rwkv package under the contract: both versions, and a narrow type."""

from __future__ import annotations

import pytest

from .contract import Case, Contract

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class TestRwkvPackage(Contract):
    backend = "rwkv"
    cases = (
        Case("tiny-rwkv6", batch=1),
        Case("tiny-rwkv7", batch=1),
        Case("tiny-rwkv6", {"dtype": "bfloat16"}, batch=1),
    )
