"""Models in bfloat16 and float16 stay near themselves in float32, over a context in chunks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ctxsweep.models import catalog
from ctxsweep.models.language_model import MIXERS, LanguageModel, build
from ctxsweep.models.layers import StateSpec

CPU = torch.device("cpu")
TINY = [
    name
    for name in catalog.names()
    if name.startswith("tiny-") and catalog.load_config(name).mixer in MIXERS
]
BATCH, TOKENS, VOCABULARY = 2, 600, 256


def model(name: str, dtype: torch.dtype) -> LanguageModel:
    """Rounded from the same float32 weights; linear maps are 3 × their initial size, so that a
    mixer counts for more than the embedding that passes by it."""
    small = {"vocab_size": VOCABULARY, "max_positions": TOKENS}
    made = build(catalog.load_config(name).model_copy(update=small), 3, torch.float32, CPU)
    for module in made.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(3)
    return made.to(dtype)


def logits(made: LanguageModel) -> Tensor:
    dtype = made.head.weight.dtype
    state = made.new_state(StateSpec(BATCH, TOKENS, 300, 16, dtype, dtype, CPU))
    tokens = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=torch.manual_seed(4))
    calls = tokens.split([300, 1, 298, 1], dim=1)
    with torch.inference_mode():
        return torch.cat([made(call, state, all_logits=True) for call in calls], dim=1).double()


@pytest.mark.parametrize("name", TINY)
def test_narrow_weights_cost_no_more_than_their_rounding(name: str) -> None:
    """The median error, since a token whose router is on the brink may take another expert."""
    exact = logits(model(name, torch.float32))
    for dtype in (torch.bfloat16, torch.float16):
        error = (logits(model(name, dtype)) - exact).abs().median() / exact.std()
        assert 0 < error <= 2.5 * torch.finfo(dtype).eps
