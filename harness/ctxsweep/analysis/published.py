"""Tables that others published, kept with their source, to be drawn beside a run of one's own."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ctxsweep.frozen import Frozen

FOLDER = Path(__file__).parent / "published"


class UnknownTable(ValueError):
    """No published table has this name; the message names the nearest."""


class Figure(Frozen):
    """A published figure. ``at_least``: the source gives a lower bound, as in ``>10``."""

    value: float = Field(gt=0)
    at_least: bool = False

    @property
    def text(self) -> str:
        """As the source has it: ``3.91``, ``>10``."""
        return f">{self.value:g}" if self.at_least else f"{self.value:.2f}"


def _figure(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(">"):
        return {"value": float(value[1:]), "at_least": True}
    return {"value": value} if isinstance(value, int | float) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class PublishedSeries(Frozen):
    """A line of the table. ``method`` in our words; ``window`` tokens were fine-tuned for."""

    name: str
    method: str
    factor: float | None = None
    window: int
    perplexity: Annotated[
        tuple[Annotated[Figure, BeforeValidator(_figure)], ...], BeforeValidator(_tuple)
    ]


class Published(Frozen):
    """A table: perplexity of every series at every context."""

    name: str
    title: str
    source: str
    table: str
    units: str
    measured: str = Field(description="What was measured, on which text.")
    models: str = Field(description="How the models were made.")
    trained_tokens: int = Field(description="Context of the training before stretching.")
    contexts: Annotated[tuple[int, ...], BeforeValidator(_tuple)]
    series: Annotated[tuple[PublishedSeries, ...], BeforeValidator(_tuple)]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for series in self.series:
            if len(series.perplexity) != len(self.contexts):
                raise ValueError(
                    f"{series.name}: {len(series.perplexity)} figures for "
                    f"{len(self.contexts)} contexts"
                )
        return self


def names() -> list[str]:
    """The tables that can be loaded, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str) -> Published:
    """A table by name.

    Raises:
        UnknownTable: there is none of this name, or its file cannot be read.
    """
    if name not in names():
        near = get_close_matches(name, names(), n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UnknownTable(
            f"no published table is called '{name}'; {hint}Known: {', '.join(names())}"
        )
    path = FOLDER / f"{name}.yaml"
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Published(name=name, **fields)
    except (ValidationError, yaml.YAMLError, TypeError) as error:
        raise UnknownTable(f"{path}: {error}") from error
