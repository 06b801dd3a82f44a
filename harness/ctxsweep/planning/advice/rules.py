"""Rules that people know, shown as rules: when they apply, and what speaks for and against them.

Evidence is what was measured on this machine where there is any, and else arithmetic on the shapes:
the same model with other key/value heads, a state beside a cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.assess import Assessment, deployment_of, figures_of
from ctxsweep.planning.advice.candidates import FULL, HYBRID, STATE, WINDOW, Candidate
from ctxsweep.planning.advice.decision import Evidence, Figure, RuleFinding
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.limits import usable_bytes
from ctxsweep.planning.advice.measured_pairs import beside, stretched
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.quality_proxy import HYBRIDS, REPEAT_AFTER_ME, RULER
from ctxsweep.planning.deployment import BadDeployment

LONG_TOKENS = 100 * 1024
LITTLE_MEMORY = 0.5
SEVEN_B = 6.5e9  # models called 7B begin here
WORTH = 0.10
OTHER_SIZE = 0.3  # how much less it matters that a pair is of another size than what is taken


@dataclass(frozen=True)
class Scene:
    """What the rules look at: all candidates at the needs, and the one that is taken."""

    needs: Needs
    grounds: Grounds
    assessed: Sequence[Assessment]
    take: Assessment | None

    def of(self, *families: str) -> list[Assessment]:
        """Those that can be laid out, of some families."""
        return [a for a in self.assessed if a.figures and a.candidate.family in families]

    def subject(self) -> Assessment | None:
        """A model with attention to try other heads on: the one taken, else one of about 7B."""
        if self.take is not None and self.take.candidate.config.attention is not None:
            return self.take
        found = self.of(FULL, WINDOW)
        passed = [a for a in found if a.passes]
        return min(
            passed or found,
            key=lambda a: abs(math.log(a.candidate.effective_parameters / SEVEN_B)),
            default=None,
        )

    def takes(self, holds: Callable[[Candidate], bool]) -> bool | None:
        """Whether the one that is taken is such a candidate; None where none such was weighed."""
        weighed = any(one.passes and holds(one.candidate) for one in self.assessed)
        return holds(self.take.candidate) if self.take is not None and weighed else None


def rules(scene: Scene) -> tuple[RuleFinding, ...]:
    """All rules, those that apply first."""
    found = [rule(scene) for rule in RULES]
    return tuple(sorted(found, key=lambda finding: not finding.applies))


def _state(scene: Scene) -> RuleFinding:
    share = _cache_share(scene)
    long = scene.needs.context > LONG_TOKENS
    applies = long and share is not None and share > LITTLE_MEMORY
    here = f"here {context_label(scene.needs.context)}"
    if share is not None:
        here += f" and {share:.0%} of it"
    return RuleFinding(
        name="SSM or RWKV",
        condition=f"beyond 100K tokens, full attention's cache over half the memory; {here}",
        applies=applies,
        recommends="a state of fixed size",
        evidence=tuple(_state_evidence(scene)),
        matrix_agrees=scene.takes(lambda c: c.family in STATE) if applies else None,
    )


def _state_evidence(scene: Scene) -> Iterator[Evidence]:
    yield from _held_beside(scene, STATE)
    for metric in ("itl_s", "cache_used_bytes"):
        yield from beside(scene.grounds.here, _is(*STATE), _is(FULL), metric, scene.needs.context)
    if scene.needs.needs_retrieval:
        text = "a fixed state cannot copy what is longer than it holds"
        yield Evidence(says="against", text=text, source=f"{REPEAT_AFTER_ME}, {RULER}")


def _transformer(scene: Scene) -> RuleFinding:
    first = _state(scene).applies
    evidence: list[Evidence] = []
    rotary = [a.candidate for a in scene.of(FULL) if a.candidate.rotary and a.candidate.reach]
    beyond = [one for one in rotary if (one.reach or 0) < scene.needs.context]
    if rotary and scene.needs.training != "scratch":
        text = f"{len(beyond)} of {len(rotary)} full-attention candidates with rotary positions "
        text += f"were trained to less than {context_label(scene.needs.context)} and would need "
        text += "a stretched RoPE"
        evidence.append(Evidence(says="neither", text=text, source="their published contexts"))
    evidence += stretched(scene.grounds.quality_runs)
    return RuleFinding(
        name="Transformer, RoPE scaled where needed",
        condition="wherever the first rule does not apply",
        applies=not first,
        recommends="attention, stretched by YaRN or NTK-by-parts",
        evidence=tuple(evidence),
        matrix_agrees=scene.takes(lambda c: c.family in (FULL, WINDOW)) if not first else None,
    )


def _gqa(scene: Scene) -> RuleFinding:
    subject = scene.subject()
    applies = subject is not None and subject.candidate.effective_parameters >= SEVEN_B
    evidence: list[Evidence] = []
    if subject is not None:
        attention = subject.candidate.config.attention
        assert attention is not None
        fewer = attention.kv_heads if attention.kv_heads < attention.heads else _grouped(subject)
        evidence += _heads(scene, subject, fewer, attention.heads)
    return RuleFinding(
        name="GQA from 7B",
        condition="for attention with 7B parameters or more",
        applies=applies,
        recommends="fewer key/value heads than query heads",
        evidence=tuple(evidence),
        matrix_agrees=scene.takes(_shares_heads) if applies else None,
    )


def _has_one(candidate: Candidate) -> bool:
    return _kv_heads(candidate) == 1


def _has_several(candidate: Candidate) -> bool:
    return candidate.family == FULL and (_kv_heads(candidate) or 0) > 1


def _mqa(scene: Scene) -> RuleFinding:
    applies, subject = scene.needs.decode is not None, scene.subject()
    evidence: list[Evidence] = []
    if subject is not None:
        attention = subject.candidate.config.attention
        assert attention is not None
        many = attention.kv_heads if attention.kv_heads > 1 else _grouped(subject)
        evidence += _heads(scene, subject, 1, many)
    evidence += beside(scene.grounds.here, _has_one, _has_several, "itl_s", scene.needs.context)
    if scene.needs.tp > 1:
        text = "one key/value head cannot be split: every device holds all of the cache"
        evidence.append(Evidence(says="against", text=text, source="formula"))
    return RuleFinding(
        name="MQA when latency is critical",
        condition="with a limit on the time per token, --decode",
        applies=applies,
        recommends="one key/value head",
        evidence=tuple(evidence),
        matrix_agrees=scene.takes(lambda c: _kv_heads(c) == 1) if applies else None,
    )


def _hybrid(scene: Scene) -> RuleFinding:
    applies = scene.needs.needs_retrieval
    evidence = [
        Evidence(
            says="for",
            text="of models trained alike, Mamba-2 lagged where copying counts, and with "
            "attention in a few layers did not",
            source=HYBRIDS,
        )
    ]
    found = list(_held_beside(scene, (HYBRID,)))
    text = "no hybrid is among the candidates"
    evidence += found or [Evidence(says="neither", text=text, source="candidates")]
    evidence += beside(scene.grounds.here, _is(HYBRID), _is(FULL), "itl_s", scene.needs.context)
    return RuleFinding(
        name="Hybrid where retrieval matters",
        condition="where answers hang on exact words of the context, --retrieval",
        applies=applies,
        recommends="a state model with attention in some layers",
        evidence=tuple(evidence),
        matrix_agrees=scene.takes(lambda c: c.family == HYBRID) if applies else None,
    )


RULES: tuple[Callable[[Scene], RuleFinding], ...] = (_state, _transformer, _gqa, _mqa, _hybrid)


def _held_beside(scene: Scene, families: tuple[str, ...]) -> Iterator[Evidence]:
    """What one of these holds beside full attention of the most similar size, both in 16 bits."""
    pairs = [(a, b) for a in scene.of(*families) for b in scene.of(FULL)]
    if not pairs:
        return
    about = scene.take.candidate.effective_parameters if scene.take else SEVEN_B

    def unlike(pair: tuple[Assessment, Assessment]) -> float:
        sizes = [one.candidate.effective_parameters for one in pair]
        return abs(math.log(sizes[0] / sizes[1])) + OTHER_SIZE * abs(math.log(sizes[0] / about))

    one, full = (half.candidate for half in min(pairs, key=unlike))
    plain = deployment_of(scene.needs.model_copy(update={"tp": 1}), "bfloat16", "auto")
    held, cached = (
        figures_of(candidate, plain, scene.needs, scene.grounds).cache_bytes
        for candidate in (one, full)
    )
    yield Evidence(
        says="for" if held < cached else "against",
        text=f"{one.name} ({one.parameters / 1e9:.3g}B) holds {_bytes(held)} at "
        f"{context_label(scene.needs.context)}, {full.name} ({full.parameters / 1e9:.3g}B) "
        f"{_bytes(cached)}",
        source="formula, 16 bits",
    )


def _heads(scene: Scene, subject: Assessment, fewer: int, more: int) -> Iterator[Evidence]:
    """The same model with fewer and with more key/value heads."""
    if fewer >= more:
        return
    try:
        few, many = (_with_heads(scene, subject, heads) for heads in (fewer, more))
    except BadDeployment:
        return
    saved = 1 - few.value / many.value
    yield Evidence(
        says="for" if saved >= WORTH else "against",
        text=f"{subject.candidate.name} with {fewer} for {more} key/value heads: decode "
        f"{_seconds(few.value)} for {_seconds(many.value)}, {saved:.0%} less",
        source=f"{few.basis}, {scene.grounds.device.name}",
    )
    cache = [_cache_with(scene, subject, heads) for heads in (fewer, more)]
    yield Evidence(
        says="for" if cache[0] < cache[1] * (1 - WORTH) else "against",
        text=f"and its cache at {context_label(scene.needs.context)}: {_bytes(cache[0])} for "
        f"{_bytes(cache[1])}",
        source="formula",
    )


def _with_heads(scene: Scene, subject: Assessment, heads: int) -> Figure:
    return figures_of(
        _twin(subject, heads), subject.deployment, scene.needs, scene.grounds
    ).decode_s


def _cache_with(scene: Scene, subject: Assessment, heads: int) -> int:
    return figures_of(
        _twin(subject, heads), subject.deployment, scene.needs, scene.grounds
    ).cache_bytes


def _twin(subject: Assessment, heads: int) -> Candidate:
    """The same shape with another number of key/value heads; nothing was measured of it."""
    config = subject.candidate.config
    assert config.attention is not None
    attention = config.attention.model_copy(update={"kv_heads": heads})
    return Candidate(
        f"{subject.candidate.name} with {heads} key/value heads",
        config.model_copy(update={"attention": attention}),
        has_weights=False,
    )


def _grouped(subject: Assessment) -> int:
    """A usual number of groups: 8, or as many as divide the heads."""
    attention = subject.candidate.config.attention
    assert attention is not None
    return next(groups for groups in (8, 4, 2, 1) if attention.heads % groups == 0)


def _cache_share(scene: Scene) -> float | None:
    """Median of full attention's caches over the memory that can be used."""
    shares = [
        _cache(a) / usable_bytes(scene.needs, scene.grounds, a.deployment) for a in scene.of(FULL)
    ]
    return median(shares) if shares else None


def _is(*families: str) -> Callable[[Candidate], bool]:
    return lambda candidate: candidate.family in families


def _shares_heads(candidate: Candidate) -> bool:
    attention = candidate.config.attention
    return attention is not None and attention.kv_heads < attention.heads


def _kv_heads(candidate: Candidate) -> int | None:
    attention = candidate.config.attention
    return attention.kv_heads if attention and candidate.family == FULL else None


def _cache(one: Assessment) -> int:
    assert one.figures is not None
    return one.figures.cache_bytes


def _bytes(value: float) -> str:
    return quantity(value, "bytes")


def _seconds(value: float) -> str:
    return quantity(value, "s")
