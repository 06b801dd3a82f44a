"""``ctxsweep advise``: which model to take for what is needed, why, and on what evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ctxsweep.cli.errors import EXIT_FAILED, said_plainly
from ctxsweep.cli.options import Results

CODES = "Exit codes: 0 done, 1 nothing meets the needs, 2 bad input."


def advise(
    task: Annotated[
        str | None,
        typer.Option(
            help="chat, rag, qa, extraction, code, agent, summary, stream; "
            "classification, similarity, reranking. Default: chat."
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Tokens: 128k. Default: 8k.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences at once. Default: 1.")] = None,
    device: Annotated[
        str | None, typer.Option(help="H100, RTX-4090, ...; default: this machine.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Of one device, 24GB. Default: the device's.")
    ] = None,
    tp: Annotated[int | None, typer.Option(help="Devices that share the model.")] = None,
    prefill: Annotated[str | None, typer.Option(help="Longest prefill: 5s.")] = None,
    decode: Annotated[str | None, typer.Option(help="Longest decode step: 50ms.")] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="high: no context beyond the trained one, 8 bits at least; medium: stretched up "
            "to 4 times; any. Default: medium."
        ),
    ] = None,
    retrieval: Annotated[
        bool | None,
        typer.Option(
            "--retrieval/--no-retrieval",
            help="Answers hang on exact words of the context. Default: as the task.",
        ),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(help="none, finetune or scratch, of all weights. Default: none."),
    ] = None,
    training_budget: Annotated[
        str | None, typer.Option(help="FLOPs (1e21), or hours of the device at full rate (500h).")
    ] = None,
    training_tokens: Annotated[
        str | None, typer.Option(help="Tokens to train on: 10m, 2b.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="Sizes: 7b, 1b-8b, -8b. Default: all.")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Only these: names, paths, or series of --run, parted by commas."),
    ] = None,
    weight_dtype: Annotated[
        str | None, typer.Option(help="Default: the widest that meets the needs.")
    ] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Of the cache. Default: likewise.")] = None,
    generate: Annotated[int | None, typer.Option(help="Tokens of an answer.")] = None,
    examples: Annotated[int | None, typer.Option(help="Labelled examples there are.")] = None,
    labels: Annotated[
        int | None, typer.Option(help="Labels to tell apart, for classification. Default: 2.")
    ] = None,
    languages: Annotated[str | None, typer.Option(help="one or many (for encoders).")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SHARE,...",
            help="Of quality, speed, memory, ecosystem, training: quality=0.5,speed=0.3.",
        ),
    ] = None,
    needs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML with the same keys; options win.")
    ] = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="RUN", help="Measured evidence. Repeatable."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the decision record.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the record.")] = False,
    diff: Annotated[
        Path | None,
        typer.Option(metavar="OLD.md", help="Decide a record's needs again; say what changed."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show all reasons.")] = False,
    results: Results = Path("results"),
) -> None:
    """Say which model to take for these needs, why, and on what evidence.

    Measured runs of this machine count first, then its calibration, then bounds by arithmetic.
    """
    given = {
        "task": task,
        "context": context,
        "batch": batch,
        "generate": generate,
        "device": device,
        "memory": memory,
        "tp": tp,
        "prefill": prefill,
        "decode": decode,
        "quality": quality,
        "retrieval": retrieval,
        "training": training,
        "training_budget": training_budget,
        "training_tokens": training_tokens,
        "weight_dtype": weight_dtype,
        "kv_dtype": kv_dtype,
        "parameters": parameters,
        "models": models,
        "examples": examples,
        "labels": labels,
        "languages": languages,
        "weights": weights,
    }
    with said_plainly():
        from ctxsweep.cli.advising import Asked, print_advice

        asked = Asked(
            given={key: value for key, value in given.items() if value is not None},
            needs=needs,
            runs=tuple(runs or ()),
            results=results,
            diff=diff,
        )
        decision = print_advice(asked, record, force=force, as_json=json_, verbose=verbose)
    if not decision.meets_needs:
        raise typer.Exit(EXIT_FAILED)


def register(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.command(epilog=CODES)(advise)
