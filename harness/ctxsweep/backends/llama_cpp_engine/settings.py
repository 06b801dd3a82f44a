"""What a series means to llama.cpp: types of its cells, sizes of its batches, what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries, chunk_tokens
from ctxsweep.models import accounting
from ctxsweep.models.accounting import Storage
from ctxsweep.models.config import Attention, ModelConfig
from ctxsweep.records import Cost, KVDType, Series

CELL_TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
Q8_0_VALUES, Q8_0_BYTES = 32, 34
"""A block of ggml's Q8_0: 32 int8 values and one float16 scale."""
WHOLE_UBATCH = 512
"""llama.cpp's own n_ubatch, where the series sets no chunk."""
OPTIONS = {"flash_attn": "true or false", "n_ubatch": "tokens of a row per physical batch"}


@dataclass(frozen=True)
class Cells(Storage):
    """llama.cpp's cache: a cell a token, int8 in blocks of Q8_0."""

    page_size: int = 1

    def kv_token_bytes(self, attention: Attention) -> int:
        if self.kv_dtype != "int8":
            return super().kv_token_bytes(attention)
        return 2 * attention.kv_heads * attention.head_dim * Q8_0_BYTES // Q8_0_VALUES


def cost(
    series: Series, config: ModelConfig, context_tokens: int, batch_size: int, chunk: int
) -> Cost:
    """The model's arithmetic with the bytes that llama.cpp holds."""
    cells = Cells(series.dtype, series.kv_dtype)
    least = accounting.cost(config, cells, context_tokens, batch_size, chunk)
    held = batch_size * cache_bytes(series, config, context_tokens)
    return least.model_copy(update={"cache_bytes": held})


def cache_bytes(series: Series, config: ModelConfig, tokens: int) -> int:
    """Bytes of one row's cells and states; states are float32 whatever the model's dtype is."""
    return accounting.cache_bytes(config, Cells("float32", kv_dtype(series)), tokens)


def check_cells(series: Series, config: ModelConfig) -> None:
    """Raise ``InvalidSeries`` for a ``kv_dtype`` that llama.cpp's cells cannot have."""
    attention = config.attention
    if attention is None:
        checkpoints.check_kv_dtype(series, config)
        return
    if kv_dtype(series) not in CELL_TYPES:
        raise InvalidSeries(
            "kv_dtype",
            f"llama.cpp has no {series.kv_dtype}; nearest valid: int8 (its Q8_0), of "
            f"{', '.join(CELL_TYPES)}",
        )
    if series.kv_dtype == "int8" and attention.head_dim % Q8_0_VALUES:
        raise InvalidSeries(
            "kv_dtype",
            f"llama.cpp's Q8_0 takes head sizes that are multiples of {Q8_0_VALUES}, not "
            f"{attention.head_dim}; nearest valid: float16",
        )
    if series.kv_dtype == "int8" and series.options.get("flash_attn") is False:
        raise InvalidSeries("kv_dtype", "int8 (Q8_0) needs options.flash_attn: true")


def kv_dtype(series: Series) -> KVDType:
    """The type of the cells; the weights' own unless the series says otherwise."""
    return series.dtype if series.kv_dtype == "auto" else series.kv_dtype


def flash(series: Series, device: str) -> bool:
    """Whether flash attention is on: as asked for, else where it does not harm.

    Over float32 cells llama.cpp casts the whole cache to float16 in every call: slower, and no
    longer float32. Over bfloat16 cells its CPU kernel has no tiles: prefill is 7 times slower.
    """
    kind = kv_dtype(series)
    harmless = kind in ("float16", "int8") or (device != "cpu" and kind == "bfloat16")
    return bool(series.options.get("flash_attn", harmless))


def ubatch(series: Series, context_tokens: int) -> int:
    """Tokens of a row in one pass through the model."""
    whole = series.prefill_chunk == "whole"
    default = WHOLE_UBATCH if whole else chunk_tokens(series, context_tokens)
    return min(int(series.options.get("n_ubatch", default)), context_tokens)


def check_options(series: Series) -> None:
    """Raise ``InvalidSeries`` for options that llama.cpp is not told."""
    for name, value in series.options.items():
        if name not in OPTIONS:
            known = " and ".join(OPTIONS)
            raise InvalidSeries("options", f"'{name}' is unknown; llama_cpp has {known}")
        right = (
            isinstance(value, bool)
            if name == "flash_attn"
            else isinstance(value, int) and not isinstance(value, bool) and value >= 1
        )
        if not right:
            raise InvalidSeries(f"options.{name}", f"{value!r} is not {OPTIONS[name]}")
