"""What model a GGUF file holds, told by its index in the words of a ``config.json``.

Keys are those of llama.cpp's ``convert_hf_to_gguf.py``. Never imports torch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ctxsweep.models.config import ModelConfig
from ctxsweep.models.gguf_index import BadGguf, GgufIndex, read_index
from ctxsweep.models.hf_config import config_from

FAMILIES = ("llama", "qwen2", "phi3")
"""Architectures of GGUF that are built; Mistral is a llama there. Names as in ``model_type``."""
_FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
_LLAMA3_FACTORS = "rope_freqs.weight"
ROPE_TENSORS = frozenset({*_FACTORS.values(), _LLAMA3_FACTORS})
"""Tensors that are part of the configuration."""
_FLOAT32 = 0
Get = Callable[..., Any]


def config_from_gguf(path: Path) -> ModelConfig:
    """The configuration of a file. Raises ``BadGguf``."""
    index = read_index(path)
    try:
        words = config_words(index)
        config = config_from(words, path.stem)
    except KeyError as error:
        raise BadGguf(f"{path}: key or tensor {error} is missing") from error
    except ValueError as error:
        raise BadGguf(f"{path}: {error}") from error
    except (TypeError, ZeroDivisionError) as error:
        raise BadGguf(f"{path}: its metadata make no model: {error}") from error
    return config.model_copy(update={"source": f"{words['model_type']} as GGUF, {path.name}"})


def config_words(index: GgufIndex) -> dict[str, Any]:
    """The fields of a ``config.json``.

    Raises:
        KeyError: a key or tensor is missing.
        ValueError: an architecture or setting that is not built.
    """
    family = index.metadata.get("general.architecture")
    if family not in FAMILIES:
        raise ValueError(
            f"general.architecture = {family!r} is not built; one of: {', '.join(FAMILIES)}"
        )
    if index.metadata.get(f"{family}.expert_count"):
        raise ValueError("experts are not read from GGUF; take the model's folder of safetensors")

    def get(key: str, default: Any = None) -> Any:
        return index.metadata.get(f"{family}.{key}", default)

    def need(key: str) -> Any:
        return index.metadata[f"{family}.{key}"]

    heads, hidden = need("attention.head_count"), need("embedding_length")
    head_dim = get("attention.key_length") or hidden // heads
    words = {
        "model_type": family,
        "vocab_size": index.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": need("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": need("feed_forward_length"),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "max_position_embeddings": need("context_length"),
        "tie_word_embeddings": "output.weight" not in index.tensors,
        "sliding_window": get("attention.sliding_window") or None,
        "partial_rotary_factor": get("rope.dimension_count", head_dim) / head_dim,
        "rope_parameters": _rope(index, get),
    }
    if family == "llama":
        words["attention_bias"] = "blk.0.attn_q.bias" in index.tensors
    return words


def _rope(index: GgufIndex, get: Get) -> dict[str, Any]:
    """``rope_parameters``: the base, and how positions were stretched when the file was made."""
    words = {
        "rope_theta": get("rope.freq_base", 10000.0),
        "original_max_position_embeddings": get("rope.scaling.original_context_length"),
    }
    # As llama.cpp reads them: the type is linear unless it is said, and files once had one key.
    kind = get("rope.scaling.type", "linear")
    factor = get("rope.scaling.factor", None) or get("rope.scale_linear", None) or 1.0
    given = get("rope.scaling.attn_factor")
    if _LLAMA3_FACTORS in index.tensors:  # llama3 is stored as the factors that it comes to
        factors = read_floats(index, _LLAMA3_FACTORS)
        both = {"short_factor": factors, "long_factor": factors}
        words |= {"rope_type": "longrope", "attention_factor": 1.0, **both}
    elif _FACTORS["long_factor"] in index.tensors:
        both = {word: read_floats(index, tensor) for word, tensor in _FACTORS.items()}
        words |= {"rope_type": "longrope", "attention_factor": given, **both}
    elif kind == "linear" and factor != 1.0:
        words |= {"rope_type": kind, "factor": factor}
    elif kind == "yarn":
        words |= {
            "rope_type": kind,
            "factor": factor,
            # llama.cpp multiplies what is given by YaRN's own
            "attention_factor": given and given * (0.1 * math.log(factor) + 1),
            "beta_fast": get("rope.scaling.yarn_beta_fast"),
            "beta_slow": get("rope.scaling.yarn_beta_slow"),
        }
    elif kind not in ("none", "linear"):
        raise ValueError(f"rope.scaling.type = {kind!r} is not built; valid: none, linear, yarn")
    return {word: value for word, value in words.items() if value is not None}


def read_floats(index: GgufIndex, name: str) -> list[float]:
    """A small float32 tensor. Raises ``ValueError`` for another type."""
    where = index.tensors[name]
    if where.kind != _FLOAT32:
        raise ValueError(f"tensor '{name}' must be of type F32")
    count = math.prod(where.shape)
    with index.path.open("rb") as file:
        file.seek(where.offset)
        held = file.read(4 * count)
    if len(held) < 4 * count:
        raise ValueError(f"tensor '{name}' is cut off: the file ends early")
    return list(struct.unpack(f"<{count}f", held))
