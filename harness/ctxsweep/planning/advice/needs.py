"""What a person needs: the question that ``ctxsweep advise`` answers. Pure, without models.

The keys of a file of needs are those of the command's options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ctxsweep.frozen import Frozen
from ctxsweep.planning.advice.tasks import TASKS
from ctxsweep.records import KVDType
from ctxsweep.scenario_messages import nearest
from ctxsweep.scenario_units import Bytes, ContextTokens

Quality = Literal["high", "medium", "any"]
Training = Literal["none", "finetune", "scratch"]
WeightDType = Literal["float32", "bfloat16", "float16", "fp8", "int8", "int4"]
Criterion = Literal["quality", "speed", "memory", "ecosystem", "training"]

CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
DEFAULT_WEIGHTS: dict[Criterion, float] = {
    "quality": 0.30,
    "speed": 0.20,
    "memory": 0.20,
    "ecosystem": 0.15,
    "training": 0.15,
}
THIS_MACHINE = "this"
ENCODER_CONTEXT = 512
"""Tokens of a text to be classified or compared, where nobody said how long it is."""

_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([a-zµ]*)", re.IGNORECASE)
_SIZES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_SIZE = r"(\d+(?:\.\d+)?)\s*([kmbt])"
_NEAR = 1.5
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class BadNeeds(ValueError):
    """Needs that cannot be: names the key, what was wrong and what would be right."""


def _duration(value: Any) -> Any:
    """Seconds of ``50ms``, ``5s``, ``2min``; a number is seconds."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip())
    unit = match[2].lower() or "s" if match else ""
    if match is None or unit not in _SECONDS:
        raise ValueError(f"'{value[:40]}' is not a time; write 50ms, 5s or 2min")
    return float(match[1]) * _SECONDS[unit]


def _parameters(value: Any) -> Any:
    """Lowest and highest count of ``1b-8b``, ``3b-``, ``-8b``; ``7b`` is a factor 1.5 around."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if match := re.fullmatch(_SIZE, text):
        size = float(match[1]) * _SIZES[match[2]]
        return size / _NEAR, size * _NEAR
    match = re.fullmatch(f"(?:{_SIZE})?\\s*-\\s*(?:{_SIZE})?", text)
    if match is None or text.strip() == "-":
        raise ValueError(f"'{value[:40]}' is not a range of parameters; write 7b, 1b-8b or -8b")
    low = float(match[1]) * _SIZES[match[2]] if match[1] else 0.0
    high = float(match[3]) * _SIZES[match[4]] if match[3] else 1e15
    if high < low:
        raise ValueError(f"'{value[:40]}' ends below its start; write the smaller one first")
    return low, high


def _names(value: Any) -> Any:
    return tuple(n.strip() for n in value.split(",") if n.strip()) if type(value) is str else value


def _tokens(value: Any) -> Any:
    """Training tokens: ``10m``, ``2b``, ``1t``, or a number."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(_SIZE, value.strip().lower())
    if match:
        return float(match[1]) * _SIZES[match[2]]
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"'{value[:40]}' is not a count of tokens; write 10m or 2b") from None


def _weights(value: Any) -> Any:
    """``quality=0.5,speed=0.3`` as a mapping; those not named keep their default share."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise ValueError(f"'{value[:60]}' is not quality=0.5,speed=0.3") from None


def _full_dtype(value: Any) -> Any:
    """``bf16`` as ``bfloat16``."""
    return _DTYPES.get(value.lower(), value.lower()) if isinstance(value, str) else value


def _full_kv_dtype(value: Any) -> Any:
    """The same; ``fp8`` of a cache is ``fp8_e4m3``."""
    full = _full_dtype(value)
    return "fp8_e4m3" if full == "fp8" else full


Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0, le=1e9, allow_inf_nan=False)]
Parameters = Annotated[tuple[float, float], BeforeValidator(_parameters)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Weights = Annotated[dict[Criterion, Weight], BeforeValidator(_weights)]
Count = Annotated[float, BeforeValidator(_tokens), Field(gt=0, le=1e18, allow_inf_nan=False)]


class Needs(Frozen):
    """What is asked for. ``prefill`` and ``decode`` are limits in seconds, of the whole prompt and
    of one token for every sequence of the batch; ``training_budget`` is in FLOPs."""

    task: str = "chat"
    context: ContextTokens = 8192
    batch: int = Field(1, ge=1, le=1 << 20)
    generate: int | None = Field(None, ge=1, le=1 << 24, description="Tokens of an answer.")
    device: str = THIS_MACHINE
    memory: Bytes | None = Field(None, description="Of one device; default: the device's own.")
    tp: int = Field(1, ge=1, le=1024, description="Devices that share the model.")
    prefill: Seconds | None = None
    decode: Seconds | None = None
    quality: Quality = "medium"
    retrieval: bool | None = Field(None, description="Default: as the task has it.")
    training: Training = "none"
    training_budget: float | None = Field(None, gt=0, le=1e40, allow_inf_nan=False)
    training_tokens: Count | None = None
    weight_dtype: Annotated[WeightDType | None, BeforeValidator(_full_dtype)] = Field(
        None, description="Default: the widest that fits."
    )
    kv_dtype: Annotated[KVDType | None, BeforeValidator(_full_kv_dtype)] = None
    parameters: Parameters | None = None
    models: Names | None = None
    examples: int | None = Field(None, ge=0, le=1 << 40, description="Labelled examples there are.")
    labels: int = Field(2, ge=1, le=1 << 20, description="Labels to tell apart.")
    languages: Literal["one", "many"] = "one"
    weights: Weights = Field(default_factory=dict)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are generated: those of the task if not said, half the context at most."""
        return self.generate or min(TASKS[self.task].generate_tokens, max(1, self.context // 2))

    @property
    def prompt_tokens(self) -> int:
        """Tokens that are read: the context without the answer."""
        return max(1, self.context - self.answer_tokens)

    @property
    def reference_s(self) -> tuple[float, float]:
        """Seconds of a prefill and of a token that score 0.5: the limits, else the task's."""
        task = TASKS[self.task]
        return self.prefill or task.prefill_s, self.decode or task.token_s

    @property
    def needs_retrieval(self) -> bool:
        """Whether the answer hangs on exact words of the context."""
        return TASKS[self.task].retrieval if self.retrieval is None else self.retrieval

    @property
    def criterion_weights(self) -> dict[Criterion, float]:
        """Weights that sum to 1: those given, and the defaults' proportions for the rest of 1.

        Weights given for all five, or with a sum of 1 or more, are taken as proportions.
        """
        given = self.weights
        left = [name for name in CRITERIA if name not in given]
        rest = max(0.0, 1 - sum(given.values()))
        share = sum(DEFAULT_WEIGHTS[name] for name in left)
        full = {n: given[n] if n in given else rest * DEFAULT_WEIGHTS[n] / share for n in CRITERIA}
        total = sum(full.values())
        return {name: weight / total for name, weight in full.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.task not in TASKS:
            raise ValueError(
                f"task: '{self.task[:40]}' is not known; {nearest(self.task, [*TASKS])}"
            )
        if len(self.weights) == len(CRITERIA) and sum(self.weights.values()) <= 0:
            raise ValueError("weights: their sum is 0; at least one must be above it")
        if self.models is not None and not self.models:
            raise ValueError("models: none is named; leave it out for the whole catalogue")
        if self.generate is not None and self.generate >= self.context > 1:
            raise ValueError(
                f"generate: {self.generate} tokens of answer leave no prompt in a context of "
                f"{self.context}, which is both; say fewer, or more context"
            )
        self._check_training()
        return self

    def _check_training(self) -> None:
        if self.training == "none" and (self.training_budget or self.training_tokens):
            raise ValueError(
                "training: is none, but a training budget or tokens are given; "
                "say training finetune or scratch"
            )
        if self.training == "none":
            return
        if self.training == "finetune" and self.training_budget and not self.training_tokens:
            raise ValueError(
                "training-budget: says nothing of a fine-tuning without its tokens; "
                "say --training-tokens 100m too"
            )
        if self.weight_dtype in ("fp8", "int8", "int4"):
            raise ValueError(
                f"weight-dtype: {self.weight_dtype} weights are not trained in full (LoRA and "
                "QLoRA are not planned for); say bfloat16, or leave training out"
            )


def make_needs(given: Mapping[str, Any]) -> Needs:
    """Needs from keys of a file or options (dashes or underscores). Raises ``BadNeeds``."""
    fields = {str(key).replace("-", "_"): value for key, value in given.items()}
    task = TASKS.get(str(fields.get("task")))
    if task is not None and task.encoder:
        fields.setdefault("context", ENCODER_CONTEXT)
    for key in fields:
        if key not in Needs.model_fields:
            known = [name.replace("_", "-") for name in Needs.model_fields]
            raise BadNeeds(f"{key}: is not a need; {nearest(key.replace('_', '-'), known)}")
    try:
        return Needs.model_validate(fields)
    except ValidationError as error:
        raise BadNeeds(_in_words(error)) from error


def read_needs(path: Path) -> dict[str, Any]:
    """The keys of a YAML file of needs. Raises ``BadNeeds``."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadNeeds(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadNeeds(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(fields, dict):
        raise BadNeeds(f"{path}: holds no keys; write for example: context: 32k")
    return {str(key).replace("-", "_"): value for key, value in fields.items()}


def _in_words(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]).replace("_", "-")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "literal_error" and key.startswith("weights"):
        return f"{key}: is no criterion; there are: {', '.join(CRITERIA)}"
    return f"{key}: {message}" if key else message
