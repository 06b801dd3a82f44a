"""Compile an op's C file for this machine on first use, and load it.

The library is kept under `$XDG_CACHE_HOME/ctxsweep` (`~/.cache/ctxsweep`), named by a digest of all
that decides its content: sources, flags, compiler and the processor's instruction sets. It is
written beside its final name and then renamed, so processes that build at once do not disturb each
other.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared")
SHARED_SOURCES = Path(__file__).parent


class BuildFailed(RuntimeError):
    """The compiler refused an op's C file."""


def compiler() -> str | None:
    """The C compiler: `$CC`, else the first of cc, gcc and clang on the PATH; None without one."""
    named = os.environ.get("CC")
    return next(filter(None, map(shutil.which, (named,) if named else COMPILERS)), None)


@cache
def library(source: Path, architecture: str = "native") -> ctypes.CDLL:
    """Compile `source` unless that was done before, and load it.

    architecture: what `-march` says; the default is this machine.

    Raises:
        BuildFailed: there is no compiler, it reports errors, or the cache cannot be written.
    """
    command = compiler()
    if command is None:
        raise BuildFailed(f"{source.name} needs a C compiler; install gcc or clang, or set CC")
    flags = [*FLAGS, f"-march={architecture}"]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctxsweep"
    try:
        target = folder / f"{source.stem}-{_digest(source, command, flags)}.so"
        if not target.exists():
            _compile(source, command, flags, target)
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise BuildFailed(
            f"{source.name} cannot be built in {folder} and loaded from there: {error}; "
            "set XDG_CACHE_HOME to another folder"
        ) from error


def _compile(source: Path, command: str, flags: list[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built = Path(scratch) / target.name
        done = subprocess.run(
            [command, *flags, f"-I{SHARED_SOURCES}", "-o", str(built), str(source)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BuildFailed(f"{command} cannot compile {source}:\n{done.stderr.strip()}")
        built.replace(target)


def _digest(source: Path, command: str, flags: list[str]) -> str:
    version = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
    parts = [version, *flags, platform.machine(), _instruction_sets(), source.read_text()]
    headers = [*SHARED_SOURCES.glob("*.h"), *source.parent.glob("*.h")]
    parts += [header.read_text() for header in sorted(headers)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _instruction_sets() -> str:
    """What `-march=native` depends on; Linux names it, elsewhere the processor's name must do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    keys = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(keys)}))
