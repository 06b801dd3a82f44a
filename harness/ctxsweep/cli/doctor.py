"""``ctxsweep doctor``: what this machine has, and what would make its figures better."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ctxsweep.backends.base import BACKENDS
from ctxsweep.cli.find import require_device, resolve_device
from ctxsweep.measure.ceilings import measure_ceilings
from ctxsweep.measure.environment import (
    available_memory_bytes,
    logical_cores,
    physical_cores,
    read_environment,
)
from ctxsweep.records import Ceilings, Environment
from ctxsweep_kernels.native.build import compiler

QUICK_S = 1.5
MIN_FREE_DISK_BYTES = 1 << 30
MIN_FREE_MEMORY_BYTES = 4 << 30
BUSY_LOAD_PER_CORE = 0.3


def print_diagnosis(wanted: str) -> None:
    """Print the machine, its ceilings measured in about two seconds, and advice."""
    device = resolve_device(wanted)
    require_device(device)
    threads = physical_cores()
    environment = read_environment(device, threads)
    ceilings = measure_ceilings(device, threads, budget_s=QUICK_S)
    table = Table(show_header=False, box=None)
    for name, value in (*_machine(environment), *_ceilings(ceilings), *_engines()):
        table.add_row(f"[bold]{name}[/]", value)
    console = Console(highlight=False)
    console.print(table)
    advice = list(_advice(environment))
    for line in advice:
        console.print(f"• {line}")
    if not advice:
        console.print("Nothing that would improve it is seen from here.")


def print_engines() -> None:
    """Print which engines run here, and why the others do not."""
    table = Table(show_header=False, box=None)
    for name, value in _engines():
        table.add_row(f"[bold]{name}[/]", value)
    Console(highlight=False).print(table)


def _machine(environment: Environment) -> Iterator[tuple[str, str]]:
    yield "device", environment.device + (f" ({environment.gpu})" if environment.gpu else "")
    yield "processor", environment.cpu_model
    yield "threads", f"{environment.threads} ({logical_cores()} logical processors usable)"
    free, total = available_memory_bytes(), environment.memory_bytes
    yield "memory", f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    yield "disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB free here"
    yield "software", ", ".join(f"{k} {v}" for k, v in environment.versions.items())


def _ceilings(ceilings: Ceilings) -> Iterator[tuple[str, str]]:
    for dtype, rate in ceilings.matmul_flops_per_s.items():
        yield f"matmul {dtype}", f"{rate / 1e9:,.1f} GFLOP/s"
    yield "read bandwidth", f"{ceilings.read_bytes_per_s / 1e9:,.1f} GB/s"


def _engines() -> Iterator[tuple[str, str]]:
    for name, entry in BACKENDS.items():
        problem = entry.adapter().availability()
        yield f"engine {name}", "runs here" if problem is None else f"no: {problem}"


def _advice(environment: Environment) -> Iterator[str]:
    busy = environment.load_average / environment.logical_cores
    if busy > BUSY_LOAD_PER_CORE:
        yield (
            f"Load average {environment.load_average:.1f} on {environment.logical_cores} "
            "processors: end other work, or times will be noisy and flagged as contended."
        )
    if environment.cpu_governor not in (None, "performance"):
        yield (
            f"Clock governor '{environment.cpu_governor}': set it to 'performance' "
            "(cpupower frequency-set -g performance) for steadier times."
        )
    flags = set(environment.cpu_flags)
    if environment.device == "cpu" and not flags & {"avx512_bf16", "amx_bf16", "bf16"}:
        yield "No bfloat16 instructions: bfloat16 models compute slowly here; prefer float32."
    if "hypervisor" in flags:
        yield "A virtual machine: its neighbours can slow it; look at the sentinel's drift."
    if environment.device == "cpu" and compiler() is None:
        yield (
            "No C compiler: native attention runs in torch, which is slower over a long cache; "
            "install gcc or clang, or set CC."
        )
    if environment.device == "cpu":
        yield "No GPU is used: scenarios run their cpu profile, with small models."
    if environment.other_gpu_processes:
        yield f"{environment.other_gpu_processes} other processes are on the GPU: end them."
    if available_memory_bytes() < MIN_FREE_MEMORY_BYTES:
        yield "Less than 4 GiB of memory is free: the longest contexts may end as 'oom'."
    if shutil.disk_usage(Path.cwd()).free < MIN_FREE_DISK_BYTES:
        yield "Less than 1 GiB of disk is free here: put results elsewhere with --out."
