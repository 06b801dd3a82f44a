"""Which models are set side by side: the catalogue, those named, or the series of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from ctxsweep.models import catalog
from ctxsweep.models.accounting_parameters import active_parameters, parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.remarks import trained_reach
from ctxsweep.records import Series

CLASSES = (0.0, 1e9, 4e9, 10e9, 40e9, 100e9, math.inf)
"""Bounds of the size classes, in effective parameters: they group what is shown, no score hangs on
them."""

Family = str
FULL, WINDOW, HYBRID = "attention", "window", "hybrid"
STATE = ("mamba1", "mamba2", "rwkv6", "rwkv7", "retention")


@dataclass(frozen=True)
class Candidate:
    """A model that may be taken. ``series`` where it is one of a run, with that run's settings."""

    name: str
    config: ModelConfig
    has_weights: bool
    series: Series | None = None

    @cached_property
    def family(self) -> Family:
        """``attention``, ``window``, ``hybrid``, or the mixer of a pure state model."""
        mixers = set(self.config.layer_mixers())
        if mixers == {"attention"}:
            return FULL if self.window is None else WINDOW
        return HYBRID if "attention" in mixers else self.config.mixer

    @property
    def window(self) -> int | None:
        """Tokens that a query sees at most; None: all."""
        return self.config.attention.span if self.config.attention else None

    @cached_property
    def label(self) -> str:
        """The family in words, with the kind of heads: ``GQA 32/8``, ``Mamba-2``, ``hybrid``."""
        attention = self.config.attention
        heads = ""
        if attention is not None:
            kind = {1: "MQA", attention.heads: "MHA"}.get(attention.kv_heads, "GQA")
            heads = kind if kind != "GQA" else f"GQA {attention.heads}/{attention.kv_heads}"
        experts = (
            f" MoE {self.config.ffn.experts}" if self.config.ffn and self.config.ffn.experts else ""
        )
        if self.family == FULL:
            return f"{heads}{experts}"
        if self.family == WINDOW:
            return f"{heads} window {self.window}{experts}"
        names = {"mamba1": "Mamba-1", "mamba2": "Mamba-2", "rwkv6": "RWKV-6", "rwkv7": "RWKV-7"}
        mixer = names.get(self.config.mixer, "RetNet")
        return f"{mixer} hybrid{experts}" if self.family == HYBRID else mixer

    @cached_property
    def parameters(self) -> int:
        """All parameters."""
        return sum(parameters(self.config).values())

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that a token goes through: of experts only those that are chosen."""
        return active_parameters(self.config)

    @cached_property
    def effective_parameters(self) -> float:
        """All of a dense model; of experts the geometric mean of all and active (a convention)."""
        if self.config.ffn is None or not self.config.ffn.experts:
            return float(self.parameters)
        return math.sqrt(self.parameters * self.active_parameters)

    @property
    def size_class(self) -> int:
        """Index of the class in ``CLASSES``."""
        return max(i for i, bound in enumerate(CLASSES[:-1]) if self.effective_parameters >= bound)

    @property
    def reach(self) -> int | None:
        """The longest context that it was trained or by its publisher stretched for."""
        config = self.config
        rope = config.attention.rope if config.attention else None
        if rope is None or (self.series is not None and self.series.rope is not None):
            return config.trained_context
        return trained_reach(config)

    @property
    def rotary(self) -> bool:
        """Whether its attention has rotary positions, which can be stretched."""
        return self.config.attention is not None and self.config.attention.position == "rope"

    @property
    def positions_end(self) -> int | None:
        """Where learned positions end: nothing runs beyond. None: they do not end."""
        attention = self.config.attention
        learned = attention is not None and attention.position == "learned"
        return self.config.max_positions if learned else None


class UnknownCandidate(ValueError):
    """A name that is no model and no series of the runs given."""


def catalogue() -> tuple[Candidate, ...]:
    """All shapes of the catalogue but the tiny ones. Those without weights are for training."""
    shapes = [n for n in catalog.names() if not n.startswith("tiny-")]
    return tuple(of_model(name) for name in shapes)


def size_words(size_class: int) -> str:
    """``4B to 10B``, ``up to 1B``, ``over 100B``."""
    low, high = CLASSES[size_class], CLASSES[size_class + 1]
    if not low:
        return f"up to {high / 1e9:g}B"
    return f"{low / 1e9:g}B to {high / 1e9:g}B" if high < math.inf else f"over {low / 1e9:g}B"


def series_by_name(runs: Sequence[tuple[str, Sequence[Series]]]) -> dict[str, Series]:
    """Series of runs, each given with its id, by the name that they go by in an answer.

    The same series in two runs is one; different ones of one name are told apart: ``run:name``.
    """
    kinds: dict[str, list[tuple[str, Series]]] = {}
    for run, series in runs:
        for one in series:
            known = kinds.setdefault(one.name, [])
            if all(one != other for _, other in known):
                known.append((run, one))
    return {
        name if len(known) == 1 else f"{run}:{name}": one
        for name, known in kinds.items()
        for run, one in known
    }


def named(names: Sequence[str], series: Mapping[str, Series]) -> tuple[Candidate, ...]:
    """Candidates by a series' name (``series_by_name``), one of the catalogue, or a path.

    Raises ``UnknownCandidate``.
    """
    found = []
    for name in dict.fromkeys(names):
        several = [other for other in series if other.endswith(f":{name}")]
        if several and name not in series:
            raise UnknownCandidate(
                f"models: '{name}' is another series in each run; say {' or '.join(several)}"
            )
        found.append(of_series(series[name], name) if name in series else of_model(name))
    return tuple(found)


def of_model(name: str) -> Candidate:
    """A model by name or path. Raises ``UnknownCandidate``."""
    try:
        config = catalog.load_config(name)
        return Candidate(name, config, has_weights(name, config))
    except ValueError as error:
        raise UnknownCandidate(f"models: {error}") from error


def of_series(series: Series, called: str | None = None) -> Candidate:
    """A series of a run, with what it lays over its model. Raises ``UnknownCandidate``."""
    try:
        config = catalog.load_config(series.model)
        over: dict[str, Any] = {"window": series.window, "sinks": series.sinks, "rope": series.rope}
        over = {key: value for key, value in over.items() if value is not None}
        if over and config.attention is not None:
            config = _laid_over(config, over)
    except ValueError as error:
        raise UnknownCandidate(f"series {series.name}: {error}") from error
    name = series.model if isinstance(series.model, str) else config.name
    return Candidate(called or series.name, config, has_weights(name, config), series)


def has_weights(name: str, config: ModelConfig) -> bool:
    """Whether trained weights can be had, as far as is known: published, shipped, or a path."""
    return config.published is not None or catalog.path_of(name) is not None


def _laid_over(config: ModelConfig, over: dict[str, Any]) -> ModelConfig:
    fields = config.model_dump()
    fields["attention"] |= {
        key: value.model_dump() if hasattr(value, "model_dump") else value
        for key, value in over.items()
    }
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"]) from error
