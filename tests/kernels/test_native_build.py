"""Compiling C on first use: once, by many at once, and with a clear word when it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctxsweep_kernels.dispatch import C_SOURCES, choose, implementation_in_use
from ctxsweep_kernels.native.build import BuildFailed, compiler, library

DECODE = """
import warnings; warnings.simplefilter("ignore")
import sys, torch
from ctxsweep_kernels.dispatch import implementation_in_use
from ctxsweep_kernels.paged_cache import PagedKV
from ctxsweep_kernels.paged_decode import paged_decode_attention
cache = PagedKV.allocate(1, 1, 16, 16, torch.float32)
cache.pages.fill_(2.0)
arguments = torch.ones(1, 1, 1, 16), cache, torch.zeros(1, 1, dtype=torch.int32), torch.tensor([5])
out = paged_decode_attention(*arguments, impl=sys.argv[1])
print(implementation_in_use("paged_decode_attention"), float(out.mean()))
"""


def start(impl: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DECODE, impl],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_build_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    processes = [start("c", XDG_CACHE_HOME=str(tmp_path)) for _ in range(4)]
    for process in processes:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert out.split() == ["c", "2.0"]
    assert [file.suffix for file in (tmp_path / "ctxsweep").iterdir()] == [".so"]


def test_without_a_compiler_auto_is_torch_and_c_names_the_remedy(tmp_path: Path) -> None:
    missing = {"PATH": str(tmp_path), "CC": "", "XDG_CACHE_HOME": str(tmp_path)}
    out, error = start("auto", **missing).communicate(timeout=120)
    assert out.split() == ["torch", "2.0"], error
    asked = start("c", **missing)
    _, error = asked.communicate(timeout=120)
    assert asked.returncode
    assert "UnsupportedImplementation: impl='c' is not available" in error
    assert "install gcc or clang, or set CC; or use impl='torch'" in error


def test_a_built_library_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "two.c"
    source.write_text("int two(void) { return 2; }")
    assert library(source).two() == 2
    (built,) = (tmp_path / "ctxsweep").iterdir()
    written = built.stat().st_mtime_ns
    library.cache_clear()
    assert library(source).two() == 2
    assert built.stat().st_mtime_ns == written
    source.write_text("int two(void) { return 3; }")
    library.cache_clear()
    assert library(source).two() == 3, "a changed source must be compiled again"


def test_a_refused_source_and_an_unusable_cache_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "wrong.c"
    source.write_text("int two(void) { return nothing; }")
    with pytest.raises(BuildFailed, match=r"cannot compile .*wrong\.c:\n(.|\n)*nothing"):
        library(source)
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    with pytest.raises(BuildFailed, match="set XDG_CACHE_HOME to another folder"):
        library(tmp_path / "wrong.c", "x86-64")


def test_the_named_compiler_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compiler()
    assert first is not None
    monkeypatch.setenv("CC", "no-such-compiler")
    assert compiler() is None
    monkeypatch.setenv("CC", first)
    assert compiler() == first


def test_what_runs_can_be_asked() -> None:
    import torch

    from ctxsweep_kernels.dispatch import UnsupportedImplementation

    for op in C_SOURCES:
        assert implementation_in_use(op) == "c"
        assert implementation_in_use(op, "cuda") == "triton"
        with pytest.raises(UnsupportedImplementation, match="on the CPU; move them"):
            choose("c", op, [torch.device("cpu"), torch.device("cuda")])
    assert implementation_in_use("wkv7") == "torch"
    with pytest.raises(UnsupportedImplementation, match="no C implementation"):
        choose("c", "wkv7", [torch.device("cpu")])
    with pytest.raises(ValueError, match="unknown; use one of auto, torch, c, triton"):
        choose("cuda", "wkv7", [torch.device("cpu")])
