"""flash-linear-attention's models: RetNet, GLA, RWKV-6 and RWKV-7 on Triton kernels.

Its kernels are for GPUs alone, and this has never run on one; its RetNet ran on a CPU in Triton's
interpreter. Widths and layers are those of the series' model, but the package's blocks differ from
the native ones in norms and rotation and draw their own weights: its logits compare with no other
engine's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
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
)
from ctxsweep.backends.torch_device import synchronize
from ctxsweep.models import catalog
from ctxsweep.models.config import ModelConfig
from ctxsweep.records import Cost, Series

PIP = "pip install flash-linear-attention==0.6.0"
NEAREST = "Use backend native (RetNet, RWKV-6, RWKV-7) or rwkv (RWKV-6, RWKV-7)"
FAMILIES = ("retnet", "gla", "rwkv6", "rwkv7")


class FlaModels:
    """One causal language model of ``fla.models`` with its cache object."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=True, logits=True)

    def __init__(self, series: Series, limits: Limits) -> None:
        import torch

        self._series, self._limits = series, limits
        self._device = torch.device(limits.device)
        self._model = _model(series, limits)
        self.vocab_size = int(self._model.config.vocab_size)
        self._length = 0
        self._cache: Any = None
        self._logits: Any = None
        self._mark: Mark | None = None

    @classmethod
    def availability(cls) -> Unsupported | None:
        why = "its Triton kernels run on a GPU alone"
        return cuda_packages.missing("flash-linear-attention", "fla", PIP, why, NEAREST)

    @classmethod
    def check(cls, series: Series) -> None:
        check_options(series, {})
        own_config(series)
        for key in ("window", "sinks", "rope"):
            if getattr(series, key) is not None:
                raise InvalidSeries(key, "these models have no softmax attention; leave it out")
        if series.kv_dtype != "auto":
            raise InvalidSeries("kv_dtype", "these models keep no keys and values; leave it out")

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        return None

    @classmethod
    def load(cls, series: Series, limits: Limits) -> FlaModels:
        cls.check(series)
        cuda_packages.check_device("flash-linear-attention", limits, "backend native")
        try:
            import fla  # noqa: F401 - registers its models with transformers
        except ImportError as error:
            raise Unsupported(f"fla cannot be imported: {error}", PIP) from error
        return cls(series, limits)

    def prefill(self, tokens: Tokens) -> None:
        import torch

        self._limits.check_room(self._length + tokens.shape[1])
        ids = torch.as_tensor(tokens, device=self._device)
        one_by_one = self._series.prefill_chunk == "recurrent"
        for piece in ids.split(1, dim=1) if one_by_one else (ids,):
            self._forward(piece)

    def decode(self) -> None:
        if self._logits is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._limits.check_room(self._length + 1)
        self._forward(self._logits.argmax(dim=-1, keepdim=True))

    def logits(self) -> Logits:
        if self._logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return cast("Logits", self._logits.float().cpu().numpy())

    def reset(self) -> None:
        self._length = 0
        self._cache = self._logits = self._mark = None

    def memory(self) -> HeldMemory:
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in self._model.parameters()}
        states = {
            t.data_ptr(): t.numel() * t.element_size()
            for t in _state_tensors(list(self._cache or ()))
        }
        held = sum(states.values())
        return HeldMemory(sum(weights.values()), held, held)

    def cost(self, context_tokens: int) -> Cost | None:
        return None

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        from importlib.metadata import version

        import torch

        folder = catalog.is_folder(self._series.model)
        seed = self._limits.seed
        return {
            "fla": version("flash-linear-attention"),
            "torch": torch.__version__,
            "architecture": type(self._model).__name__,
            "parameters": sum(p.numel() for p in self._model.parameters()),
            "weights": str(self._series.model) if folder else f"random, seed {seed}, drawn by fla",
            "cached_tokens": 0,  # there is no prefix cache: every token given is computed
            "next_tokens": [] if self._logits is None else self._logits.argmax(dim=-1).tolist(),
        }

    def snapshot(self) -> object:
        self._mark = Mark(self._length, self._logits, copy.deepcopy(self._cache))
        return self._mark

    def restore(self, mark: object) -> None:
        if mark is not self._mark or not isinstance(mark, Mark):
            raise ValueError("this mark is void: a newer one was taken, or the context was reset")
        self._length, self._logits = mark.length, mark.logits
        self._cache = copy.deepcopy(mark.cache)

    def close(self) -> None:
        del self._model
        self._cache = self._logits = self._mark = None

    def _forward(self, tokens: Any) -> None:
        """One pass over ``tokens`` ``[B, T]``."""
        import torch

        with torch.inference_mode():
            out = self._model(tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._length += tokens.shape[1]
        self._cache, self._logits = out.past_key_values, out.logits[:, -1]


class Mark(NamedTuple):
    """A length and a copy of the cache there."""

    length: int
    logits: Any
    cache: Any


def own_config(series: Series) -> dict[str, Any] | None:
    """The model in the package's words; None for a folder, which has its own.

    Raises ``InvalidSeries`` for a model that is none of the package's.
    """
    model, family = series.model, checkpoints.model_type(series.model)
    if family is not None:
        if family not in FAMILIES:
            raise InvalidSeries(
                "model.model_type", f"'{family}' is not driven; one of {', '.join(FAMILIES)}"
            )
        return dict(model) if isinstance(model, Mapping) else None
    config = checkpoints.model_config(series)
    if config is not None and set(config.layer_mixers()) == {"retention"}:
        return _retnet(config)
    if config is not None and set(config.layer_mixers()) == {"rwkv7"}:
        return _rwkv7(config)
    raise InvalidSeries(
        "model",
        f"'{model if config is None else config.name}' is none of {', '.join(FAMILIES)}; nearest: "
        "tiny-retnet, tiny-rwkv7, or a model_type of fla written out",
    )


def _stack(config: ModelConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _retnet(config: ModelConfig) -> dict[str, Any]:
    retention, ffn = config.retention, config.ffn
    if retention is None or ffn is None or ffn.kind != "swiglu" or ffn.experts:
        raise InvalidSeries("model", f"'{config.name}': fla's RetNet has dense swiglu blocks")
    return {
        "model_type": "retnet",
        **_stack(config),
        "num_heads": retention.heads,
        "expand_k": 1.0,
        "expand_v": float(retention.value_expand),
        "intermediate_size": ffn.size,
    }


def _rwkv7(config: ModelConfig) -> dict[str, Any]:
    section = config.rwkv7
    assert section is not None
    return {
        "model_type": "rwkv7",
        **_stack(config),
        "head_dim": section.head_dim,
        "decay_low_rank_dim": section.decay_rank,
        "a_low_rank_dim": section.rate_rank,
        "v_low_rank_dim": section.value_rank,
        "gate_low_rank_dim": section.gate_rank,
        "intermediate_size": config.channel_mix_size,
    }


def _model(series: Series, limits: Limits) -> Any:
    """The package's model, its weights drawn with the run's seed or read."""
    import fla.models  # noqa: F401 - registers its models with transformers
    import torch
    import transformers

    auto, dtype = transformers.AutoModelForCausalLM, getattr(torch, series.dtype)
    raw = own_config(series)
    if raw is None:
        model = auto.from_pretrained(str(series.model), dtype=dtype)
    else:
        config = transformers.AutoConfig.for_model(**raw)
        with torch.random.fork_rng():
            torch.manual_seed(limits.seed)
            model = auto.from_config(config)
    return model.to(device=limits.device, dtype=dtype).eval()


def _state_tensors(value: Any) -> Iterator[Any]:
    """Every tensor in a cache, which is a sequence of mappings of tensors and tuples of them."""
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _state_tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _state_tensors(part)
