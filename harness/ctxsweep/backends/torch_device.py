"""What the adapters of engines in torch share: is the device there, wait for it, out of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ctxsweep.backends.base import Unsupported


def check_device(device: str) -> None:
    """Raise ``Unsupported`` for a GPU that torch does not find."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Unsupported(
            "torch finds no CUDA device", "Use --device cpu, or a CUDA build of torch"
        )


def synchronize(device: str) -> None:
    """Wait until the device has done all that was asked; a CPU has."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


@contextmanager
def out_of_memory(doing: str) -> Iterator[None]:
    """Raise ``MemoryError``, with what was being done, when torch is refused memory."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise MemoryError(f"{doing}: {error}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"{doing}: {error}") from error
