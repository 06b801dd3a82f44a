"""Which implementation runs: never another than the one that was asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch

import ctxsweep_kernels
from ctxsweep_kernels import dispatch
from ctxsweep_kernels.dispatch import (
    TRITON_OPS,
    UnsupportedImplementation,
    choose,
    implementation_in_use,
    noting,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda")
KERNELS = Path(ctxsweep_kernels.__path__[0]).glob("*/kernel.py")


@pytest.mark.parametrize("op", sorted(TRITON_OPS))
def test_triton_is_never_replaced_in_silence(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    for devices in ([CPU], [CPU, GPU]):
        with pytest.raises(UnsupportedImplementation, match="needs all tensors on one GPU"):
            choose("triton", op, devices)
    assert choose("triton", op, [GPU]) == choose("auto", op, [GPU]) == "triton"


def test_tensors_on_two_gpus_are_refused() -> None:
    devices = [torch.device("cuda", i) for i in (0, 1, 0)]
    with pytest.raises(UnsupportedImplementation, match=r"one GPU .they are on: cuda:0, cuda:1"):
        choose("triton", "wkv7", devices)


@pytest.mark.parametrize(
    ("capability", "hip", "chosen"),
    [((7, 5), None, "torch"), ((8, 0), None, "triton"), ((7, 5), "6.3", "triton")],
)
def test_gpus_before_ampere_take_torch(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    dispatch._too_old.cache_clear()
    try:
        assert choose("auto", "wkv7", [GPU]) == chosen
        if chosen == "torch":
            with pytest.raises(UnsupportedImplementation, match=r"needs .* 8\.0 .* has 7\.5"):
                choose("triton", "wkv7", [GPU])
    finally:
        dispatch._too_old.cache_clear()


def test_arguments_that_the_kernel_cannot_take() -> None:
    reason = "head size 7 is odd; use impl='torch'"
    with pytest.raises(UnsupportedImplementation, match="head size 7 is odd"):
        choose("triton", "wkv7", [GPU], unfit=reason)
    assert choose("auto", "wkv7", [GPU], unfit=reason) == "torch"


def test_the_interpreter_is_used_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert implementation_in_use("wkv7") == "torch"
    assert implementation_in_use("wkv7", impl="triton") == "triton"


def test_an_op_without_a_kernel_says_so() -> None:
    with pytest.raises(UnsupportedImplementation, match="no Triton kernel; use impl='torch'"):
        choose("triton", "softmax", [GPU])


def test_what_ran_is_noted() -> None:
    seen: dict[str, str] = {}
    with noting(seen):
        choose("torch", "wkv7", [CPU])
    choose("torch", "retention", [CPU])
    assert seen == {"wkv7": "torch"}


def test_every_op_with_a_kernel_is_listed() -> None:
    for folder in (path.parent.name for path in KERNELS):
        ops = import_module(f"ctxsweep_kernels.{folder}").__all__
        assert TRITON_OPS & set(ops), f"{folder} has a kernel; name its op in TRITON_OPS"
