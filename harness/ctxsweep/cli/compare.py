"""``ctxsweep compare``: two sides, one table, and the files that hold it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from ctxsweep.analysis.comparable import ACROSS, blocking, obstacles
from ctxsweep.analysis.compare import Table, compare, concluded
from ctxsweep.analysis.compare_bench import (
    Benchmarks,
    compare_benchmarks,
    is_benchmarks,
    read_benchmarks,
)
from ctxsweep.analysis.comparison import Comparison, NotCompared
from ctxsweep.baselines import BENCHMARKS
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.recheck import measured_again
from ctxsweep.cli.sides import Runs, both_sides
from ctxsweep.report.compare_junit import junit
from ctxsweep.report.compare_markdown import markdown
from ctxsweep.report.compare_page import build_comparison
from ctxsweep.report.compare_terminal import print_comparison
from ctxsweep.scenario_regression import Regression
from ctxsweep.store import write_atomic


def compare_named(
    base: str | None,
    new: str | None,
    results: Path,
    *,
    across: Sequence[str] = (),
    thresholds: Sequence[str] = (),
    out: Path | None = None,
    recheck: bool = False,
    verbose: bool = False,
) -> Comparison:
    """Compare what two names mean, print it, and write it into ``out``. Raises ``BadInput``.

    A name is a run's folder, a scenario (its latest run; ``smoke~1`` the one before), a folder
    with several runs, ``baseline``, or a file of pytest-benchmark. Without names: the latest run
    with its baseline.
    """
    for kind in across:
        if kind not in ACROSS:
            raise BadInput(f"--across {kind}: unknown; valid: {', '.join(ACROSS)}")
    files = [Path(name) for name in (base, new) if name and is_benchmarks(Path(name))]
    if len(files) == 2:
        if recheck:
            raise BadInput("--recheck measures cells of runs again; benchmarks it cannot")
        found = _of_benchmarks(
            *map(read_benchmarks, files), with_thresholds(None, thresholds), across
        )
    elif files:
        raise BadInput(f"{files[0]} is a file of benchmarks, the other side is not")
    else:
        newer, older = both_sides(base, new, results)
        plan = with_thresholds(newer, thresholds)
        found = compare_runs_of(older, newer, plan, across)
        if recheck:
            found = measured_again(found, older, newer, plan, out or newer.folders[-1].path)
    page = None if out is None else write_comparison(found, out)
    print_comparison(found, verbose=verbose)
    if page is not None:
        Console(soft_wrap=True).print(f"Comparison: {page}", highlight=False, markup=False)
    return found


def compare_runs_of(
    base: Runs, new: Runs, plan: Regression, across: Collection[str] = ()
) -> Comparison:
    """Two sides as one table, with the benchmarks that lie beside the runs.

    Raises ``BadInput`` if a run is on both sides: it is no slower than itself.
    """
    both = {run.run_id for run in base.party.runs} & {run.run_id for run in new.party.runs}
    if both:
        raise BadInput(
            f"{sorted(both)[0]} is on both sides; name an older run as the base, such as "
            f"{new.party.scenario}~1, or measure again"
        )
    files = [side.folders[-1].path / BENCHMARKS for side in (base, new)]
    there = [file.is_file() for file in files]
    more = None
    found = obstacles(base.party.environment, new.party.environment)
    between = [o for o in blocking(found, across) if o.package is None]
    if all(there) and between:
        reason = "; ".join(o.text for o in between)
        more = Table(not_compared=[NotCompared(what="benchmarks", count=1, reason=reason)])
    elif all(there):
        more = compare_benchmarks(*map(read_benchmarks, files), plan, across)
    elif any(there):
        reason = f"the {'new' if there[0] else 'base'} run has none beside it"
        more = Table(not_compared=[NotCompared(what="benchmarks", count=1, reason=reason)])
    return compare(base.party, new.party, plan, across, more)


def write_comparison(found: Comparison, out: Path) -> Path:
    """Write ``comparison.json``, ``comparison.md``, ``junit.xml`` and the page; the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "comparison.json", found.model_dump_json(indent=1) + "\n")
    write_atomic(out / "comparison.md", markdown(found))
    write_atomic(out / "junit.xml", junit(found))
    return build_comparison(found, out)


def with_thresholds(runs: Runs | None, given: Sequence[str]) -> Regression:
    """The scenario's section ``regression``, with ``--threshold METRIC=SHARE`` laid over it."""
    section = runs.folders[-1].manifest.scenario.get("regression", {}) if runs else {}
    thresholds = dict(section.get("thresholds", {}))
    for text in given:
        metric, _, share = text.partition("=")
        try:
            percent = share.strip().endswith("%")
            value = float(share.strip().removesuffix("%"))
        except ValueError as error:
            raise BadInput(f"--threshold {text[:60]}: write METRIC=SHARE, as itl_s=5%") from error
        if not percent and value >= 1:
            raise BadInput(
                f"--threshold {text[:60]}: is a share, so {value:g} is {value:.0%}; "
                f"did you mean {metric}={value:g}%?"
            )
        thresholds[metric.strip()] = value / 100 if percent else value
    try:
        return Regression.model_validate({**section, "thresholds": thresholds})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "regression"
        raise BadInput(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def _of_benchmarks(
    base: Benchmarks, new: Benchmarks, plan: Regression, across: Collection[str]
) -> Comparison:
    table = compare_benchmarks(base, new, plan, across)
    return concluded("benchmarks", base.side, new.side, table, plan)
