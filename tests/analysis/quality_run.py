"""A run that measured quality, made up: what every variant loses, and where, is known.

Every token of the text has a loss of its own, which all passes share; a context before it helps,
and a variant adds what its ``Variant`` says, with noise that neighbours share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from ctxsweep.records import Cell, Record, RopeScaling, Sample, Series, Status
from ctxsweep.records_quality import LossPass, Quality, TextSource, Trial

Array = npt.NDArray[np.float64]

REFERENCE, SHORT, BLOCK, TARGETS = 8192, 2048, 16, 2048
CONTEXTS = (8192, 12288, 16384)
TEXT_TOKENS = 20_000
ASKED: dict[str, Any] = {
    "text": "made-up",
    "target_tokens": TARGETS,
    "stretches": 1,
    "block_tokens": BLOCK,
    "short_context": SHORT,
    "reference": {"series": "none", "context": REFERENCE},
    "max_loss": 0.1,
}


@dataclass(frozen=True)
class Variant:
    """What a setting adds to the loss once the context is longer than the reference's.

    ``added`` nats everywhere, ``harm`` on the short pass, and past ``breaks_at`` 1 nat for every
    thousand positions. ``found`` is the share of depths at which the passkey is found there.
    """

    name: str
    rope_type: str | None = None
    added: float = 0.0
    harm: float = 0.0
    breaks_at: int | None = None
    found: float = 1.0
    cost: float = 1.0


VARIANTS = (
    Variant("none", breaks_at=10_240, found=0.0),
    Variant("linear", "linear", added=0.6, harm=0.2, found=0.5),
    Variant("ntk", "ntk", added=0.05, harm=0.02),
    Variant("dynamic", "dynamic", added=0.05, harm=0.0),
    Variant("ntk_by_parts", "ntk_by_parts", added=0.004),
    Variant("yarn", "yarn", cost=1.02),
    Variant("short_harm", "llama3", harm=0.15),
)


def build_run(
    variants: Sequence[Variant] = VARIANTS,
    contexts: Sequence[int] = CONTEXTS,
    *,
    stretches: int = 1,
    tasks: Sequence[str] = ("passkey",),
    seed: int = 0,
    text: str = "made-up",
) -> list[Record]:
    """Records of every variant at every context; the first variant is the reference."""
    texts = [_token_losses(np.random.default_rng([seed, i])) for i in range(stretches)]
    return [
        _record(variant, context, texts, list(tasks), i == 0, seed, text)
        for i, variant in enumerate(variants)
        for context in contexts
    ]


def correlated(rng: np.random.Generator, count: int, share: float = 0.7) -> Array:
    """Noise of variance 1 that neighbours share (a first-order process)."""
    noise = rng.standard_normal(count)
    noise[1:] *= np.sqrt(1 - share**2)
    return np.asarray(lfilter([1.0], [1.0, -share], noise))


def _token_losses(rng: np.random.Generator) -> Array:
    return 3.0 + 0.5 * correlated(rng, TEXT_TOKENS, 0.9) + rng.exponential(2.0, TEXT_TOKENS) - 2.0


def _blocks(losses: Array) -> tuple[float, ...]:
    whole = losses[len(losses) % BLOCK :]
    return tuple(float(v) for v in whole.reshape(-1, BLOCK).mean(axis=1))


def _pass(losses: Array, context: int, offset: int, added: Array | float, stretch: int) -> LossPass:
    end = TEXT_TOKENS - offset
    helped = 0.3 * np.exp(-np.arange(context) / 500)
    return LossPass(
        context_tokens=context,
        stretch=stretch,
        end_offset=offset,
        block_tokens=BLOCK,
        losses=_blocks(losses[end - context : end] + helped + added),
    )


def _passes(
    variant: Variant, context: int, texts: list[Array], reference: bool, seed: int
) -> list[LossPass]:
    rng = np.random.default_rng([seed, context, sum(map(ord, variant.name))])
    stretched = context > REFERENCE and not reference
    found = []
    for i, text in enumerate(texts):
        added = np.zeros(context)
        harm: Array | float = 0.0
        if stretched:
            added += variant.added + 0.1 * correlated(rng, context)
            harm = variant.harm + 0.05 * correlated(rng, SHORT)
        if variant.breaks_at is not None:
            added += np.maximum(0, np.arange(context) - variant.breaks_at) / 1000
        found.append(_pass(text, context, 0, added, i))
        found.append(_pass(text, SHORT, 0, harm, i))
        if reference and context == REFERENCE:
            found += [_pass(text, context, offset, 0.0, i) for offset in (4096, 8192)]
    return found


def _trials(variant: Variant, context: int, tasks: list[str]) -> list[Trial]:
    depths = (0.05, 0.35, 0.65, 0.95)
    found = variant.found if context > REFERENCE else 1.0
    return [
        Trial(
            task=task,  # type: ignore[arg-type]
            context_tokens=context,
            depth=depth,
            trial=trial,
            answer_tokens=5,
            correct_tokens=5 if 1 - depth < found or found == 1 else 2,
            log_probability=-0.2 if 1 - depth < found or found == 1 else -9.0,
        )
        for task in tasks
        for depth in depths
        for trial in range(2)
    ]


def _samples(variant: Variant, context: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng([seed, context, 1])
    step = 0.01 * variant.cost
    chunks = [("prefill", at, 512, step * (1 + at / 16384)) for at in range(0, context, 512)]
    steps = [("decode", context + i, 1, step) for i in range(16)]
    return [
        Sample(
            phase=phase,  # type: ignore[arg-type]
            position=position,
            tokens=tokens,
            wall_s=seconds * float(1 + 0.02 * rng.standard_normal()),
            cpu_s=seconds,
        )
        for phase, position, tokens, seconds in chunks + steps
    ]


def _record(
    variant: Variant,
    context: int,
    texts: list[Array],
    tasks: list[str],
    reference: bool,
    seed: int,
    text: str,
) -> Record:
    factor = max(1.0, context / REFERENCE)
    kind: Any = variant.rope_type
    rope = None if kind is None else RopeScaling(rope_type=kind, factor="auto")
    return Record(
        cell=Cell(
            scenario="rope",
            series=Series(name=variant.name, model="made-up", rope=rope),
            context_tokens=context,
            generate_tokens=16,
            procedure="independent",
        ),
        status=Status.OK,
        samples=tuple(_samples(variant, context, seed)),
        engine={"procedure": "scored"},
        quality=Quality(
            text=TextSource(name=text, sha256="0" * 64, tokens=TEXT_TOKENS, tokens_sha256="1" * 64),
            tokenizer="bytes",
            trained_tokens=REFERENCE,
            rope=None if kind is None else {"rope_type": kind, "factor": factor},
            passes=tuple(_passes(variant, context, texts, reference, seed)),
            trials=tuple(_trials(variant, context, tasks)),
        ),
    )
