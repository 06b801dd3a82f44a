"""The work of ``ctxsweep predict``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from ctxsweep.cli import planned
from ctxsweep.cli.errors import BadInput
from ctxsweep.planning.answers import Predicted
from ctxsweep.planning.deployment import BadDeployment
from ctxsweep.planning.footprint import last_position
from ctxsweep.planning.predicting import predict_all
from ctxsweep.report.predict_page import write_prediction
from ctxsweep.report.predict_terminal import print_predicted

MOST_CELLS = 2000
MOST_CALLS = 1 << 17
"""Of a prefill: each is counted by itself."""


@dataclass(frozen=True)
class Asked:
    """The options of the command, as they were typed."""

    models: tuple[str, ...]
    device: str = "H100"
    contexts: str = "1k-128k*2"
    batch: str = "1"
    weight_dtype: str = "bfloat16"
    kv_dtype: str = "auto"
    state_dtype: str = "float32"
    tp: int = 1
    prefill_chunk: str = "2k"
    page_size: int = 16
    reserve: str = "10%"
    ceilings: str | None = None
    memory: str | None = None


def print_prediction(asked: Asked, out: Path | None, results: Path, *, as_json: bool) -> None:
    """Predict, write the files where a folder is given, print a table or JSON."""
    found = predicted(asked, results)
    if out is not None:
        for path in write_prediction(found, out):
            print(path, file=sys.stderr)
    if as_json:
        print(found.model_dump_json(indent=1))
    else:
        print_predicted(found)


def predicted(asked: Asked, results: Path) -> Predicted:
    """What was asked for, predicted. Raises ``BadInput``."""
    contexts = planned.contexts_of(asked.contexts)
    batches = planned.numbers_of(asked.batch, "batch")
    configs = planned.models_of(asked.models)
    if len(contexts) * len(batches) * len(configs) > MOST_CELLS:
        raise BadInput(
            f"{len(contexts)} contexts × {len(batches)} batches × {len(configs)} models are too "
            f"many; at most {MOST_CELLS} cells"
        )
    chunk = planned.one_context(asked.prefill_chunk, "--prefill-chunk")
    if max(contexts) > chunk * MOST_CALLS:
        raise BadInput(
            f"--prefill-chunk {asked.prefill_chunk[:40]}: {max(contexts):,} tokens are too many "
            f"calls; nearest valid: {-(-max(contexts) // MOST_CALLS)}"
        )
    deployment = planned.deployment_of(
        weight_dtype=planned.weight_dtype_of(asked.weight_dtype),
        kv_dtype=planned.kv_dtype_of(asked.kv_dtype),
        state_dtype=planned.state_dtype_of(asked.state_dtype),
        tensor_parallel=asked.tp,
        prefill_chunk=chunk,
        page_size=asked.page_size,
        reserve_share=planned.share_of(asked.reserve),
    )
    device = planned.device_of(asked.device, asked.ceilings, asked.memory, results)
    try:
        found = predict_all(configs, deployment, device, contexts, batches)
    except BadDeployment as error:
        raise BadInput(f"--tp: {error}") from None
    if not found.cells:
        ends = max(last_position(config) or 0 for config in configs)
        raise BadInput(
            f"--contexts {asked.contexts[:40]}: beyond the table of positions of "
            f"{configs[0].name}; nearest valid: {ends}"
        )
    return found
