"""Exit codes, and how a person's mistake becomes one line on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_REGRESSION = 3
EXIT_INTERRUPTED = 130
EXIT_CODES = (
    "0 done, 1 finished with failed cells, 2 bad input, 3 regression found, 130 interrupted."
)


class BadInput(Exception):
    """What was asked for cannot be done; the message says why and what would do."""


@contextmanager
def said_plainly() -> Iterator[None]:
    """Turn mistakes of a person into a message and an exit code; other errors stay errors."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:  # of the reader of our output; nobody is left to be told
        raise
    except OSError as error:  # a folder that cannot be written, a disk that is full
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"ctxsweep: {place}{error.strerror or error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None
    except _mistakes() as error:  # evaluated only now, so that it imports nothing before
        typer.echo(f"ctxsweep: {error}", err=True)
        raise typer.Exit(EXIT_BAD_INPUT) from None


def _mistakes() -> tuple[type[Exception], ...]:
    from ctxsweep.scenario import ScenarioError
    from ctxsweep.store import StoreError

    return BadInput, ScenarioError, StoreError
