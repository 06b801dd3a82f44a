"""The weights of a model as a GGUF file, which is what llama.cpp reads.

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names and forms of the tensors are
those of llama.cpp's ``convert_hf_to_gguf.py``. No tokenizer is written: prompts are token ids.
Light to import: torch and gguf come with the first file written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries
from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Series

if TYPE_CHECKING:
    import gguf
    from torch import Tensor

FORMAT = 1
"""Raised when the same weights would give another file."""
EXPAND = 2
"""The only width of Mamba's inner projections over the hidden size that llama.cpp takes."""


def check(series: Series) -> ModelConfig:
    """The series' model, if llama.cpp has an architecture for it; else ``InvalidSeries``."""
    config = checkpoints.model_config(series)
    if config is None:
        raise InvalidSeries(
            "model", "no GGUF is written for this architecture; nearest: a Llama, tiny-gqa"
        )
    checkpoints.check_form(series, config)
    problem = _problem(config)
    if problem is not None:
        if series.window is not None and config.attention is not None:
            raise InvalidSeries("window", f"{problem}; leave it out")
        raise InvalidSeries("model", f"'{config.name}': {problem}")
    return config


def gguf_file(series: Series, config: ModelConfig, seed: int) -> Path:
    """The GGUF of the series' model in the series' dtype; written once and kept.

    Its weights are those of ``checkpoints.model_folder``. Raises what reading that folder raises.
    """
    folder = checkpoints.model_folder(series, seed)
    files = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(folder.iterdir())]
    own = catalog.is_folder(series.model)
    identity = {
        "gguf": FORMAT,
        "folder": [str(folder.resolve()), files] if own else folder.name,
        "dtype": series.dtype,
    }

    def write(into: Path) -> None:
        import torch

        from ctxsweep.models.weights import load_folder

        model = load_folder(folder, getattr(torch, series.dtype), torch.device("cpu"), config)
        _write(into / "model.gguf", config, model.state_dict())

    return checkpoints.kept(identity, seed, write) / "model.gguf"


def architecture(config: ModelConfig) -> str:
    """llama.cpp's name of the architecture."""
    kinds = set(config.layer_mixers())
    if kinds == {"attention"}:
        return "llama"
    return "granitehybrid" if len(kinds) > 1 else {"mamba1": "mamba"}.get(*kinds, *kinds)


def _problem(config: ModelConfig) -> str | None:
    """Why llama.cpp has no architecture for a model that transformers has one for."""
    attention, mamba = config.attention, config.mamba
    if config.norm != "rmsnorm":
        return "only models with RMS norms are written as GGUF; nearest: tiny-gqa"
    if attention is not None and attention.window is not None:
        return "llama.cpp's Llama has no sliding window"
    if attention is not None and attention.rope is not None:
        return f"this adapter writes no stretched RoPE ({attention.rope.rope_type}) into a GGUF"
    if attention is not None and attention.rotary_dim not in (None, attention.head_dim):
        return f"it turns {attention.rotary_dim} of {attention.head_dim} dimensions, GGUF's all"
    if mamba is not None and mamba.expand != EXPAND:
        return f"llama.cpp takes mamba.expand = {EXPAND} only, not {mamba.expand}"
    if mamba is not None and mamba.groups > 1:
        return f"llama.cpp norms each of {mamba.groups} groups by itself; set mamba.groups: 1"
    return _unwritten(config)


def _unwritten(config: ModelConfig) -> str | None:
    """A setting that has no place in the architectures written here, and would be left out."""
    attention, ffn, mamba = config.attention, config.ffn, config.mamba
    kinds = set(config.layer_mixers())
    rotary = attention is None or attention.position == "rope"
    there = {
        "hybrid of Mamba-1": kinds == {"mamba1", "attention"},
        "attention without rotary positions": not rotary,
        f"{ffn and ffn.kind} block": ffn is not None and ffn.kind != "swiglu",
        "router over all experts": ffn is not None and ffn.router != "chosen",
        "experts in some layers only": ffn is not None and ffn.experts_every > 1,
        "feed-forward blocks in some layers only": ffn is not None and ffn.layers != "all",
        "parallel blocks": config.residual != "sequential",
        "scaled embedding": config.embedding_scale is not None,
        "norm after the embedding": config.embedding_norm,
        "bias of the head": config.head_bias,
        "layers that share weights": config.attention_shared,
        "norms within Mamba-1": mamba is not None and mamba.inner_norms,
    }
    part = next((part for part, is_there in there.items() if is_there), None)
    return part and f"this adapter writes no {part} into a GGUF; nearest: tiny-gqa"


def _write(path: Path, config: ModelConfig, weights: dict[str, Tensor]) -> None:
    import gguf

    writer = gguf.GGUFWriter(path, architecture(config))
    _describe(writer, config)
    for ours, tensor in weights.items():
        if ours == "head.weight" and config.tied_embeddings:
            continue
        for name, part in _tensors(ours, tensor, config):
            _add(writer, name, part)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The keys that llama.cpp builds the model from."""
    ffn, experts = config.ffn, config.ffn.experts if config.ffn else 0
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(ffn.size if ffn else 0)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    if experts and ffn:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(ffn.experts_per_token)
    kinds = config.layer_mixers()
    if config.attention is None:
        writer.add_head_count(0)
    else:
        heads = config.attention
        # A layer without heads of its own is what llama.cpp takes for a recurrent one.
        kv_heads = [heads.kv_heads if kind == "attention" else 0 for kind in kinds]
        writer.add_head_count(heads.heads)
        writer.add_head_count_kv(kv_heads if 0 in kv_heads else heads.kv_heads)
        writer.add_key_length(heads.head_dim)
        writer.add_value_length(heads.head_dim)
        writer.add_rope_dimension_count(heads.head_dim)
        writer.add_rope_freq_base(heads.rope_theta)
    if config.mamba is not None:
        _describe_mamba(writer, config)


def _describe_mamba(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    mamba = config.mamba
    assert mamba is not None
    inner = mamba.expand * config.hidden_size
    writer.add_ssm_conv_kernel(mamba.conv_kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(mamba.state_size)
    if config.mixer == "mamba1":
        writer.add_ssm_time_step_rank(config.dt_rank)
        return
    writer.add_ssm_time_step_rank(inner // mamba.head_dim)
    writer.add_ssm_group_count(mamba.groups)
    if config.attention is not None:
        writer.add_rope_scaling_finetuned(True)  # Granite's switch for RoPE


_OUTER = {"embedding": "token_embd", "norm": "output_norm", "head": "output"}
_INNER = {
    "mixer_norm": "attn_norm",
    "ffn_norm": "ffn_norm",
    "mixer.out": "attn_output",
    "ffn.down": "ffn_down",
    "ffn.router": "ffn_gate_inp",
    "mixer.in_proj": "ssm_in",
    "mixer.conv1d": "ssm_conv1d",
    "mixer.x_proj": "ssm_x",
    "mixer.dt_proj": "ssm_dt",
    "mixer.norm": "ssm_norm",
    "mixer.out_proj": "ssm_out",
}


def _tensors(ours: str, tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file that one of the native model's becomes."""
    outer = ours.partition(".")
    if outer[0] in _OUTER:
        yield f"{_OUTER[outer[0]]}.{outer[2]}", tensor
        return
    _, layer, own = ours.split(".", 2)
    part, _, kind = own.rpartition(".")
    blk = f"blk.{layer}."
    if part == "mixer.qkv":
        yield from ((f"{blk}attn_{n}.{kind}", t) for n, t in _qkv(tensor, config))
    elif part == "ffn.gate_up":
        gate, up = tensor.chunk(2)
        yield from ((f"{blk}ffn_gate.{kind}", gate), (f"{blk}ffn_up.{kind}", up))
    elif own == "ffn.up":  # of all experts, [E, gate + up, H]
        gate, up = tensor.chunk(2, dim=1)
        yield from ((f"{blk}ffn_gate_exps.weight", gate), (f"{blk}ffn_up_exps.weight", up))
    elif own == "ffn.down":
        yield f"{blk}ffn_down_exps.weight", tensor
    elif own == "mixer.A_log":
        yield f"{blk}ssm_a", _per_head(-tensor.float().exp(), config)
    elif own == "mixer.D":
        yield f"{blk}ssm_d", _per_head(tensor.float(), config)
    elif own == "mixer.dt_bias":
        yield f"{blk}ssm_dt.bias", tensor
    elif part == "mixer.norm":
        yield f"{blk}ssm_norm.{kind}", tensor.float()[None]  # one group
    elif own == "mixer.conv1d.weight":
        yield f"{blk}ssm_conv1d.weight", tensor.float().squeeze(1)
    else:
        full = tensor.float() if part == "ffn.router" else tensor
        yield f"{blk}{_INNER[part]}.{kind}", full


def _qkv(tensor: Tensor, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Queries and keys with RoPE's pairs side by side, as llama.cpp turns them; values."""
    a = config.attention
    assert a is not None
    ends = (a.heads * a.head_dim, (a.heads + a.kv_heads) * a.head_dim)
    parts = tensor.tensor_split(ends)
    for name, heads, part in zip("qkv", (a.heads, a.kv_heads, a.kv_heads), parts, strict=True):
        if name == "v":
            yield name, part
        else:
            halves = part.reshape(heads, 2, a.head_dim // 2, *part.shape[1:])
            yield name, halves.transpose(1, 2).reshape(part.shape)


def _per_head(tensor: Tensor, config: ModelConfig) -> Tensor:
    """Mamba-2 has one value a head, which llama.cpp holds as a column."""
    return tensor if config.mixer == "mamba1" else tensor[:, None]


def _add(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    """One tensor in its own type; vectors in float32, as llama.cpp's kernels want them."""
    import gguf
    import torch

    if tensor.dim() == 1:
        tensor = tensor.float()
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:  # numpy has none: its bytes
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=kind)
    else:
        writer.add_tensor(name, tensor.numpy())
