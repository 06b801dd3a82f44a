"""The valid ``config.json`` nearest to one that is not, on its own keys."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_config import config_from
from ctxsweep.planning.mending.edits import (
    REMOVED,
    Change,
    Edit,
    Fields,
    Problem,
    leaves,
    mended,
    neighbours,
)

# Numbers that other numbers must fit, and what it costs to change them by an octave.
SIZES = {
    "num_key_value_heads": 1.0,
    "num_kv_heads": 1.0,
    "num_attention_heads": 2.0,
    "n_head": 2.0,
    "n_heads": 2.0,
    "head_dim": 2.0,
    "num_experts_per_tok": 1.0,
    "n_groups": 1.0,
    "num_heads": 2.0,
    "mamba_d_head": 2.0,
    "mamba_n_heads": 2.0,
    "mamba_n_groups": 1.0,
    "attn_layer_period": 1.0,
    "attn_layer_offset": 1.0,
    "expert_layer_period": 1.0,
    "max_window_layers": 1.0,
    "num_hidden_layers": 8.0,
    "n_layer": 8.0,
    "n_layers": 8.0,
    "num_local_experts": 8.0,
    "hidden_size": 32.0,
    "n_embd": 32.0,
    "d_model": 32.0,
}
RENAME, TEXT, SIGN = 0.1, 0.2, 0.1
_AMISS = re.compile("nearest valid|multiple of|divide|even|exceeds|at least|greater than|less than")
"""Only where numbers do not fit is it worth trying others."""
_MISSING = re.compile(r"key '([^']+)' is missing")


def nearest_valid_hf(
    raw: Mapping[str, Any], name: str
) -> tuple[ModelConfig, dict[str, Any], tuple[Change, ...]]:
    """The model of the nearest valid content, that content, and every change.

    Raises:
        CannotMend: a setting that is not built, or one of which nothing tells what was meant.
    """
    fields, changes = mended(raw, lambda tried: _problem(tried, name), _edits)
    return config_from(fields, name), fields, changes


def _problem(raw: Fields, name: str) -> Problem | None:
    try:
        config_from(raw, name)
    except KeyError as error:
        return Problem((), f"key {error} is missing")
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        return Problem((), str(error))
    return None


def _edits(raw: Fields, problem: Problem) -> Iterator[Edit]:
    if "is not built" in problem.message:  # nothing is wrong with it: we do not have it
        return
    if missing := _MISSING.search(problem.message):
        spare = [key for key in raw if isinstance(raw[key], int)]
        for near in get_close_matches(missing[1], spare, n=2, cutoff=0.75):
            yield Edit(RENAME, (((near,), REMOVED), ((missing[1],), raw[near])))
        return
    numbers = {v for _, v in leaves(raw) if _is_count(v)}
    amiss = bool(_AMISS.search(problem.message))
    for key, value in raw.items():
        path = (key,)
        if value is None:  # as if it were not there
            yield Edit(TEXT, ((path, REMOVED),))
        if isinstance(value, str) and value.strip().isdigit():
            yield Edit(TEXT, ((path, int(value)),))
        if isinstance(value, float) and value.is_integer() and key in SIZES:
            yield Edit(TEXT, ((path, int(value)),))
        if isinstance(value, int | float) and value < 0:
            yield Edit(SIGN, ((path, -value),))
        if amiss and key in SIZES and isinstance(value, int) and not isinstance(value, bool):
            for cost, number in neighbours(max(value, 1), numbers | {1}, SIZES[key]):
                yield Edit(cost, ((path, number),))
            if value < 1:
                yield Edit(TEXT, ((path, 1),))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
