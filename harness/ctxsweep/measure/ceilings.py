"""What this machine can do: the roofs under which a model's figures are read.

Matrix multiply in FLOP/s per dtype (2·n³ a product), and read bandwidth: bytes of an array, larger
than the last-level cache, that is read once (a sum, or a matrix-vector product as decode does;
the faster of the two). A ceiling is the best of several repetitions: noise only ever slows down.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ctxsweep.records import Ceilings

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
CACHE_MULTIPLE = 4
MIN_READ_BYTES = 64 << 20
MAX_READ_BYTES = 256 << 20
MIN_REPEATS = 3


def measure_ceilings(
    device: str, threads: int, memory_bytes: int | None = None, budget_s: float = 1.0
) -> Ceilings:
    """Measure in this process, in about ``budget_s``. ``memory_bytes`` bounds the array read.

    On a CPU the figures are repeated for 1, 2, 4, … ``threads`` threads; the number of threads is
    set back to ``threads``.
    """
    import torch

    counts = _thread_counts(threads) if device == "cpu" else [threads]
    share_s = budget_s / len(counts) / (len(DTYPES) + 1)
    data = _read_array(torch.device(device), memory_bytes)
    by_threads: dict[str, dict[str, float]] = {}
    for count in counts:
        torch.set_num_threads(count)
        figures = {name: _matmul(getattr(torch, name), device, share_s) for name in DTYPES}
        figures["read_bytes_per_s"] = _read_bandwidth(data, device, share_s)
        by_threads[str(count)] = figures
    return Ceilings(
        device=device,
        threads=threads,
        matmul_flops_per_s={name: by_threads[str(threads)][name] for name in DTYPES},
        read_bytes_per_s=by_threads[str(threads)]["read_bytes_per_s"],
        by_threads=by_threads,
    )


def last_level_cache_bytes(cpu: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the largest cache of a core; 0 where the system does not tell."""
    sizes = [0]
    for file in cpu.glob("index*/size"):
        match = re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip())
        if match:
            sizes.append(int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]])
    return max(sizes)


def read_array_bytes(cache_bytes: int, memory_bytes: int | None) -> int:
    """Several times the cache, yet at most an eighth of what the process may take."""
    wanted = min(max(CACHE_MULTIPLE * cache_bytes, MIN_READ_BYTES), MAX_READ_BYTES)
    return wanted if memory_bytes is None else min(wanted, memory_bytes // 8)


def best_time_s(
    call: Callable[[], object], synchronize: Callable[[], None], budget_s: float
) -> float:
    """Shortest of at least ``MIN_REPEATS`` calls after one to warm up."""
    call()
    synchronize()
    best, spent, repeats = float("inf"), 0.0, 0
    while repeats < MIN_REPEATS or spent < budget_s:
        start = time.perf_counter()
        call()
        synchronize()
        taken = time.perf_counter() - start
        best, spent, repeats = min(best, taken), spent + taken, repeats + 1
    return best


def _thread_counts(threads: int) -> list[int]:
    counts = [2**power for power in range(threads.bit_length()) if 2**power < threads]
    return [*counts, threads]


def _synchronize(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def _matmul(dtype: torch.dtype, device: str, budget_s: float) -> float:
    """The largest product that fits its share of the time: small ones do not fill the machine."""
    import torch

    rate, size, largest = 0.0, 256, 8192 if device.startswith("cuda") else 2048
    while size <= largest:
        a = torch.randn(size, size, device=device).to(dtype)
        b = torch.randn(size, size, device=device).to(dtype)
        taken_s = best_time_s(lambda a=a, b=b: a @ b, _synchronize(device), 0.0)  # type: ignore[misc]
        rate = max(rate, 2 * size**3 / taken_s)
        size *= 2
        if 2 * size**3 / rate * (MIN_REPEATS + 1) > budget_s:
            break
    return rate


def _read_array(device: torch.device, memory_bytes: int | None) -> torch.Tensor:
    import torch

    cache = last_level_cache_bytes()
    if device.type == "cuda":
        cache = torch.cuda.get_device_properties(device).L2_cache_size
    columns = 1024
    rows = max(1, read_array_bytes(cache, memory_bytes) // 4 // columns)
    return torch.ones(rows, columns, device=device)


def _read_bandwidth(data: torch.Tensor, device: str, budget_s: float) -> float:
    import torch

    vector = torch.ones(data.shape[1], device=device)
    wait = _synchronize(device)
    best = min(
        best_time_s(data.sum, wait, budget_s / 2),
        best_time_s(lambda: torch.mv(data, vector), wait, budget_s / 2),
    )
    return data.numel() * data.element_size() / best
