"""``ctxsweep predict``: memory and least times of models on a device that need not be here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli.errors import EXIT_CODES, said_plainly
from ctxsweep.cli.options import Results


def predict(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Names (see: ctxsweep list models), folders, config.json, .gguf, .pth or YAML "
            "files.",
        ),
    ],
    device: Annotated[
        str, typer.Option(help="H100, RTX-4090, ...; this: this machine, measured now.")
    ] = "H100",
    contexts: Annotated[
        str, typer.Option(help="Context lengths: 4k,8k or 1k-128k*2.")
    ] = "1k-128k*2",
    batch: Annotated[str, typer.Option(help="Sequences at once: 1 or 1,8,32.")] = "1",
    weight_dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16, fp8, int8 or int4.")
    ] = "bfloat16",
    kv_dtype: Annotated[
        str, typer.Option(help="Type of the cache: auto (as computed with), fp8_e4m3, int8, ...")
    ] = "auto",
    state_dtype: Annotated[
        str, typer.Option(help="Of recurrent states: float32, or auto (as computed with).")
    ] = "float32",
    tp: Annotated[int, typer.Option(help="Devices that share the model (tensor parallel).")] = 1,
    prefill_chunk: Annotated[str, typer.Option(help="Tokens of a prefill call.")] = "2k",
    page_size: Annotated[int, typer.Option(help="Tokens per page of the cache.")] = 16,
    reserve: Annotated[str, typer.Option(help="Share of the memory that is kept back.")] = "10%",
    memory: Annotated[
        str | None, typer.Option(help="Of a device, if it is not the datasheet's: 79GiB.")
    ] = None,
    ceilings: Annotated[
        str | None,
        typer.Option(
            metavar="RUN", help="With --device this: the ceilings that this run measured."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for predict.html, .md, .json and plots."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
    results: Results = Path("results"),
) -> None:
    """Say what models would need on a device: memory, least times, the longest context."""
    with said_plainly():
        from ctxsweep.cli.predicting import Asked, print_prediction

        asked = Asked(
            models=tuple(models),
            device=device,
            contexts=contexts,
            batch=batch,
            weight_dtype=weight_dtype,
            kv_dtype=kv_dtype,
            state_dtype=state_dtype,
            tp=tp,
            prefill_chunk=prefill_chunk,
            page_size=page_size,
            reserve=reserve,
            ceilings=ceilings,
            memory=memory,
        )
        print_prediction(asked, out, results, as_json=json_)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=f"Exit codes: {EXIT_CODES}")(predict)
