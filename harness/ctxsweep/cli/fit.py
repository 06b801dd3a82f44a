"""``ctxsweep fit``: which models fit into an amount of memory."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli.errors import EXIT_CODES, said_plainly
from ctxsweep.cli.options import Results


class FitFormat(StrEnum):
    """How ``ctxsweep fit`` answers."""

    text = "text"
    md = "md"
    json = "json"


def fit(
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory of a device: 24GB; 8x80GB: of 8 devices that share the model; several "
            "parted by commas. Default: the device's."
        ),
    ] = None,
    context: Annotated[
        str, typer.Option(help="Context for the largest batch, and to be in the table.")
    ] = "8k",
    batch: Annotated[int, typer.Option(help="Sequences at once, for the longest context.")] = 1,
    device: Annotated[
        str | None,
        typer.Option(help="Adds the least time per token on it: H100, ...; this: measured now."),
    ] = None,
    tp: Annotated[int, typer.Option(help="Devices that share the model.")] = 1,
    weight_dtype: Annotated[
        str, typer.Option(help="all (bfloat16, int8, int4; fp8 takes what int8 takes) or a list.")
    ] = "all",
    kv_dtype: Annotated[str, typer.Option(help="Type of the cache.")] = "auto",
    state_dtype: Annotated[
        str, typer.Option(help="Of recurrent states: float32, or auto (as computed with).")
    ] = "float32",
    models: Annotated[
        str | None,
        typer.Option(
            help="Only these, parted by commas: names or files. Default: all published shapes."
        ),
    ] = None,
    reserve: Annotated[str, typer.Option(help="Share of the memory that is kept back.")] = "10%",
    format_: Annotated[
        FitFormat, typer.Option("--format", "-f", help="text, md or json.")
    ] = FitFormat.text,
    json_: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    results: Results = Path("results"),
) -> None:
    """List which models fit into a memory, in which type, at which context and batch."""
    with said_plainly():
        from ctxsweep.cli.fitting import Asked, print_fits

        asked = Asked(
            memory=memory,
            context=context,
            batch=batch,
            device=device,
            tp=tp,
            weight_dtype=weight_dtype,
            kv_dtype=kv_dtype,
            state_dtype=state_dtype,
            models=models,
            reserve=reserve,
        )
        print_fits(asked, "json" if json_ else format_.value, results)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=f"Exit codes: {EXIT_CODES}")(fit)
