"""From what was typed to a sweep: find the scenario, check all that can be checked, measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctxsweep.cli import find
from ctxsweep.cli.errors import BadInput
from ctxsweep.scenario import Scenario


def launch(
    name: str,
    device: str,
    asked: dict[str, Any],
    out: Path,
    *,
    resume: bool,
    dry_run: bool,
    verbosity: int,
    quality: bool = False,
) -> int:
    """Measure a scenario, or print its plan; the exit code. ``asked`` is for ``find.scenario``.

    With ``quality`` the scenario must have that section. Raises ``BadInput`` and what loading does.
    """
    plan = find.scenario(name, device, **asked)
    if quality:
        _require_quality(plan)
    if dry_run:
        from ctxsweep.cli.plan import print_plan

        print_plan(plan)
        return 0
    find.require_device(plan.device)
    from ctxsweep.cli.sweep import sweep_and_report

    return sweep_and_report(plan, out, resume=resume, verbosity=verbosity)


def replay_table(name: str, run: str | None, results: Path, ignored: Sequence[str]) -> None:
    """Draw a published table beside a run of the user's own, the latest that measured quality.

    ``ignored`` are options that were typed and mean nothing here. Raises ``BadInput``.
    """
    if ignored:
        raise BadInput(f"--replay measures nothing, so {', '.join(ignored)} cannot go with it")
    from ctxsweep.analysis import published
    from ctxsweep.cli.sweep import derive
    from ctxsweep.report.replay import build_replay, print_replay
    from ctxsweep.store import RunFolder

    try:
        table = published.load(name)
    except published.UnknownTable as error:
        raise BadInput(str(error)) from error
    folder = find.run_folder(run, results) if run else find.latest_quality(results)
    summary = derive(RunFolder.open(folder)) if folder else None
    if run and summary and summary.quality is None:
        raise BadInput(f"{folder} measured no quality; name a run of: ctxsweep rope")
    page = build_replay(table, summary, folder or results)
    print_replay(table, summary)
    print(page)


def _require_quality(plan: Scenario) -> None:
    if plan.quality is None:
        raise BadInput(
            f"scenario '{plan.name}' has no section quality, so there is no quality to judge; "
            f"measure it with: ctxsweep run {plan.name}, or take rope_smollm2 as a pattern"
        )
