"""``ctxsweep inspect``: what a model is made of, what it asks for, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from ctxsweep.cli.errors import EXIT_CODES, said_plainly


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name (see: ctxsweep list models), a folder, a config.json, a .gguf or .pth "
            "file, or a YAML file with a model.",
        ),
    ],
    contexts: Annotated[
        str, typer.Option(help="Context lengths: 4k,8k or 1k-128k*2.")
    ] = "1k,8k,32k,128k",
    batch: Annotated[int, typer.Option(min=1, max=65536, help="Sequences at once.")] = 1,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    kv_dtype: Annotated[
        str, typer.Option(help="Type of the cache: auto (as the weights), fp8_e4m3, int8, ...")
    ] = "auto",
    scale: Annotated[
        str | None,
        typer.Option(metavar="tiny|2x|10x", help="Its small twin, or a larger one of its make."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Vary it: attention.kv_heads=4. Repeatable."
        ),
    ] = None,
    hf_config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write a complete config.json; - prints it alone."),
    ] = None,
    yaml: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the model as YAML; - prints it alone."),
    ] = None,
    fix: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the nearest valid model: .yaml, or .json."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON, not tables.")] = False,
) -> None:
    """Show a model's parts, cache, arithmetic and growth; for one that is not valid, the nearest.

    Exit code 2 if the model is not valid, mended or not.
    """
    with said_plainly():
        from ctxsweep.cli.inspecting import Asked, inspect_asked

        code = inspect_asked(
            Asked(
                model=model,
                contexts=contexts,
                batch_size=batch,
                dtype=dtype,
                kv_dtype=kv_dtype,
                scale=scale,
                settings=tuple(settings or ()),
                hf_config=hf_config,
                yaml=yaml,
                fix=fix,
                as_json=json_,
            )
        )
    raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command(epilog=f"Exit codes: {EXIT_CODES}")(inspect)
