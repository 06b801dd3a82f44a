"""What the tests of native models share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from ctxsweep.models.language_model import LanguageModel
from ctxsweep.models.layers import StateSpec

CPU = torch.device("cpu")
Feed = Callable[..., Tensor]


def feed_tokens(
    model: LanguageModel,
    tokens: Tensor,
    splits: Iterable[int] | int | None = None,
    page_size: int = 8,
    kv_dtype: torch.dtype | None = None,
) -> Tensor:
    """All logits ``[B, T, V]`` of ``tokens`` fed in calls of these lengths (None: one call)."""
    dtype = model.embedding.weight.dtype
    length = tokens.shape[1]
    calls = tokens.split(length if splits is None else splits, dim=1)
    spec = StateSpec(
        batch_size=tokens.shape[0],
        max_tokens=length,
        max_call_tokens=max(call.shape[1] for call in calls),
        page_size=page_size,
        kv_dtype=kv_dtype or dtype,
        dtype=dtype,
        device=CPU,
    )
    state = model.new_state(spec)
    with torch.inference_mode():
        return torch.cat([model(call, state, all_logits=True) for call in calls], dim=1)


@pytest.fixture
def feed() -> Feed:
    """``feed_tokens``."""
    return feed_tokens
