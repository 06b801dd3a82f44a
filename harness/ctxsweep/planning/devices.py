"""Devices that models are planned for: their datasheets' figures, or this machine's own."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from ctxsweep.frozen import Frozen
from ctxsweep.records import Ceilings
from ctxsweep.scenario_units import Bytes

TABLE = Path(__file__).with_name("devices.yaml")
THIS = "this"


class UnknownDevice(ValueError):
    """No device has this name; the message names the nearest."""


class Device(Frozen):
    """What one device holds and does.

    ``flops_per_s``: dense matrix multiplies by type (``float32``, ``bfloat16``, ``float16``,
    ``fp8``, ``int8``); a type that is not there has no unit of its own. ``link_bytes_per_s``: to
    the other devices of a node, in one direction; ``node_devices``: as many as it has at most. None
    is what no document says.
    """

    name: str
    memory_bytes: Bytes
    read_bytes_per_s: float = Field(gt=0)
    flops_per_s: dict[str, float]
    board_power_w: float | None = Field(None, gt=0)
    link_bytes_per_s: float | None = Field(None, gt=0)
    node_devices: int | None = Field(None, ge=1)
    source: str
    measured: bool = False


def device(name: str) -> Device:
    """A device of the table, however its name is spelt: ``h100``, ``RTX 4090``, ``rtx4090``.

    Raises:
        UnknownDevice: there is none of this name.
    """
    table, plain = _by_plain_name(), _plain(name)
    if plain in table:
        return table[plain]
    near = get_close_matches(plain, list(table), n=1, cutoff=0.5)
    hint = f"did you mean '{table[near[0]].name}'? " if near else ""
    raise UnknownDevice(
        f"no device is named '{name}'; {hint}There are: {', '.join((*device_names(), THIS))}"
    )


def stand_in(device: Device) -> str:
    """The type that a device multiplies in where it has no unit for the wanted one."""
    return "float16" if "float16" in device.flops_per_s else "float32"


def device_names() -> list[str]:
    """Names of the table, in its order."""
    return list(_table())


def this_machine(ceilings: Ceilings, memory_bytes: int) -> Device:
    """A machine as a run measured it: its ceilings stand in for a datasheet."""
    threads = "thread" if ceilings.threads == 1 else "threads"
    on = f"{ceilings.threads} {threads}" if ceilings.device == "cpu" else ceilings.device
    return Device(
        name=THIS,
        memory_bytes=memory_bytes,
        read_bytes_per_s=ceilings.read_bytes_per_s,
        flops_per_s=dict(ceilings.matmul_flops_per_s),
        source=f"ceilings measured on this machine, {on}",
        measured=True,
    )


@cache
def _table() -> dict[str, Device]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["devices"]
    return {name: _row(name, row) for name, row in rows.items()}


def _row(name: str, row: dict[str, object]) -> Device:
    """A row of the table; YAML reads ``3e12`` without a sign as text, pydantic as a number."""
    fields = {key: value for key, value in row.items() if key != "aliases"}
    return Device.model_validate({"name": name, **fields})


@cache
def _by_plain_name() -> dict[str, Device]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["devices"]
    found = {_plain(name): held for name, held in _table().items()}
    for name, row in rows.items():
        found |= {_plain(alias): _table()[name] for alias in row.get("aliases", ())}
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
