"""Which model to take for these needs, why, and on what evidence.

Hard constraints first (``assess``), then the weighted matrix (``weighing``) of all that meet them,
the rules beside it (``rules``), and, where nothing will do, the nearest that would (``nearest``).
Tasks for encoders go through a tree of their own (``encoder_tasks``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ctxsweep.planning.advice import saying
from ctxsweep.planning.advice.assess import assess
from ctxsweep.planning.advice.candidates import Candidate
from ctxsweep.planning.advice.decision import Decision, DeviceLine, Ranked
from ctxsweep.planning.advice.encoder_tasks import encoder_answer, quickest_decoder
from ctxsweep.planning.advice.evidence import Grounds
from ctxsweep.planning.advice.limits import memory_bytes
from ctxsweep.planning.advice.nearest import nearest_feasible
from ctxsweep.planning.advice.needs import Needs
from ctxsweep.planning.advice.precision import precision_words
from ctxsweep.planning.advice.rules import Scene, rules
from ctxsweep.planning.advice.saying import Outcome
from ctxsweep.planning.advice.sensitivity import sensitivity
from ctxsweep.planning.advice.tasks import TASKS
from ctxsweep.planning.advice.weighing import Scored, weigh


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
    encoder = None
    if TASKS[needs.task].encoder:
        encoder = encoder_answer(needs, quickest_decoder(candidates, needs, grounds))
        if not encoder.asks_decoder:
            return _decision(needs, grounds, made, Outcome(encoder=encoder))
    assessed = tuple(assess(candidate, needs, grounds) for candidate in candidates)
    passed = [one for one in assessed if one.passes]
    found = Outcome(
        assessed=assessed,
        matrix=weigh(passed, needs, grounds) if passed else None,
        compared=_compared(candidates, needs),
        suggestions=() if passed else nearest_feasible(candidates, needs, grounds),
        encoder=encoder,
    )
    return _decision(needs, grounds, made, found)


def _compared(candidates: Sequence[Candidate], needs: Needs) -> str:
    if needs.models is not None or needs.parameters is not None:
        return "all that meet the needs, as models or sizes were named"
    if any(one.series is not None for one in candidates):
        return "all series of the runs named that meet the needs"
    return "all of the catalogue that meet the needs, of any size; --parameters chooses one"


def _decision(needs: Needs, grounds: Grounds, made: Made, found: Outcome) -> Decision:
    taken, matrix = found.taken, found.matrix
    sensitive = sensitivity(matrix.table, needs.criterion_weights) if matrix else None
    scene = Scene(needs, grounds, found.assessed, taken.assessment if taken else None)
    ranking = tuple(_ranked(row) for row in found.rows)
    return Decision(
        made_at=made.at,
        version=made.version,
        commit=made.commit,
        command=made.command,
        needs=needs,
        weights=needs.criterion_weights,
        device=DeviceLine(
            name=grounds.device.name,
            memory_bytes=memory_bytes(needs, grounds),
            count=needs.tp,
            source=grounds.device.source,
        ),
        take=taken.name if taken else None,
        sentence=saying.sentence(found),
        because=saying.because(needs, found),
        basis=saying.basis(found),
        tie=matrix.tie if matrix else (),
        tie_breaker=matrix.tie_breaker if matrix else "",
        compared=found.compared,
        ranking=ranking,
        excluded=found.excluded,
        best_of_sizes=saying.best_of_sizes(found.rows),
        rules=rules(scene) if found.assessed else (),
        sensitivity=sensitive,
        suggestions=found.suggestions,
        would_change=saying.would_change(needs, found, sensitive),
        assumptions=(*saying.assumptions(needs, found), *grounds.notes),
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


def _runs(ranking: Sequence[Ranked]) -> tuple[str, ...]:
    figures = [f for row in ranking for f in (row.figures.prefill_s, row.figures.decode_s)]
    sources = [f.source for f in figures if f.basis in ("measured", "between")]
    quality = [p.reason for row in ranking for p in row.quality if p.reason.startswith("measured")]
    sources += [reason.rpartition(", ")[2] for reason in quality]
    return tuple(dict.fromkeys(source.partition(",")[0] for source in sources))
