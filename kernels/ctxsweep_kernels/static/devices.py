"""The devices that kernels are judged for: their limits and rates, from `devices.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("devices.yaml")


@dataclass(frozen=True)
class Limits:
    """What one multiprocessor (AMD: compute unit) holds and does; None: unknown."""

    warp_size: int
    warps: int
    blocks: int
    registers: int
    registers_per_thread: int
    register_unit: int
    warp_unit: int
    shared_bytes: int
    shared_per_block_bytes: int
    shared_reserved_bytes: int
    shared_unit: int
    issue_per_clock: float | None
    exponentials_per_clock: float | None


@dataclass(frozen=True)
class Device:
    """A GPU; rates are dense, None where unknown."""

    name: str
    arch: str
    multiprocessors: int
    clock_hz: float | None
    memory_bytes_per_s: float | None
    bf16_flops_per_s: float | None
    fp8_flops_per_s: float | None
    limits: Limits


@cache
def devices() -> dict[str, Device]:
    """Every device of the table, by name."""
    import yaml  # the package itself needs torch and Triton alone

    table = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    limits = {arch: Limits(**_numbers(values)) for arch, values in table["limits"].items()}
    return {
        name: Device(name=name, limits=limits[values["arch"]], **_numbers(values))
        for name, values in table["devices"].items()
    }


@cache
def limits_of(arch: str) -> Limits | None:
    """Limits of an architecture; None if no device of the table has it."""
    return next((d.limits for d in devices().values() if d.arch == arch), None)


def architectures() -> tuple[str, ...]:
    """Every architecture of the table, once."""
    return tuple(dict.fromkeys(device.arch for device in devices().values()))


def _numbers(values: dict) -> dict:
    """YAML 1.1 reads 1.41e9 as text: it wants a sign in the exponent."""
    return {
        key: float(value) if isinstance(value, str) and key != "arch" else value
        for key, value in values.items()
    }
