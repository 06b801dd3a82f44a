"""Causal language models of transformers, called as its ``generate`` calls them.

Any model folder, any of our models that transformers has an architecture for, and any architecture
written out in the words of its ``config.json``. The cache is the one that the model makes itself;
it is not paged, so ``page_size`` means nothing here. Light to import: torch and transformers come
with ``load``.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ctxsweep.backends import checkpoints
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
from ctxsweep.backends.torch_device import check_device, out_of_memory, synchronize
from ctxsweep.backends.transformers_lm import cache as transformers_cache
from ctxsweep.backends.transformers_lm.config import (
    check_family,
    check_prefill,
    check_rope,
    check_window,
    fields,
    forgets,
    keeps_state,
)
from ctxsweep.backends.transformers_lm.model import (
    KERNEL_PACKAGES,
    check_positions,
    kernels_of,
    load_model,
)
from ctxsweep.models import accounting
from ctxsweep.models.accounting import Storage
from ctxsweep.records import Cost, Series

if TYPE_CHECKING:
    import torch

OLDEST = 5
"""Major version whose cache objects are read here."""
OPTIONS = {"attn_implementation": ("sdpa", "eager")}


class TransformersBackend:
    """One model of transformers with its cache object for a batch."""

    capabilities = Capabilities(snapshot=True, chunked_prefill=True, logits=True)

    def __init__(self, series: Series, limits: Limits, model: Any) -> None:
        import torch

        from ctxsweep.models.language_model import weight_bytes

        self._series = series
        self._limits = limits
        self._model = model
        self._device = torch.device(limits.device)
        self._weights_bytes = weight_bytes(model)
        self._family: str = model.config.model_type
        self._takes = inspect.signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in self._takes else "past_key_values"
        self.vocab_size: int = model.config.get_text_config().vocab_size
        onwards = keeps_state(self._family, series)
        self.capabilities = Capabilities(snapshot=onwards, chunked_prefill=onwards, logits=True)
        self.reset()
        self._cache_type = self._probe()

    @classmethod
    def availability(cls) -> Unsupported | None:
        for package in ("torch", "transformers"):
            if find_spec(package) is None:
                return Unsupported(f"{package} is not installed", f"pip install {package}")
        found = version("transformers")
        if int(found.split(".")[0]) < OLDEST:
            return Unsupported(
                f"transformers {found} has other cache objects than those read here",
                f"pip install 'transformers>={OLDEST}'",
            )
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        config = checkpoints.check_model(series)
        family = str(fields(series, config)["model_type"])
        if series.kv_dtype not in ("auto", series.dtype):
            raise InvalidSeries(
                "kv_dtype",
                f"{series.kv_dtype}: transformers caches in the model's dtype; nearest valid: auto",
            )
        check_options(series, OPTIONS)
        check_prefill(family, series)
        check_window(family, series, config)
        check_rope(series, config)

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        config = checkpoints.known_config(series)
        if config is None:
            return None
        chunk = chunk_tokens(series, context_tokens)
        storage = Storage(series.dtype, page_size=1)
        cost = accounting.cost(config, storage, context_tokens, batch_size, chunk)
        held = transformers_cache.cache_bytes(config, series.dtype, context_tokens, batch_size)
        return cost.model_copy(update={"cache_bytes": held})

    @classmethod
    def load(cls, series: Series, limits: Limits) -> TransformersBackend:
        import torch

        cls.check(series)
        check_device(limits.device)
        torch.set_num_threads(limits.threads)
        with out_of_memory("loading"), kernels_of(limits.device):
            check_family(str(fields(series, checkpoints.known_config(series))["model_type"]))
            model = load_model(checkpoints.model_folder(series, limits.seed), series)
            check_positions(model, limits.max_context_tokens)
            return cls(series, limits, model.to(limits.device).eval().requires_grad_(False))

    def _probe(self) -> str:
        """The type of the cache object that the model hands out; ``Unsupported`` if none."""
        import torch

        self._forward(torch.zeros(self._limits.batch_size, 1, dtype=torch.long))
        cache, _ = self._cache, self.reset()
        if cache is None:
            raise Unsupported(
                f"transformers' {self._family} keeps its state where it cannot be read or dropped",
                "Take a family with a cache object, such as llama, mamba2 or falcon_h1",
            )
        return type(cache).__name__

    def prefill(self, tokens: Tokens) -> None:
        import torch

        ids = torch.as_tensor(tokens)
        if self._length and tokens.shape[1] > 1 and not self.capabilities.chunked_prefill:
            raise forgets(self._family, f"{tokens.shape[1]} tokens after {self._length}")
        pieces = ids.split(1, dim=1) if self._series.prefill_chunk == "recurrent" else (ids,)
        for piece in pieces:
            self._forward(piece)

    def decode(self) -> None:
        if self._next is None:
            raise RuntimeError("decode needs a context: prefill first")
        self._forward(self._next)

    def _forward(self, tokens: torch.Tensor) -> None:
        import torch

        start, end = self._length, self._length + tokens.shape[1]
        self._limits.check_room(end)
        settings: dict[str, Any] = {self._cache_name: self._cache, "use_cache": True}
        # Some families (Bamba, MiniMax) count from 0 in every call that does not name positions.
        if "position_ids" in self._takes:
            settings["position_ids"] = torch.arange(start, end, device=self._device)[None]
        if "logits_to_keep" in self._takes:
            settings["logits_to_keep"] = 1
        with torch.inference_mode(), out_of_memory(f"at {start} tokens"):
            out = self._model(tokens.to(self._device), **settings)
            self._logits = out.logits[:, -1]
            self._next = self._logits.argmax(dim=-1, keepdim=True)
        self._cache = getattr(out, self._cache_name, None)
        self._length = end

    def logits(self) -> Logits:
        if self._logits is None:
            raise RuntimeError("there are no logits yet: prefill first")
        return cast("Logits", self._logits.float().cpu().numpy())

    def reset(self) -> None:
        self._cache: Any = None
        self._length = 0
        self._next: torch.Tensor | None = None
        self._logits: torch.Tensor | None = None
        self._newest: object = None

    def memory(self) -> HeldMemory:
        used, reserved = transformers_cache.held_bytes(self._cache)
        return HeldMemory(self._weights_bytes, used, reserved)

    def cost(self, context_tokens: int) -> Cost | None:
        return self.estimate(self._series, context_tokens, self._limits.batch_size)

    def synchronize(self) -> None:
        synchronize(self._limits.device)

    def engine(self) -> dict[str, Any]:
        import torch

        on_gpu = self._device.type == "cuda"
        return {
            "torch": torch.__version__,
            "transformers": version("transformers"),
            "threads": torch.get_num_threads(),
            "architecture": type(self._model).__name__,
            "model": self._model.config.to_diff_dict(),
            "attn_implementation": self._model.config._attn_implementation,
            "cache": self._cache_type,
            "kernel_packages": [name for name in KERNEL_PACKAGES if on_gpu and find_spec(name)],
            "weights": checkpoints.weights_name(self._series, self._limits.seed),
            "parameters": {"all": self._model.num_parameters()},
            "cached_tokens": 0,  # every round begins without a cache object
            "next_tokens": [] if self._next is None else self._next.flatten().tolist(),
        }

    def snapshot(self) -> object:
        import torch

        with torch.inference_mode():
            held = transformers_cache.mark(self._cache)
        self._newest = (held, self._length, self._next, self._logits)
        return self._newest

    def restore(self, mark: object) -> None:
        import torch

        if mark is not self._newest or mark is None:
            raise ValueError("the mark is void: only the newest can be restored, until a reset")
        held, self._length, self._next, self._logits = cast("tuple[Any, int, Any, Any]", mark)
        with torch.inference_mode():
            self._cache = transformers_cache.restored(held, self._cache)

    def close(self) -> None:
        del self._model
        self.reset()
