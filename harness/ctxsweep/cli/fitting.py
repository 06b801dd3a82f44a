"""The work of ``ctxsweep fit``."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ctxsweep.cli import planned
from ctxsweep.cli.errors import BadInput
from ctxsweep.models.catalog import load_config
from ctxsweep.models.catalog import names as catalogue
from ctxsweep.planning.answers import FitTable
from ctxsweep.planning.deployment import WeightDType
from ctxsweep.planning.devices import Device
from ctxsweep.planning.fitting import fit_table
from ctxsweep.report.predict_fit import markdown, print_fit

ALL: tuple[WeightDType, ...] = ("bfloat16", "int8", "int4")
_SEVERAL = re.compile(r"(\d{1,4})\s*[x×]\s*(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """The options of the command, as they were typed."""

    memory: str | None = None
    context: str = "8k"
    batch: int = 1
    device: str | None = None
    tp: int = 1
    weight_dtype: str = "all"
    kv_dtype: str = "auto"
    state_dtype: str = "float32"
    models: str | None = None
    reserve: str = "10%"


def print_fits(asked: Asked, format_: str, results: Path) -> None:
    """Print what fits, as a table, Markdown or JSON."""
    found = fits(asked, results)
    if format_ == "json":
        dumped = [table.model_dump(mode="json") for table in found]
        print(json.dumps(dumped[0] if len(dumped) == 1 else dumped, indent=1))
    elif format_ == "md":
        sys.stdout.write(markdown(found))
    else:
        for index, table in enumerate(found):
            if index:
                print()
            print_fit(table)


def fits(asked: Asked, results: Path) -> list[FitTable]:
    """A table for every amount of memory. Raises ``BadInput``."""
    if asked.memory is None and asked.device is None:
        raise BadInput("say how much memory there is: --memory 24GB, 8x80GB, or --device H100")
    device = asked.device and planned.device_of(asked.device, None, None, results)
    names = models() if asked.models is None else planned.listed(asked.models, "--models")
    configs = planned.models_of(names)
    dtypes = _dtypes(asked.weight_dtype)
    context = planned.one_context(asked.context, "--context")
    tables = []
    for count, memory_bytes in _memories(asked, device or None):
        deployment = planned.deployment_of(
            kv_dtype=planned.kv_dtype_of(asked.kv_dtype),
            state_dtype=planned.state_dtype_of(asked.state_dtype),
            batch_size=asked.batch,
            tensor_parallel=count,
            reserve_share=planned.share_of(asked.reserve),
        )
        tables.append(fit_table(configs, memory_bytes, deployment, dtypes, context, device or None))
    return tables


def models() -> list[str]:
    """The catalogue's models that were published: no twins, no shapes made up after a pattern."""
    return [name for name in catalogue() if load_config(name).published is not None]


def _memories(asked: Asked, device: Device | None) -> list[tuple[int, int]]:
    """How many devices, and the memory of each."""
    if asked.memory is None:
        assert device is not None
        return [(asked.tp, device.memory_bytes)]
    found = []
    for text in planned.listed(asked.memory, "--memory"):
        several = _SEVERAL.fullmatch(text)
        if several and asked.tp > 1:
            raise BadInput(f"--memory {text} says how many devices there are; leave --tp out")
        count, size = (int(several[1]), several[2]) if several else (asked.tp, text)
        if several and not count:
            raise BadInput(f"--memory {text}: at least one device; write 8x80GB")
        found.append((count, planned.memory_of(size)))
    return found


def _dtypes(text: str) -> tuple[WeightDType, ...]:
    if text.lower() == "all":
        return ALL
    names = planned.listed(text, "--weight-dtype")
    return tuple(dict.fromkeys(planned.weight_dtype_of(name) for name in names))
