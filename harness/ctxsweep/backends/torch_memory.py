"""torch's ways of saying that memory ran out, as one exception."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
