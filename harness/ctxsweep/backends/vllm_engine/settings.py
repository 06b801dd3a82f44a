"""A series in vLLM's words: what it refuses, and the arguments of its engine. Imports no vLLM."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries, Limits, Unsupported, chunk_tokens
from ctxsweep.backends.rope_scaling import check_fixed, engine_words
from ctxsweep.backends.vllm_engine.memory import STATE_DTYPE
from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_write import hf_config
from ctxsweep.models.rope_words import plain_rope, trained_tokens
from ctxsweep.records import RopeScaling, Series

WORKER = "ctxsweep.backends.vllm_engine.worker.FittingWorker"
# vLLM on a CPU takes others without a word and computes something else.
FP8 = ("fp8_e4m3", "fp8_e5m2")
CPU_HEAD_DIMS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
PAGE_STEP, CPU_PAGE_STEP = 16, 32
OPTIONS: dict[str, Any] = {
    "cuda_graphs": None,
    "attention_backend": None,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "load_format": "checkpoint",
}
"""Defaults; None is vLLM's choice: graphs where there is CUDA, the device's attention backend."""
LOAD_FORMATS = {"checkpoint": "auto", "dummy": "dummy"}
SPARE_TOKENS = 2  # the token sampled last, and one more: at max_model_len a request is ended


def check_series(series: Series) -> ModelConfig | None:
    """The model, as ``checkpoints.check_model`` gives it. Raises ``InvalidSeries``."""
    config = checkpoints.check_model(series)
    _check_model(series, config)
    _check_kv_dtype(series, config)
    _check_options(series.options)
    if series.prefill_chunk == "recurrent":
        raise InvalidSeries("prefill_chunk", "vLLM prefills in chunks; use a number or 'whole'")
    if series.page_size % PAGE_STEP:
        near = max(CPU_PAGE_STEP, round(series.page_size / CPU_PAGE_STEP) * CPU_PAGE_STEP)
        raise InvalidSeries(
            "page_size",
            f"vLLM's blocks are multiples of {PAGE_STEP} tokens, on a CPU of {CPU_PAGE_STEP}; "
            f"nearest valid: {near}",
        )
    check_fixed("vLLM", series, config, ("dynamic",))
    if series.rope is not None:
        _rope_parameters(series, series.rope, config)
    return config


def _check_model(series: Series, config: ModelConfig | None) -> None:
    if config is None:
        if series.window is not None:
            raise InvalidSeries(
                "window",
                "write the window into the model's own configuration (sliding_window), under the "
                "name that its architecture reads",
            )
        return
    attention = config.attention
    if attention is None or "attention" not in config.layer_mixers():
        return
    problem = _computed_otherwise(series, config)
    if problem is not None:
        raise InvalidSeries("model", f"'{config.name}': {problem}")
    hybrid = len(set(config.layer_mixers())) > 1
    if hybrid and attention.head_dim * attention.heads != config.hidden_size:
        raise InvalidSeries(
            "model.attention.head_dim",
            f"vLLM builds hybrids with head_dim = hidden_size / heads; nearest valid: "
            f"{config.hidden_size // attention.heads}, not {attention.head_dim}",
        )


def _computed_otherwise(series: Series, config: ModelConfig) -> str | None:
    """What of a model vLLM leaves out or replaces without a word; None if nothing is known."""
    attention, ffn = config.attention, config.ffn
    assert attention is not None and ffn is not None
    raw = {} if not checkpoints.model_type(series.model) else _raw(series)
    family = raw.get("model_type") or hf_config(config, series.dtype)["model_type"]
    if family == "bloom":
        return "vLLM's BLOOM computes GELU with erf, not in its tanh form; nearest: backend native"
    if family == "gemma" and attention.bias:
        return "vLLM's Gemma leaves the attention's biases out; nearest valid: bias: false"
    if family == "falcon" and ffn.kind != "gelu_exact":
        return f"vLLM's Falcon has no {ffn.kind}; nearest valid: gelu_exact"
    if family == "falcon" and ffn.size != 4 * config.hidden_size:
        return (
            f"vLLM's Falcon has no ffn.size of {ffn.size}; nearest valid: "
            f"{4 * config.hidden_size} (4 × hidden_size)"
        )
    return None


def _check_kv_dtype(series: Series, config: ModelConfig | None) -> None:
    if series.kv_dtype not in ("auto", series.dtype, *FP8):
        raise InvalidSeries(
            "kv_dtype",
            f"vLLM does not cache in {series.kv_dtype} here; valid: auto, {series.dtype} "
            f"(the model's own), {', '.join(FP8)}",
        )
    if config is not None:
        checkpoints.check_kv_dtype(series, config)


def _check_options(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in OPTIONS:
            raise InvalidSeries(
                "options", f"'{name}' is unknown; vllm has {', '.join(sorted(OPTIONS))}"
            )
        if name == "cuda_graphs":
            valid, form = isinstance(value, bool), "true or false"
        elif name == "load_format":
            valid, form = value in LOAD_FORMATS, " or ".join(LOAD_FORMATS)
        elif name == "attention_backend":
            valid = isinstance(value, str) and bool(value)
            form = "the name of one of vLLM's attention backends, such as FLASH_ATTN"
        else:
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            form = "a number of at least 1"
        if not valid:
            raise InvalidSeries(f"options.{name}", f"{value!r} cannot be; it is {form}")


def option(series: Series, name: str) -> Any:
    """An option's value, or its default."""
    return series.options.get(name, OPTIONS[name])


def processes(series: Series) -> int:
    """How many processes compute: one, in this process, unless the model is split."""
    return int(option(series, "tensor_parallel_size") * option(series, "pipeline_parallel_size"))


def check_device(series: Series, config: ModelConfig | None, limits: Limits) -> None:
    """Raise ``Unsupported`` for what vLLM cannot do on the device or at that length."""
    # Positions that are learned end somewhere; those of rotary models are laid over.
    learned = config is not None and config.attention and config.attention.position == "learned"
    if learned and config and config.max_positions < limits.max_context_tokens + SPARE_TOKENS:
        raise Unsupported(
            f"model '{config.name}' has {config.max_positions} learned positions, fewer than "
            f"{limits.max_context_tokens + SPARE_TOKENS}",
            "Take a shorter context or a model with rotary positions",
        )
    _check_yarn_table(series, config, limits)
    if limits.device != "cpu":
        return
    if config is not None and "mamba1" in config.layer_mixers():
        raise Unsupported(
            "vLLM's Mamba-1 has no CPU kernel: it loads and fails at the first prefill",
            "Use a Mamba-2 model, --device cuda, or backend native",
        )
    attention = config.attention if config else None
    if attention is not None and attention.head_dim not in CPU_HEAD_DIMS:
        near = min(CPU_HEAD_DIMS, key=lambda dim: abs(dim - attention.head_dim))
        raise Unsupported(
            f"vLLM's CPU attention has no head_dim of {attention.head_dim}",
            f"Nearest that it has: {near}",
        )
    if series.page_size % CPU_PAGE_STEP:
        raise Unsupported(
            f"vLLM's CPU attention takes blocks of {CPU_PAGE_STEP} tokens and their multiples, not "
            f"{series.page_size}",
            f"Set page_size: {-(-series.page_size // CPU_PAGE_STEP) * CPU_PAGE_STEP}",
        )
    for name in ("cuda_graphs", "attention_backend"):
        if option(series, name):
            raise Unsupported(f"options.{name} is for CUDA", "Leave it out on a CPU")
    if processes(series) > 1:
        raise Unsupported(
            "a model split over processes is measured on CUDA only",
            "Leave tensor_parallel_size and pipeline_parallel_size out on a CPU",
        )


def engine_arguments(
    series: Series, limits: Limits, config: ModelConfig | None, folder: Path
) -> dict[str, Any]:
    """Keyword arguments of ``EngineArgs``: every step is one chunk or one token of all rows."""
    chunk = chunk_tokens(series, limits.max_context_tokens)
    graphs = option(series, "cuda_graphs")
    one = processes(series) == 1
    chosen = {
        "attention_backend": option(series, "attention_backend"),
        "worker_cls": WORKER if one else None,
        # FittingWorker says how many; a figure here spares the warm-up that would measure it.
        "kv_cache_memory_bytes": 1 if one else None,
    }
    return {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "hf_overrides": _overrides(series, limits, config),
        "load_format": LOAD_FORMATS[option(series, "load_format")],
        "use_tqdm_on_load": False,
        "dtype": series.dtype,
        "seed": limits.seed,
        "max_model_len": limits.max_context_tokens + SPARE_TOKENS,
        "max_num_seqs": limits.batch_size,
        "max_num_batched_tokens": chunk * limits.batch_size,
        "long_prefill_token_threshold": chunk,
        "enable_chunked_prefill": True,
        "async_scheduling": False,
        "enable_prefix_caching": False,
        "block_size": series.page_size,
        "kv_cache_dtype": series.kv_dtype if series.kv_dtype in FP8 else "auto",
        "mamba_ssm_cache_dtype": STATE_DTYPE,
        "enforce_eager": limits.device == "cpu" if graphs is None else not graphs,
        "tensor_parallel_size": option(series, "tensor_parallel_size"),
        "pipeline_parallel_size": option(series, "pipeline_parallel_size"),
        "disable_log_stats": False,
        **{name: value for name, value in chosen.items() if value is not None},
    }


def _overrides(series: Series, limits: Limits, config: ModelConfig | None) -> dict[str, Any]:
    """What is laid over ``config.json``."""
    over: dict[str, Any] = {}
    length = limits.max_context_tokens + SPARE_TOKENS
    rotary = config is not None and config.attention and config.attention.position == "rope"
    if rotary and not catalog.is_folder(series.model):
        over["max_position_embeddings"] = length  # vLLM makes a table of that many rows
    if series.window is not None and catalog.is_folder(series.model):
        over["sliding_window"] = series.window
    own = _own_rope(config)
    rope = series.rope or (own if own and own.rope_type == "longrope" else None)
    if rope is not None:
        over["rope_parameters"] = _rope_parameters(series, rope, config)
        if "max_position_embeddings" not in over:
            written = int(_raw(series).get("max_position_embeddings", 0))
            over["max_position_embeddings"] = max(length, written)
    return over


def _own_rope(config: ModelConfig | None) -> RopeScaling | None:
    return config.attention.rope if config is not None and config.attention else None


def _check_yarn_table(series: Series, config: ModelConfig | None, limits: Limits) -> None:
    """Raise ``Unsupported`` beyond vLLM's table of YaRN angles, past whose end it would read.

    Its length is the trained context times the factor, whatever the model's longest context.
    """
    rope = series.rope or _own_rope(config)
    if rope is None:
        return
    words = _rope_parameters(series, rope, config)
    if words.get("rope_type") != "yarn":
        return
    trained, needed = words["original_max_position_embeddings"], limits.max_context_tokens
    rows = int(trained * words["factor"])
    if needed > rows:
        enough = math.ceil(100 * needed / trained) / 100
        raise Unsupported(
            f"vLLM turns positions by {rope.rope_type} up to {rows} tokens (trained "
            f"context × factor), fewer than {needed}",
            f"Set rope.factor to at least {enough:g}, or use backend native",
        )


def _rope_parameters(
    series: Series, rope: RopeScaling, config: ModelConfig | None
) -> dict[str, Any]:
    """``rope_parameters`` of ``config.json``, stretched. Raises ``InvalidSeries``."""
    if config is not None:
        if config.attention is None or config.attention.position != "rope":
            raise InvalidSeries("rope", f"model '{config.name}' has no rotary positions")
        plain, trained = config.attention.turned, config.trained_context
    else:
        found, trained = plain_rope(_raw(series)), trained_tokens(_raw(series))
        if found is None:
            raise InvalidSeries("rope", "the model's configuration names no rope_theta to stretch")
        plain = found
    words = engine_words(rope, trained, plain)
    if rope.rope_type == "longrope":
        # Under vLLM's names: it would take the attention factor from the positions instead.
        words |= dict.fromkeys(("short_mscale", "long_mscale"), words["attention_factor"])
    return words


def _raw(series: Series) -> Mapping[str, Any]:
    """The ``config.json`` that the series names or writes out."""
    if isinstance(series.model, Mapping):
        return series.model
    raw: dict[str, Any] = json.loads(
        (catalog.weights_of(series.model) / "config.json").read_text("utf-8")
    )
    return raw
