"""A model of transformers from its folder: its weights, its positions, its kernels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctxsweep.backends.base import InvalidSeries, Unsupported
from ctxsweep.backends.transformers_lm.config import configuration
from ctxsweep.records import Series

KERNEL_PACKAGES = ("mamba_ssm", "causal_conv1d", "fla")
"""Packages whose GPU kernels transformers takes where they can be imported."""


def load_model(folder: Path, series: Series) -> Any:
    """The model of a folder in the series' dtype, on the CPU. Raises ``InvalidSeries``."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    config = configuration(folder, series)
    try:
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, series.dtype),
            local_files_only=True,
            output_loading_info=True,
            **series.options,
        )
    except (ValueError, OSError) as error:  # an attention that it does not have; no weights
        asked = "attention implementation" in str(error)
        key = "options.attn_implementation" if asked else "model"
        raise InvalidSeries(key, str(error)) from error
    if loading["missing_keys"]:  # these it would draw at random
        missing = sorted(loading["missing_keys"])
        raise InvalidSeries(
            "model", f"{folder} has no weights for {len(missing)} tensors, such as {missing[0]}"
        )
    return model


def check_positions(model: Any, max_context_tokens: int) -> None:
    """Raise ``Unsupported`` where positions are learned, and fewer than the context is long.

    Penalties of distances are made to reach as far as the context.
    """
    import torch

    tokens = model.get_input_embeddings()
    tables = (part for part in model.modules() if isinstance(part, torch.nn.Embedding))
    if model.config.model_type == "mpt":  # a table of ALiBi's penalties, drawn up in every call
        model.config.max_seq_len = max_context_tokens
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or all(table is tokens for table in tables):
        return
    if positions < max_context_tokens:
        raise Unsupported(
            f"the model has {positions} learned positions, fewer than {max_context_tokens}",
            "Take a shorter context or a model with rotary positions",
        )


@contextmanager
def kernels_of(device: str) -> Iterator[None]:
    """While transformers' models are imported for a CPU, GPU kernels cannot be found.

    It takes those of an installed mamba-ssm for any device, and calls on a CPU then crash.
    """
    if device != "cpu":
        yield
        return
    hidden = {name: sys.modules.pop(name, None) for name in KERNEL_PACKAGES}
    sys.modules.update(dict.fromkeys(KERNEL_PACKAGES))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
