"""From what was typed to what is planned: models, devices, types, amounts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import typer
from pydantic import TypeAdapter, ValidationError

from ctxsweep.analysis.ceilings import highest
from ctxsweep.cli import find
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.inspect_model import find_model
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.encoder import EncoderConfig
from ctxsweep.planning.deployment import (
    KV_DTYPES,
    STATE_DTYPES,
    WEIGHT_DTYPES,
    Deployment,
    StateDType,
    WeightDType,
)
from ctxsweep.planning.devices import THIS, Device, UnknownDevice, device, this_machine
from ctxsweep.records import Ceilings, KVDType
from ctxsweep.scenario_messages import nearest
from ctxsweep.scenario_units import Bytes, parse_contexts
from ctxsweep.store import RunFolder

MOST = {"batch": 1 << 16, "tp": 1024, "page-size": 1 << 16}
OPTIONS = {
    "batch_size": "--batch",
    "tensor_parallel": "--tp",
    "prefill_chunk": "--prefill-chunk",
    "page_size": "--page-size",
    "reserve_share": "--reserve",
}
"""What the fields of a deployment are called where they are typed."""
MEASURE_S = 1.0
READINGS = 3
UNSTEADY = 1.5
"""Readings further apart than this: other work took the machine, and the highest may be low too."""
_ALIASES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp8": "fp8_e4m3"}


def models_of(names: Sequence[str]) -> list[ModelConfig]:
    """The configurations of names, folders or files (as ``inspect`` takes them), each once."""
    return [_model_of(name) for name in dict.fromkeys(names)]


def _model_of(name: str) -> ModelConfig:
    found = find_model(name, ())
    if found.changes:
        raise BadInput(
            f"{found.place}: not a valid model: {found.changes[0]}; to see the nearest and write "
            f"it: ctxsweep inspect {name} --fix FILE.yaml"
        )
    if isinstance(found.config, EncoderConfig):
        raise BadInput(
            f"'{name}' is an encoder, which does not decode over a context; its footprint: "
            f"ctxsweep inspect {name}"
        )
    return found.config


def contexts_of(text: str, option: str = "--contexts") -> tuple[int, ...]:
    """Context lengths, ascending."""
    try:
        return parse_contexts(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


def one_context(text: str, option: str) -> int:
    """A single length."""
    found = contexts_of(text, option)
    if len(found) != 1:
        raise BadInput(f"{option} '{text[:40]}' is more than one length; write one, such as 32k")
    return found[0]


def listed(text: str, option: str) -> list[str]:
    """What stands between commas, each once."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise BadInput(f"{option} is empty")
    return parts


def numbers_of(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers from 1, parted by commas, ascending and each once."""
    parts = [part.strip() for part in text.split(",")]
    most = MOST[option]
    if not all(part.isdecimal() and 1 <= int(part[:9]) <= most for part in parts):
        raise BadInput(
            f"--{option} '{text[:40]}' is not a list of numbers from 1 to {most}: 1,8,32"
        )
    return tuple(sorted({int(part) for part in parts}))


def weight_dtype_of(text: str) -> WeightDType:
    """A type of weights, by its name or a short one."""
    wanted = text.lower() if text.lower() == "fp8" else _ALIASES.get(text.lower(), text.lower())
    for known in WEIGHT_DTYPES:
        if wanted == known:
            return known
    raise BadInput(f"--weight-dtype '{text[:40]}' is not known; {nearest(text, WEIGHT_DTYPES)}")


def kv_dtype_of(text: str) -> KVDType:
    """A type of cached keys and values, by its name or a short one."""
    wanted = _ALIASES.get(text.lower(), text.lower())
    for known in KV_DTYPES:
        if wanted == known:
            return known
    raise BadInput(f"--kv-dtype '{text[:40]}' is not known; {nearest(text, KV_DTYPES)}")


def state_dtype_of(text: str) -> StateDType:
    """A type of recurrent states."""
    wanted = _ALIASES.get(text.lower(), text.lower())
    for known in STATE_DTYPES:
        if wanted == known:
            return known
    raise BadInput(f"--state-dtype '{text[:40]}' is not known; {nearest(text, STATE_DTYPES)}")


def share_of(text: str) -> float:
    """A share of the memory: ``10%`` or ``0.1``."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", text.strip())
    share = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if not 0 <= share < 1:
        raise BadInput(f"--reserve '{text[:40]}' is not a share below 1; write 10% or 0.1")
    return share


def deployment_of(**fields: object) -> Deployment:
    """A deployment; what is out of bounds is said in one line."""
    try:
        return Deployment.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        option = OPTIONS.get(key, key)
        said = first["msg"].replace("Input should be", "write a number")
        raise BadInput(f"{option} {str(first['input'])[:40]}: {said}") from None


def memory_of(text: str, option: str = "--memory") -> int:
    """An amount of memory, such as 24GB."""
    try:
        return int(TypeAdapter(Bytes).validate_python(text))
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BadInput(f"{option} '{text[:40]}': {said}") from None


def device_of(name: str, ceilings: str | None, memory: str | None, results: Path) -> Device:
    """A device of the table, or this machine as a run or a measurement now shows it."""
    if ceilings is not None and name.lower() != THIS:
        raise BadInput(f"--ceilings {ceilings} is of this machine: add --device {THIS}")
    held = None if memory is None else memory_of(memory)
    if name.lower() == THIS:
        return _this(ceilings, held, results)
    try:
        found = device(name)
    except UnknownDevice as error:
        raise BadInput(f"--device: {error}") from None
    return found if held is None else found.model_copy(update={"memory_bytes": held})


def _this(run: str | None, memory_bytes: int | None, results: Path) -> Device:
    if run is None:
        return _measured_now(memory_bytes)
    folder = find.run_folder(run, results)
    for record in RunFolder.open(folder).records():
        if record.ceilings is None or record.environment is None:
            continue
        if memory_bytes is None and record.environment.device != "cpu":
            raise BadInput(f"{folder} does not tell the GPU's memory: add --memory 80GB")
        held = memory_bytes or record.environment.memory_bytes
        return this_machine(record.ceilings, held)
    raise BadInput(f"{folder} holds no ceilings; leave --ceilings out to measure them now")


def _measured_now(memory_bytes: int | None) -> Device:
    from ctxsweep.measure.ceilings import measure_ceilings
    from ctxsweep.measure.environment import detect_device, physical_cores, total_memory_bytes

    kind, threads = detect_device(), physical_cores()
    readings = [measure_ceilings(kind, threads, budget_s=MEASURE_S) for _ in range(READINGS)]
    ceilings = highest(readings)
    assert ceilings is not None
    if (spread := _spread(readings)) > UNSTEADY:
        typer.echo(
            f"{READINGS} readings of this machine's ceilings were up to {spread:.0f} times apart: "
            "it is busy. The highest were taken; take them of a run: --ceilings RUN",
            err=True,
        )
    if memory_bytes is None:
        memory_bytes = total_memory_bytes() if kind == "cpu" else _gpu_memory_bytes()
    return this_machine(ceilings, memory_bytes)


def _spread(readings: Sequence[Ceilings]) -> float:
    """How many times the highest reading of a rate is the lowest, of the rate that varied most."""
    rates = [[*r.matmul_flops_per_s.values(), r.read_bytes_per_s] for r in readings]
    return max(max(same) / min(same) for same in zip(*rates, strict=True))


def _gpu_memory_bytes() -> int:
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)
