"""``ctxsweep compare`` and ``nightly``: sides by name, files, exit codes, and what is no run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from ctxsweep.cli import app, find, nightly
from ctxsweep.measure.environment import read_environment
from ctxsweep.store import StoreError

FIXTURES = Path(__file__).parent / "fixtures"
OLD_RUN = FIXTURES / "runs/first_schema_1"
BENCH = FIXTURES / "benchmarks/four_ops.json"
QUICK = [
    *("--set", "contexts=32,64,128,256"),
    *("--set", "generate_tokens=8"),
    *("--set", "procedure.min_samples=8"),
    *("--set", "procedure.max_cell_s=0.2"),
    *("--set", "procedure.warmup_tokens=8"),
    *("--device", "cpu"),
]


def ctxsweep(*arguments: str | Path) -> Result:
    """Run a command in this process; an exception that is no exit is an error of ours."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "250"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run of the smoke scenario, shortened."""
    out = tmp_path_factory.mktemp("results")
    done = ctxsweep("run", "smoke", *QUICK, "--series", "gqa,mamba2", "--out", out, "-q")
    assert done.exit_code == 0, done.output
    (run,) = (out / "smoke").iterdir()
    return run


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    """That run, twice: ``smoke~1`` and ``smoke``."""
    for name in ("20260101T000000Z-aaaaaa", "20260102T000000Z-bbbbbb"):
        shutil.copytree(measured, tmp_path / "smoke" / name)
        named = {"run_id": name}
        edit_manifest(tmp_path / "smoke" / name, lambda data, named=named: data.update(named))
    return tmp_path


def newest(results: Path) -> Path:
    return results / "smoke/20260102T000000Z-bbbbbb"


Change = Callable[[dict[str, Any]], None]


def edit(run: Path, change: Change) -> None:
    """Rewrite every record of a run."""
    path = run / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def edit_manifest(run: Path, change: Change) -> None:
    path = run / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def fatter(record: dict[str, Any]) -> None:
    """The cache copies itself."""
    for reading in record["memory"]:
        reading["cache_used_bytes"] *= 2


def test_equal_runs_are_no_regression(results: Path) -> None:
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results, "--fail-on-regression")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("No regression")


def test_a_regression_is_the_first_line_and_exit_code_3(results: Path, tmp_path: Path) -> None:
    edit(newest(results), fatter)
    out = tmp_path / "out"
    found = ("compare", "smoke~1", "smoke", "--results", results)
    done = ctxsweep(*found, "--fail-on-regression", "--out", out)
    assert done.exit_code == 3
    first = done.output.splitlines()[0]
    assert "gqa at" in first and "bytes" in first and "+100" in first, first
    assert ctxsweep(*found).exit_code == 0
    failures = ElementTree.parse(out / "junit.xml").getroot().iter("failure")
    assert any("cache_used_bytes" in (one.get("message") or "") for one in failures)
    data = json.loads((out / "comparison.json").read_text())
    assert data["schema_version"] == 1 and data["changes"]
    assert "gqa at" in (out / "comparison.md").read_text()
    assert (out / "compare.html").read_text().lstrip().lower().startswith("<!doctype html>")


def test_one_name_is_the_base_of_its_scenarios_latest_run(results: Path) -> None:
    edit(newest(results), fatter)
    done = ctxsweep("compare", results / "smoke/20260101T000000Z-aaaaaa", "--results", results)
    assert "gqa at" in done.output.splitlines()[0]


def test_a_folder_of_runs_is_one_side(results: Path, measured: Path, tmp_path: Path) -> None:
    done = ctxsweep("compare", results / "smoke", measured, "--results", results)
    assert done.exit_code == 0 and "2 runs" in done.output, done.output


def test_the_baseline_is_found_by_its_name_and_without(results: Path) -> None:
    missing = ctxsweep("compare", "--results", results)
    assert missing.exit_code == 2 and "ctxsweep baseline bless" in missing.output
    first = results / "smoke/20260101T000000Z-aaaaaa"
    blessed = ctxsweep(
        *("baseline", "bless", first, "--results", results, "--who", "a"),
        *("--why", "first", "--allow-dirty"),
    )
    assert blessed.exit_code == 0, blessed.output
    edit(newest(results), fatter)
    for named in ((), ("baseline",), ("baseline", "smoke")):
        done = ctxsweep("compare", *named, "--results", results)
        assert "regression" in done.output.splitlines()[0], done.output
    assert "first" in ctxsweep("baseline", "list", "--results", results).output


def test_thresholds_may_be_given(results: Path) -> None:
    edit(newest(results), fatter)
    wide = [
        f"--threshold={name}=150%"
        for name in ("cache_used_bytes", "bytes_per_token", "cache_used_bytes.slope")
    ]
    done = ctxsweep(
        "compare", "smoke~1", "smoke", "--results", results, *wide, "--fail-on-regression"
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--threshold", "itl_s"), "write METRIC=SHARE, as itl_s=5%"),
        (("--threshold", "itl=5%"), "itl is unknown; valid: prefill_s, itl_s"),
        (("--threshold", "itl_s=-1"), "thresholds.itl_s"),
        (("--threshold", "itl_s=5"), "did you mean itl_s=5%?"),
        (("--across", "moods"), "unknown; valid: machine, threads, versions"),
    ],
)
def test_bad_options_are_said_plainly(
    arguments: tuple[str, ...], words: str, results: Path
) -> None:
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results, *arguments)
    assert done.exit_code == 2 and words in done.output, done.output


def broken_manifest(run: Path) -> None:
    (run / "manifest.json").write_text("{")


def later_schema(run: Path) -> None:
    edit_manifest(run, lambda data: data.update(schema_version=99))


def no_records(run: Path) -> None:
    (run / "records.jsonl").write_text("")


def spoiled_record(run: Path) -> None:
    lines = (run / "records.jsonl").read_text().splitlines()
    (run / "records.jsonl").write_text("\n".join(["{}", *lines]) + "\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (broken_manifest, "manifest.json: not a manifest"),
        (later_schema, "schema_version is 99, this ctxsweep reads 1"),
        (no_records, "holds no records"),
        (spoiled_record, "records.jsonl, line 1: not a record"),
    ],
)
def test_a_damaged_side_is_named_with_what_is_wrong(
    damage: Callable[[Path], None], words: str, results: Path
) -> None:
    damage(results / "smoke/20260101T000000Z-aaaaaa")
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results)
    assert done.exit_code == 2 and words in done.output.replace("\n", " "), done.output


def test_names_that_mean_nothing(results: Path, tmp_path: Path) -> None:
    for name in ("smoke~7", "smok", str(tmp_path / "nowhere.json")):
        done = ctxsweep("compare", name, "smoke", "--results", results)
        assert done.exit_code == 2 and done.output.startswith("ctxsweep: "), done.output
    (tmp_path / "empty").mkdir()
    done = ctxsweep("compare", tmp_path / "empty", "smoke", "--results", results)
    assert done.exit_code == 2 and "holds no run" in done.output


def test_a_partial_base_is_compared_as_far_as_it_goes(results: Path) -> None:
    base = results / "smoke/20260101T000000Z-aaaaaa"
    lines = (base / "records.jsonl").read_text().splitlines()
    (base / "records.jsonl").write_text("\n".join(lines[:5]) + "\n")
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results)
    assert done.exit_code == 0
    assert "the base run is not complete: 5 of 8 cells" in done.output
    assert "only in the new run" in done.output


def test_a_gate_that_sees_no_times_or_not_all_cells_is_not_green(results: Path) -> None:
    gate = ("compare", "smoke~1", "smoke", "--results", results, "--fail-on-regression")
    lines = (newest(results) / "records.jsonl").read_text().splitlines()
    (newest(results) / "records.jsonl").write_text("\n".join(lines[:5]) + "\n")
    cut = ctxsweep(*gate)
    assert cut.exit_code == 1, cut.output
    assert "not complete, 3 cells missing" in cut.output.splitlines()[0]
    edit_manifest(newest(results), lambda data: data["environment"]["versions"].update(torch="9"))
    other = ctxsweep(*gate)
    assert other.exit_code == 1 and other.output.startswith("No time was compared"), other.output


def test_names_of_runs_are_the_same_for_every_command(results: Path) -> None:
    first = results / "smoke/20260101T000000Z-aaaaaa"
    assert find.run_folder("smoke~1", results) == first
    assert find.run_folder(first.name, results) == first
    for name in ("smoke~x", "smoke~", "~1"):
        done = ctxsweep("compare", name, "smoke", "--results", results)
        assert done.exit_code == 2 and "ctxsweep: " in done.output, done.output
    assert (
        "after ~ comes a number, as in smoke~1"
        in ctxsweep("report", "smoke~x", "--results", results).output
    )


def test_a_wrong_base_ends_a_night_before_it_begins(tmp_path: Path) -> None:
    done = ctxsweep("nightly", "smoke", "--base", "nope", "--out", tmp_path, "--device", "cpu")
    assert done.exit_code == 2 and "'nope' is neither" in done.output, done.output
    assert not list(tmp_path.iterdir())


def test_of_another_machine_bytes_are_compared_and_times_are_not(results: Path) -> None:
    base = results / "smoke/20260101T000000Z-aaaaaa"
    edit_manifest(base, lambda data: data["environment"].update(cpu_model="Another CPU"))
    edit(newest(results), fatter)
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results, "-v")
    assert "Another CPU" in done.output and "times" in done.output
    assert "cache_used_bytes" in done.output and "SLOW" in done.output
    assert not [
        line for line in done.output.splitlines() if line.startswith("SAME") and "itl_s" in line
    ]


def test_a_run_of_the_first_schema_is_still_compared(results: Path) -> None:
    done = ctxsweep("compare", OLD_RUN, "smoke", "--results", results)
    assert done.exit_code == 0, done.output


def test_a_run_is_not_compared_with_itself(results: Path) -> None:
    for names in (("smoke", "smoke"), (results / "smoke", "smoke"), (OLD_RUN, OLD_RUN)):
        done = ctxsweep("compare", *names, "--results", results)
        assert done.exit_code == 2 and "is on both sides" in done.output, done.output


def test_runs_of_several_builds_are_no_side(results: Path, measured: Path) -> None:
    edit_manifest(newest(results), lambda data: data["environment"].update(commit="f" * 40))
    done = ctxsweep("compare", results / "smoke", measured, "--results", results)
    assert done.exit_code == 2 and "not of one build" in done.output, done.output


def test_another_procedure_is_another_measurement_of_times(results: Path) -> None:
    edit_manifest(
        newest(results), lambda data: data["scenario"]["procedure"].update(warmup_tokens=2)
    )
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results, "-v")
    assert "procedure.warmup_tokens: 8 → 2" in done.output.replace("\n", " "), done.output
    assert "bytes_per_token" in done.output


def test_benchmarks_are_compared_with_benchmarks_alone(results: Path) -> None:
    wide = ("--threshold", "time_s=10%")
    done = ctxsweep("compare", BENCH, BENCH, "--results", results, *wide)
    assert done.exit_code == 0 and "4 SAME" in done.output.splitlines()[0], done.output
    done = ctxsweep("compare", BENCH, "smoke", "--results", results)
    assert done.exit_code == 2 and "the other side is not" in done.output


def test_a_recheck_needs_the_machine_of_the_run(results: Path) -> None:
    def slower(record: dict[str, Any]) -> None:
        for sample in record["samples"]:
            sample["wall_s"] *= 3
            sample["cpu_s"] *= 3

    edit(newest(results), slower)
    for run in (results / "smoke").iterdir():
        edit_manifest(run, lambda data: data["environment"].update(cpu_model="Another CPU"))
    done = ctxsweep("compare", "smoke~1", "smoke", "--results", results, "--recheck")
    assert done.exit_code == 2 and "Another CPU, here it is" in done.output, done.output


@pytest.fixture
def quick_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The static table has tests of its own, and takes minutes."""
    kernels = import_module("ctxsweep.cli.kernels")  # the command has the same name
    judge = create_autospec(kernels.judge_kernels, return_value=0)
    monkeypatch.setattr(kernels, "judge_kernels", judge)


def a_night(results: Path, *more: str) -> Result:
    return ctxsweep(
        *(
            "nightly",
            "smoke",
            *QUICK,
            "--out",
            results,
            "--set",
            "regression.recheck_rounds=4",
            *more,
        )
    )


def test_two_nights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_kernels: None) -> None:
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    results = tmp_path / "results"
    first = a_night(results)
    assert first.exit_code == 0, first.output
    assert "nothing to compare with" in first.output
    second = a_night(results, "--no-recheck")
    assert second.exit_code in (0, 3), second.output
    runs = sorted((results / "smoke").iterdir())
    assert {path.name for path in runs[-1].iterdir()} >= {
        "comparison.json", "compare.html", "junit.xml", "nightly.md", "report.html",
    }  # fmt: skip
    assert json.loads((runs[-1] / "comparison.json").read_text())["base"]["run_ids"] == [
        runs[0].name
    ]
    first_line = page.read_text().splitlines()[0]
    assert first_line.startswith("**Not compared: nothing to compare with"), first_line
    assert page.read_text().count("Nightly smoke, ") == 2
    histories = list((results / "history").rglob("*.parquet"))
    assert len(histories) == 1
    assert read_environment("cpu", 1).cpu_model in page.read_text()


def test_a_step_that_fails_is_said_and_the_night_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_kernels: None
) -> None:
    def broken(folder: Path) -> str:
        raise StoreError("the benchmarks failed")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nightly, "_benchmarks", broken)
    done = a_night(tmp_path / "results")
    assert done.exit_code == 1
    assert "benchmarks failed: the benchmarks failed" in done.output
    assert list((tmp_path / "results/history").rglob("*.parquet"))


def test_a_night_of_an_unknown_scenario_is_bad_input(tmp_path: Path) -> None:
    done = ctxsweep("nightly", "nighty", "--out", tmp_path)
    assert done.exit_code == 2 and "nightly" in done.output
