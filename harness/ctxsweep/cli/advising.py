"""What ``ctxsweep advise`` does: needs and evidence in, a decision out, printed and recorded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ctxsweep import __version__
from ctxsweep.cli.advise_grounds import Found, find_grounds
from ctxsweep.cli.errors import BadInput
from ctxsweep.measure.environment import read_commit
from ctxsweep.planning.advice.advise import Made, advise
from ctxsweep.planning.advice.candidates import (
    Candidate,
    UnknownCandidate,
    catalogue,
    named,
    of_series,
    series_by_name,
)
from ctxsweep.planning.advice.decision import BadRecord, Decision, from_record
from ctxsweep.planning.advice.decision_diff import differences
from ctxsweep.planning.advice.needs import BadNeeds, Needs, make_needs, read_needs
from ctxsweep.planning.devices import Device
from ctxsweep.report.advise_markdown import record_text
from ctxsweep.report.advise_terminal import print_changes, print_decision
from ctxsweep.store import utc_now, write_atomic

_HOURS = re.compile(r"(\d+(?:\.\d+)?)\s*h", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """What was typed: options that were given, a file of needs, runs, an old record."""

    given: Mapping[str, Any]
    needs: Path | None = None
    runs: tuple[str, ...] = ()
    results: Path = Path("results")
    diff: Path | None = None


def print_advice(
    asked: Asked, record: Path | None, *, force: bool, as_json: bool, verbose: bool
) -> Decision:
    """Decide, print, and write the record. Raises ``BadInput``."""
    if record is not None and record.exists() and not force:
        raise BadInput(
            f"{record}: is there already; --force overwrites it, --diff compares with it"
        )
    old = _old(asked.diff)
    decision = decide(asked, old)
    changes = differences(old, decision) if old else None
    if record is not None:  # before a word is printed: whoever reads may stop reading
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(record, record_text(decision))
    if as_json:
        typer.echo(decision.model_dump_json(indent=1))
    elif old is not None and changes is not None:
        print_changes(old, decision, changes)
    else:
        print_decision(decision, verbose=verbose)
    if record is not None:
        typer.echo(f"record: {record}", err=as_json)
    return decision


def decide(asked: Asked, old: Decision | None = None) -> Decision:
    """The decision for what was asked. Raises ``BadInput``."""
    runs = asked.runs or (old.asked_runs if old else ())
    try:
        fields = _fields(asked, old)
        budget = fields.get("training_budget")
        hours = _HOURS.fullmatch(str(budget).strip()) if budget is not None else None
        needs = make_needs({**fields, "training_budget": 1.0 if hours else budget})
        found = find_grounds(needs, runs, asked.results)
        if hours:
            flops = _hours_of(float(hours[1]), found.grounds.device, needs)
            needs = needs.model_copy(update={"training_budget": flops})
        candidates = _candidates(needs, found, explicit=bool(runs))
    except (BadNeeds, UnknownCandidate) as error:
        raise BadInput(str(error)) from None
    made = Made(
        at=utc_now(),
        version=__version__,
        commit=_commit(),
        command=_command(asked, runs),
        asked_runs=runs,
    )
    return advise(candidates, needs, found.grounds, made)


def _old(path: Path | None) -> Decision | None:
    if path is None:
        return None
    try:
        return from_record(path)
    except BadRecord as error:
        raise BadInput(str(error)) from None


def _fields(asked: Asked, old: Decision | None) -> dict[str, Any]:
    """Needs of an old record, over them those of a file, over them the options."""
    fields: dict[str, Any] = {}
    if old is not None:
        dumped = old.needs.model_dump(mode="json", exclude_none=True)
        fields |= dumped
    if asked.needs is not None:
        fields |= read_needs(asked.needs)
    return fields | dict(asked.given)


def _candidates(needs: Needs, found: Found, *, explicit: bool) -> Sequence[Candidate]:
    """Those named, the series of the runs given, or the catalogue."""
    series = series_by_name([(run.run_id, run.series) for run in found.given])
    if needs.models is not None:
        return named(needs.models, series)
    if not explicit:
        return catalogue()
    by_name, problems = {}, []
    for name, one in series.items():
        try:
            by_name[name] = of_series(one, name)
        except UnknownCandidate as error:
            problems.append(str(error))
    if not by_name:
        raise BadInput(f"--run: none of its models can be read here: {problems[0]}")
    return tuple(by_name.values())


def _hours_of(hours: float, device: Device, needs: Needs) -> float:
    """FLOPs of so many hours of all devices at full rate."""
    rate = device.flops_per_s.get("bfloat16") or max(device.flops_per_s.values())
    return hours * 3600 * rate * needs.tp


def _commit() -> str | None:
    commit, dirty = read_commit()
    return f"{commit[:10]}{' with changes' if dirty else ''}" if commit else None


def _command(asked: Asked, runs: Sequence[str]) -> str:
    """The command that decides the same again; with ``--diff`` the old needs are in the record."""
    words = ["ctxsweep", "advise"]
    if asked.diff is not None:
        words += ["--diff", str(asked.diff)]
    if asked.needs is not None:
        words += ["--needs", str(asked.needs)]
    for key, value in asked.given.items():
        option = key.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    for run in runs:
        words += ["--run", run]
    if asked.results != Path("results"):
        words += ["--results", str(asked.results)]
    return shlex.join(words)
