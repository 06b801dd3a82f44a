"""Which model to take for these needs, why, and on what evidence.

Hard constraints first (``assess``), then the weighted matrix (``weighing``) among candidates of one
size, the rules beside it (``rules``), and, where nothing will do, the nearest that would
(``nearest``). Tasks for encoders go through a tree of their own (``encoder_tasks``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.analysis.wording import context_label, quantity
from ctxsweep.planning.advice.assess import Assessment, assess
from ctxsweep.planning.advice.candidates import CLASSES, Candidate
from ctxsweep.planning.advice.decision import (
    Decision,
    DeviceLine,
    EncoderAnswer,
    Excluded,
    Ranked,
    Sensitivity,
    Suggestion,
)
from ctxsweep.planning.advice.encoder_tasks import encoder_answer, wants_decoder
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.limits import figure_words, precision_words
from ctxsweep.planning.advice.nearest import nearest_feasible
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.rules import Scene, rules
from ctxsweep.planning.advice.tasks import TASKS
from ctxsweep.planning.advice.weighing import Matrix, Scored, sensitivity, weigh

FEWEST_OF_A_SIZE = 2
FAR = 0.5  # a weight moved by more is another question
SLOW_S = 60.0
"""Seconds of an answer from which on a missing limit is worth a remark."""


@dataclass(frozen=True)
class Made:
    """By whom, when and how a decision was made."""

    at: str
    version: str
    commit: str | None
    command: str
    asked_runs: tuple[str, ...] = ()


def advise(candidates: Sequence[Candidate], needs: Needs, grounds: Grounds, made: Made) -> Decision:
    """Decide. ``candidates`` are all that may be taken; at least one."""
    encoder = encoder_answer(needs) if TASKS[needs.task].encoder else None
    if encoder is not None and not wants_decoder(encoder):
        return _decision(needs, grounds, made, _Found(encoder=encoder))
    assessed = [assess(candidate, needs, grounds) for candidate in candidates]
    compared, aside, why = _of_one_size([a for a in assessed if a.passes], needs)
    found = _Found(
        assessed=tuple(assessed),
        matrix=weigh(compared, needs, grounds) if compared else None,
        aside=tuple(a.candidate.name for a in aside),
        compared=why,
        suggestions=() if compared else nearest_feasible(candidates, needs, grounds),
        encoder=encoder,
    )
    return _decision(needs, grounds, made, found)


@dataclass(frozen=True)
class _Found:
    """What was found out, before it is put into words."""

    assessed: tuple[Assessment, ...] = ()
    matrix: Matrix | None = None
    aside: tuple[str, ...] = ()
    compared: str = "no decoder was compared"
    suggestions: tuple[Suggestion, ...] = ()
    encoder: EncoderAnswer | None = None

    @property
    def taken(self) -> Scored | None:
        """The row of the one that is taken."""
        rows = self.matrix.rows if self.matrix else ()
        return next((row for row in rows if self.matrix and row.name == self.matrix.take), None)

    @property
    def excluded(self) -> tuple[Excluded, ...]:
        """The first need that each of the others fails."""
        return tuple(a.failures[0] for a in self.assessed if not a.passes)


def _of_one_size(
    passed: Sequence[Assessment], needs: Needs
) -> tuple[list[Assessment], list[Assessment], str]:
    """The largest class of sizes with something to compare; all, where names or sizes are given."""
    if needs.models is not None or needs.parameters is not None:
        return list(passed), [], "all that meet the needs, as models or sizes were named"
    if any(a.candidate.series is not None for a in passed):
        return list(passed), [], "all series of the runs named that meet the needs"
    sizes = Counter(a.candidate.size_class for a in passed)
    if not sizes:
        return [], [], "nothing meets the needs"
    enough = [size for size, count in sizes.items() if count >= FEWEST_OF_A_SIZE] or list(sizes)
    largest = max(enough)
    low, high = CLASSES[largest], CLASSES[largest + 1]
    words = f"{low / 1e9:g}B to {high / 1e9:g}B" if low else f"up to {high / 1e9:g}B"
    words = words if high < math.inf else f"over {low / 1e9:g}B"
    inside = [a for a in passed if a.candidate.size_class == largest]
    outside = [a for a in passed if a.candidate.size_class != largest]
    why = f"models of {words} (of experts: the mean of all and active), the largest class in which "
    why += f"{FEWEST_OF_A_SIZE} or more meet the needs; --parameters chooses another"
    return inside, outside, why


def _decision(needs: Needs, grounds: Grounds, made: Made, found: _Found) -> Decision:
    taken, matrix = found.taken, found.matrix
    sensitive = sensitivity(matrix.rows, needs.criterion_weights) if matrix else None
    scene = Scene(needs, grounds, found.assessed, taken.assessment if taken else None)
    ranking = tuple(_ranked(row) for row in matrix.rows) if matrix else ()
    return Decision(
        made_at=made.at,
        version=made.version,
        commit=made.commit,
        command=made.command,
        needs=needs,
        weights=needs.criterion_weights,
        device=DeviceLine(
            name=grounds.device.name,
            memory_bytes=needs.memory or grounds.device.memory_bytes,
            count=needs.tp,
            source=grounds.device.source,
        ),
        take=taken.name if taken else None,
        sentence=_sentence(needs, found),
        because=_because(needs, found),
        basis=_basis(found),
        tie=matrix.tie if matrix else (),
        tie_breaker=matrix.tie_breaker if matrix else "",
        compared=found.compared,
        ranking=ranking,
        excluded=found.excluded,
        aside=found.aside,
        rules=rules(scene) if found.assessed else (),
        sensitivity=sensitive,
        suggestions=found.suggestions,
        would_change=_would_change(needs, found, sensitive),
        assumptions=(*_assumptions(needs), *grounds.notes),
        encoder=found.encoder,
        runs=_runs(ranking),
        asked_runs=made.asked_runs,
    )


def _ranked(row: Scored) -> Ranked:
    one = row.assessment
    assert one.figures is not None
    return Ranked(
        name=row.name,
        family=one.candidate.label,
        parameters=one.candidate.parameters,
        active_parameters=one.candidate.active_parameters,
        precision=precision_words(one.deployment),
        engines=row.engines,
        figures=one.figures,
        scores=row.scores,
        total=row.total,
        quality=row.quality,
        hopes=one.hopes,
        remarks=one.remarks,
    )


def _sentence(needs: Needs, found: _Found) -> str:
    taken, encoder = found.taken, found.encoder
    if encoder is not None and taken is None:
        end = "" if not found.assessed else "; but no model of the catalogue meets the needs"
        return f"Take {encoder.approach}{end}"
    if taken is None:
        text = "Nothing meets these needs"
        return f"{text}; nearest: {found.suggestions[0].text}" if found.suggestions else text
    one = taken.assessment
    start = f"{taken.name} ({one.candidate.label}, {precision_words(one.deployment)})"
    start = f"Take {encoder.approach}: {start}" if encoder is not None else f"Take {start}"
    matrix = found.matrix
    if matrix is not None and matrix.tie:
        others = [name for name in matrix.tie if name != taken.name]
        named = others[0] if len(others) == 1 else f"{others[0]} and {len(others) - 1} more"
        return f"{start}: a tie with {named}, decided by {matrix.tie_breaker}"
    return start


def _because(needs: Needs, found: _Found) -> str:
    taken = found.taken
    if taken is None:
        return found.encoder.reason if found.encoder else _main_obstacle(found)
    figures = taken.assessment.figures
    assert figures is not None and found.matrix is not None
    cost = (
        f"{quantity(figures.memory_bytes.value, 'bytes')} a device at "
        f"{context_label(needs.context)}, decode {figure_words(figures.decode_s)}, "
        f"prefill {figure_words(figures.prefill_s)}"
    )
    rows = found.matrix.rows
    columns = {name: [row.scores[name] for row in rows] for name in taken.scores}
    best = [
        name
        for name, column in columns.items()
        if taken.scores[name] == max(column) and min(column) < max(column)
    ]
    if len(rows) == 1:
        return f"It is the only one that meets the needs: {cost}"
    lead = f"best in {', '.join(best)}" if best else "best in none, but good in most"
    return f"{lead[0].upper()}{lead[1:]} of {len(rows)}: {cost}"


def _main_obstacle(found: _Found) -> str:
    counts = Counter(excluded.need for excluded in found.excluded)
    parts = [f"{count} fail {need}" for need, count in counts.most_common()]
    return f"Of {len(found.assessed)} candidates {', '.join(parts)}"


def _basis(found: _Found) -> str:
    """On what the times of the answer rest, in a sentence."""
    taken = found.taken
    if taken is None or taken.assessment.figures is None:
        return "figures and papers beside each line below; nothing was weighed"
    figures = taken.assessment.figures
    basis = figures.request_s.basis
    words = {
        "measured": "times were measured",
        "between": "times lie between two measured contexts",
        "calibrated": "times are predicted by a model fitted to runs of this machine",
        "bound": "times are predicted: bounds that no engine beats and real ones exceed",
    }
    others = {
        row.assessment.figures.request_s.basis for row in _rows(found) if row.assessment.figures
    }
    mixed = "; not all candidates' times rest on the same" if len(others) > 1 else ""
    known = any(part.reason.startswith("measured") for part in taken.quality)
    quality = "quality is a proxy, in part measured" if known else "quality is a proxy"
    return f"{words.get(basis, basis)} ({figures.decode_s.source}){mixed}; {quality}"


def _rows(found: _Found) -> tuple[Scored, ...]:
    return found.matrix.rows if found.matrix else ()


def _would_change(needs: Needs, found: _Found, sensitive: Sensitivity | None) -> tuple[str, ...]:
    lines = []
    if sensitive is not None:
        flips = sorted(sensitive.flips, key=lambda flip: abs(flip.at - flip.weight))
        lines += [
            f"{flip.criterion} weighted {flip.at:.2f} instead of {flip.weight:.2f}: "
            f"{flip.leader} leads"
            for flip in flips[:3]
            if abs(flip.at - flip.weight) <= FAR
        ]
    if found.matrix is not None and found.matrix.tie:
        lines.append("a measurement that tells the tie apart: ctxsweep run, then advise --run")
    taken = found.taken
    if taken is not None:
        lines += [f"{taken.name}: {hope}" for hope in taken.assessment.hopes]
        if any(not part.reason.startswith("measured") for part in taken.quality):
            lines.append("a measured quality of the candidates on your own task: the proxy is none")
    figures = taken.assessment.figures if taken is not None else None
    if figures is not None and needs.prefill is None and figures.request_s.value > SLOW_S:
        took = quantity(figures.request_s.value, "s")
        lines.append(f"a limit on time: none was given, and an answer takes {took} or more")
    close = [e for e in found.excluded if e.need in ("prefill", "decode") and not e.proof]
    lines += [f"{e.name}: {e.reason}" for e in close[:2]]
    return tuple(lines)


def _assumptions(needs: Needs) -> tuple[str, ...]:
    if TASKS[needs.task].encoder:
        return (f"texts of {needs.context} tokens (--context)",)
    retrieval = "matter" if needs.needs_retrieval else "do not matter"
    lines = [
        f"{needs.task}: {needs.answer_tokens} tokens of answer to a prompt read once; exact "
        f"words of the context {retrieval} (--generate, --retrieval)",
        f"{context_label(needs.context)} is the whole context, prompt and answer",
    ]
    if needs.training == "scratch" and needs.training_tokens is None:
        lines.append("20 tokens a parameter to train on (Chinchilla, arXiv 2203.15556)")
    return tuple(lines)


def _runs(ranking: Sequence[Ranked]) -> tuple[str, ...]:
    figures = [f for row in ranking for f in (row.figures.prefill_s, row.figures.decode_s)]
    sources = [f.source for f in figures if f.basis in ("measured", "between")]
    quality = [p.reason for row in ranking for p in row.quality if p.reason.startswith("measured")]
    sources += [reason.rpartition(", ")[2] for reason in quality]
    return tuple(dict.fromkeys(source.partition(",")[0] for source in sources))
