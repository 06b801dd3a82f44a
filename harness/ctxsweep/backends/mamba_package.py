"""The mamba-ssm package: its authors' Mamba-1 (arXiv 2312.00752) and Mamba-2 (arXiv 2405.21060).

Its kernels are for GPUs alone, and this has never run on one. On a CPU, with Triton's interpreter
and the package's own reference of its CUDA scan, logits are those of the native model.

A prompt is prefilled whole: once a state exists the package takes single tokens only.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from ctxsweep.backends import checkpoints, cuda_packages
from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Tokens,
    Unsupported,
    check_options,
    chunk_tokens,
)
from ctxsweep.backends.torch_device import synchronize
from ctxsweep.models import accounting
from ctxsweep.models.accounting import Storage
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Cost, Series

PIP = "pip install --no-build-isolation mamba-ssm==2.3.2.post1 causal-conv1d"
NEAREST = "Use backend native or transformers with the same model"
NORM_EPS = 1e-5
"""The package's norms have no other."""


class MambaPackage:
    """One ``MambaLMHeadModel`` and the states of a batch."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=False, logits=True)

    def __init__(self, series: Series, limits: Limits, config: ModelConfig) -> None:
        import torch
        from mamba_ssm.utils.generation import InferenceParams

        self.vocab_size = config.vocab_size
        self._series, self._limits, self._config = series, limits, config
        self._device = torch.device(limits.device)
        self._model = _model(series, limits, config)
        states = self._model.allocate_inference_cache(limits.batch_size, limits.max_context_tokens)
        self._params = InferenceParams(
            max_seqlen=limits.max_context_tokens,
            max_batch_size=limits.batch_size,
            key_value_memory_dict=states,
        )
        self._states = [tensor for pair in states.values() for tensor in pair]
        self._logits: Any = None
        self._mark: Mark | None = None

    @classmethod
    def availability(cls) -> Unsupported | None:
        why = "its scan is a CUDA extension (selective_scan_cuda) and Triton kernels"
        return cuda_packages.missing("mamba-ssm", "mamba_ssm", PIP, why, NEAREST)

    @classmethod
    def check(cls, series: Series) -> None:
        check_options(series, {})
        checkpoints.check_kv_dtype(series, _config(series))
        if series.rope is not None:
            raise InvalidSeries("rope", "Mamba has no rotary positions; leave it out")
        if isinstance(series.prefill_chunk, int):
            raise InvalidSeries(
                "prefill_chunk",
                f"{series.prefill_chunk} cannot be: mamba-ssm prefills a prompt whole or token by "
                "token; nearest valid: whole",
            )

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        config = _config(series)
        chunk = chunk_tokens(series, context_tokens)
        storage = Storage(series.dtype)
        cost = accounting.cost(config, storage, context_tokens, batch_size, chunk)
        held = batch_size * config.num_layers * _state_values(config) * storage.element_bytes
        return cost.model_copy(update={"cache_bytes": held})

    @classmethod
    def load(cls, series: Series, limits: Limits) -> MambaPackage:
        cls.check(series)
        cuda_packages.check_device("mamba-ssm", limits, "backend native")
        try:
            import mamba_ssm  # noqa: F401 - its extensions load with it
        except ImportError as error:
            raise Unsupported(f"mamba_ssm cannot be imported: {error}", PIP) from error
        return cls(series, limits, _config(series))

    def prefill(self, tokens: Tokens) -> None:
        import torch

        self._limits.check_room(self._params.seqlen_offset + tokens.shape[1])
        ids = torch.as_tensor(tokens, device=self._device)
        whole = self._series.prefill_chunk == "whole" and not self._params.seqlen_offset
        for piece in (ids,) if whole else ids.split(1, dim=1):
            self._forward(piece)

    def decode(self) -> None:
        if self._logits is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._limits.check_room(self._params.seqlen_offset + 1)
        self._forward(self._logits.argmax(dim=-1, keepdim=True))

    def logits(self) -> Logits:
        if self._logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return cast("Logits", self._logits.float().cpu().numpy())

    def reset(self) -> None:
        for state in self._states:
            state.zero_()
        self._params.seqlen_offset = 0
        self._logits = self._mark = None

    def memory(self) -> HeldMemory:
        held = sum(state.numel() * state.element_size() for state in self._states)
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in self._model.parameters()}
        return HeldMemory(sum(weights.values()), held, held)

    def cost(self, context_tokens: int) -> Cost | None:
        return self.estimate(self._series, context_tokens, self._limits.batch_size)

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        from importlib.metadata import version
        from importlib.util import find_spec

        import torch

        return {
            "mamba_ssm": version("mamba_ssm"),
            "causal_conv1d": find_spec("causal_conv1d") is not None,
            "torch": torch.__version__,
            "model": self._config.model_dump(mode="json", exclude_none=True),
            "parameters": sum(accounting.parameters(self._config).values()),
            "weights": checkpoints.weights_name(self._series, self._limits.seed),
            "cached_tokens": 0,  # there is no prefix cache: every token given is computed
            "next_tokens": [] if self._logits is None else self._logits.argmax(dim=-1).tolist(),
        }

    def snapshot(self) -> object:
        states = [state.clone() for state in self._states]
        self._mark = Mark(self._params.seqlen_offset, self._logits, states)
        return self._mark

    def restore(self, mark: object) -> None:
        if mark is not self._mark or not isinstance(mark, Mark):
            raise ValueError("this mark is void: a newer one was taken, or the context was reset")
        for state, kept in zip(self._states, mark.states, strict=True):
            state.copy_(kept)
        self._params.seqlen_offset, self._logits = mark.length, mark.logits

    def close(self) -> None:
        del self._model, self._params, self._states
        self._logits = self._mark = None

    def _forward(self, tokens: Any) -> None:
        """One pass over ``tokens`` ``[B, T]``; T is 1 once there is a state."""
        import torch

        with torch.inference_mode():
            out = self._model(tokens, inference_params=self._params, num_last_tokens=1)
        self._params.seqlen_offset += tokens.shape[1]
        self._logits = out.logits[:, -1]


class Mark(NamedTuple):
    """A length and the states there."""

    length: int
    logits: Any
    states: list[Any]


def _config(series: Series) -> ModelConfig:
    """The series' model, if it is a plain stack of the package's mixers."""
    config = checkpoints.model_config(series)
    if config is None or set(config.layer_mixers()) - {"mamba1", "mamba2"} or config.ffn:
        name = series.model if config is None else config.name
        raise InvalidSeries(
            "model", f"'{name}' is no plain stack of Mamba layers; nearest: tiny-mamba2"
        )
    checkpoints.check_form(series, config)
    if config.norm_eps != NORM_EPS:
        raise InvalidSeries(
            "model", f"mamba-ssm's norm_eps is {NORM_EPS:g}, not {config.norm_eps:g}"
        )
    if config.mamba is not None and config.mamba.groups > 1:
        raise InvalidSeries("model", "mamba-ssm norms each group by itself; set mamba.groups: 1")
    return config


def _state_values(config: ModelConfig) -> int:
    """Values of one sequence's state in one layer: convolution and scan, in the weights' type."""
    mamba = config.mamba
    assert mamba is not None
    inner = mamba.expand * config.hidden_size
    shared = 2 * mamba.groups * mamba.state_size if config.mixer == "mamba2" else 0
    return (inner + shared) * mamba.conv_kernel + inner * mamba.state_size


def _model(series: Series, limits: Limits, config: ModelConfig) -> Any:
    """The package's model with the shared checkpoint's weights."""
    import torch
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    from safetensors.torch import load_file

    device, dtype = torch.device(limits.device), getattr(torch, series.dtype)
    described = MambaConfig(
        d_model=config.hidden_size,
        n_layer=config.num_layers,
        vocab_size=config.vocab_size,
        ssm_cfg=_mixer(config),
        rms_norm=True,
        residual_in_fp32=False,
        fused_add_norm=device.type == "cuda",
        pad_vocab_size_multiple=1,
        tie_embeddings=config.tied_embeddings,
    )
    model = MambaLMHeadModel(described, device=device, dtype=dtype)
    stored: dict[str, torch.Tensor] = {}
    for file in sorted(checkpoints.model_folder(series, limits.seed).glob("*.safetensors")):
        stored |= load_file(file)
    renamed = {own_name(name): tensor for name, tensor in stored.items()}
    if config.tied_embeddings:
        renamed["lm_head.weight"] = renamed["backbone.embedding.weight"]
    model.load_state_dict(renamed)
    return model.eval()


def own_name(name: str) -> str:
    """The package's name of a tensor that transformers stores."""
    return name.replace("backbone.embeddings.", "backbone.embedding.")


def _mixer(config: ModelConfig) -> dict[str, Any]:
    mamba = config.mamba
    assert mamba is not None
    both = {"d_state": mamba.state_size, "d_conv": mamba.conv_kernel, "expand": mamba.expand}
    if config.mixer == "mamba1":
        return {"layer": "Mamba1", "dt_rank": mamba.dt_rank or "auto", **both}
    return {"layer": "Mamba2", "headdim": mamba.head_dim, "ngroups": mamba.groups, **both}
