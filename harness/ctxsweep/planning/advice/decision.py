"""What ``ctxsweep advise`` decides: the types of the record, and its place in a Markdown file.

A record carries the whole decision in a fenced block at its end, so that ``--diff`` can read it
back. Imports no models: the report shows these types.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from ctxsweep.frozen import Frozen
from ctxsweep.planning.advice.needs import Criterion, Needs

DECISION_VERSION = 2
Basis = Literal["measured", "between", "calibrated", "bound", "formula"]
"""A run's own samples; between two measured contexts; a model fitted to this machine's runs; the
least that physics allows; exact arithmetic of the shapes."""
Ground = Literal["arithmetic", "bound", "measured", "forecast", "convention", "publication"]
"""What an exclusion rests on: the shapes; a least time; a measured or a fitted one; what ctxsweep
assumes (the share kept back, activations, how far a context may be stretched); what its publisher
or a paper says."""
_BLOCK = re.compile(r"^```yaml\n(decision:\n.*?)^```\s*$", re.DOTALL | re.MULTILINE)


class BadRecord(ValueError):
    """A file that is no decision record of this version; names the file."""


class Figure(Frozen):
    """A value in SI units with what it rests on. ``low`` and ``high``: 95%, None: not known.

    Of a bound ``low`` is the value itself: the truth lies above it.
    """

    value: float
    low: float | None = None
    high: float | None = None
    basis: Basis
    source: str


class Figures(Frozen):
    """What a candidate costs at the needs: times in s, of the whole batch; bytes of one device."""

    prefill_s: Figure
    decode_s: Figure
    request_s: Figure
    memory_bytes: Figure
    cache_bytes: int
    flops_per_token: float


class Part(Frozen):
    """A part of the quality proxy: its share of the whole, a score in [0, 1], and why."""

    name: str
    share: float
    score: float
    reason: str


class Ranked(Frozen):
    """A candidate that meets the needs. ``total`` is the weighted sum with its 95% interval."""

    name: str
    family: str
    parameters: int
    active_parameters: int
    precision: str
    engines: tuple[str, ...]
    figures: Figures
    scores: dict[Criterion, float]
    total: Figure
    quality: tuple[Part, ...]
    hopes: tuple[str, ...] = Field((), description="Limits that only a bound was seen to meet.")
    remarks: tuple[str, ...] = ()


class Excluded(Frozen):
    """A candidate that does not meet a need. ``proof``: not even at the machine's limits."""

    name: str
    need: str
    reason: str
    proof: bool
    rests_on: Ground


class Evidence(Frozen):
    """A figure for or against a rule, with where it comes from."""

    says: Literal["for", "against", "neither"]
    text: str
    source: str


class RuleFinding(Frozen):
    """A rule that people know, beside these needs and the matrix."""

    name: str
    condition: str
    applies: bool
    recommends: str
    evidence: tuple[Evidence, ...]
    matrix_agrees: bool | None = Field(
        None, description="None: it does not apply, or nothing that it recommends was weighed."
    )


class Flip(Frozen):
    """Where a criterion's weight must be, the others in proportion, until ``leader`` is taken."""

    criterion: Criterion
    weight: float
    at: float
    leader: str


class Sensitivity(Frozen):
    """How what is taken hangs on the weights. ``kept``: share of ``draws`` weightings around in
    which it is still taken."""

    take: str

    flips: tuple[Flip, ...]
    kept: float
    draws: int
    others: dict[str, float] = Field(description="Who is taken in the rest, and in what share.")


class Suggestion(Frozen):
    """The needs with as little changed as lets ``candidate`` meet them."""

    text: str
    changes: dict[str, Any]
    candidate: str
    steps: float = Field(description="Halvings or doublings that it takes; smaller is nearer.")


class Step(Frozen):
    """A question of the decision tree, its answer here, and why it matters."""

    question: str
    answer: str
    because: str


class EncoderAnswer(Frozen):
    """What the tree for encoder tasks ends in. ``caveats`` are what it cannot know."""

    approach: str
    reason: str
    steps: tuple[Step, ...]
    alternatives: tuple[str, ...]
    caveats: tuple[str, ...]
    footprint: tuple[str, ...] = ()
    asks_decoder: bool = Field(False, description="It ends in a generating model.")


class DeviceLine(Frozen):
    """The device that was planned for."""

    name: str
    memory_bytes: int
    count: int
    source: str


class BestOfSize(Frozen):
    """Who leads among candidates of one size; ``count``: how many of them meet the needs."""

    size: str
    name: str
    total: float
    count: int


class Decision(Frozen):
    """All of a decision. ``take`` is None where nothing meets the needs, or where the tree for
    encoder tasks needs no decoder."""

    schema_version: int = DECISION_VERSION
    made_at: str
    version: str
    commit: str | None
    command: str
    needs: Needs
    weights: dict[Criterion, float]
    device: DeviceLine
    take: str | None
    sentence: str
    because: str
    basis: str
    tie: tuple[str, ...] = ()
    tie_breaker: str = ""
    compared: str = Field(description="Which candidates were set side by side, and why those.")
    ranking: tuple[Ranked, ...]
    excluded: tuple[Excluded, ...]
    best_of_sizes: tuple[BestOfSize, ...] = Field((), description="Empty: one size only.")
    rules: tuple[RuleFinding, ...]
    sensitivity: Sensitivity | None
    suggestions: tuple[Suggestion, ...]
    would_change: tuple[str, ...]
    assumptions: tuple[str, ...]
    encoder: EncoderAnswer | None = None
    runs: tuple[str, ...] = Field((), description="Run ids that measured figures come from.")
    asked_runs: tuple[str, ...] = Field((), description="Runs that were named with --run.")

    @property
    def meets_needs(self) -> bool:
        """Whether there is an answer: a model, or an approach that takes no decoder."""
        if self.take is not None:
            return True
        return self.encoder is not None and not self.encoder.asks_decoder


def to_block(decision: Decision) -> str:
    """The fenced block that a record ends in."""
    fields = {"decision": decision.model_dump(mode="json")}
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return f"```yaml\n{text}```\n"


def from_record(path: Path) -> Decision:
    """The decision of a record's file. Raises ``BadRecord``."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadRecord(
            f"{path}: no such file; make one: ctxsweep advise --record {path}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecord(f"{path}: cannot be read ({error})") from error
    blocks = _BLOCK.findall(text.replace("\r\n", "\n"))
    if not blocks:
        raise BadRecord(f"{path}: no decision record, it has no yaml block that begins 'decision:'")
    try:
        fields = yaml.safe_load(blocks[-1])["decision"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BadRecord(
            f"{path}: its yaml block is damaged ({str(error).splitlines()[0]})"
        ) from error
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version != DECISION_VERSION:
        raise BadRecord(
            f"{path}: schema_version is {version}, this ctxsweep reads {DECISION_VERSION}; "
            "read it with the version that wrote it"
        )
    try:
        return Decision.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BadRecord(f"{path}: {where}: {first['msg']}; make the record again") from error
