"""Baselines: which runs may become one, what is kept of the old one, and how a person sees them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctxsweep import baselines
from ctxsweep.analysis.summary import Summary
from ctxsweep.baselines import Blessing, baseline_of, put, read_blessing
from ctxsweep.cli.baseline import bless, print_baselines
from ctxsweep.cli.errors import BadInput
from ctxsweep.records import Cell, Environment, Record, Sample, Series, Status
from ctxsweep.store import RunFolder, StoreError

COMMIT = "dc59babdd9aa6feb9c0751b26fdb4c70774af924"
HERE = Environment(
    machine="vm",
    cpu_model="AMD EPYC",
    cpu_flags=("avx2",),
    physical_cores=2,
    logical_cores=2,
    memory_bytes=8 << 30,
    threads=1,
    device="cpu",
    python="3.11.7",
    os="Linux",
    versions={"torch": "2.13.0"},
    commit=COMMIT,
    dirty=False,
    load_average=0.0,
)
CONTEXTS = (512, 1024)
Run = Callable[..., Path]


def record(
    context: int, status: Status = Status.OK, busy: float = 1.0, environment: Environment = HERE
) -> Record:
    cell = Cell(
        scenario="night",
        series=Series(name="gqa", model="tiny-gqa"),
        context_tokens=context,
        generate_tokens=8,
        procedure="ladder",
    )
    samples = [
        Sample(phase="prefill", position=0, tokens=context, wall_s=0.1, cpu_s=0.1 * busy),
        *(
            Sample(phase="decode", position=context + i, tokens=1, wall_s=0.01, cpu_s=0.01 * busy)
            for i in range(8)
        ),
    ]
    taken = tuple(samples) if status is Status.OK else ()
    return Record(cell=cell, status=status, samples=taken, environment=environment)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def run(results: Path) -> Run:
    """Makes a run of two cells; complete, unless it is said to stop."""

    def make(*records: Record, environment: Environment | None = HERE, stop: bool = False) -> Path:
        records = records or tuple(map(record, CONTEXTS))
        order = tuple(record(context).cell.key for context in CONTEXTS)
        body = {"name": "night", "series": [{"name": "gqa"}]}
        with RunFolder.create(results, "night", body, 1, order, environment) as folder:
            for one in records:
                folder.append(one)
            if not stop:
                folder.finish()
        return folder.path

    return make


def baseline(results: Path) -> Path:
    return results / "baselines" / "2-core-amd-epyc" / "night"


def said(results: Path) -> Blessing:
    blessing = read_blessing(baseline(results))
    assert blessing is not None
    return blessing


def beside(results: Path) -> list[str]:
    return [path.name for path in baseline(results).parent.iterdir()]


def test_a_run_becomes_the_baseline(
    run: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run()
    (path / "report.html").write_text("a page")
    (path / "log.txt").write_text("a log")
    assert baseline_of("night", HERE, results) is None
    target = bless(path, results, "Ada", " after\n the new kernel ")
    assert target == baseline(results) == baseline_of("night", HERE, results)
    files = {"manifest.json", "records.jsonl", "summary.json", "blessed.json"}
    assert {file.name for file in target.iterdir()} == files
    for name in ("manifest.json", "records.jsonl"):
        assert (target / name).read_bytes() == (path / name).read_bytes()
    summary = Summary.model_validate_json((target / "summary.json").read_text())
    assert summary.run_id == path.name and len(summary.cells) == 2
    blessing = said(results)
    assert (blessing.who, blessing.why) == ("Ada", "after the new kernel")
    assert (blessing.run_id, blessing.scenario) == (path.name, "night")
    assert (blessing.commit, blessing.dirty, blessing.replaces) == (COMMIT, False, None)
    assert blessing.machine == "2-core-amd-epyc"
    assert blessing.environment == "AMD EPYC, 2 cores, 1 threads, Python 3.11.7, torch 2.13.0"
    assert blessing.when.endswith("Z")
    out = capsys.readouterr()
    assert f"{path.name} (dc59babdd9); commit this folder" in out.out
    assert out.err == ""


def test_another_machine_has_another_baseline(run: Run, results: Path) -> None:
    bless(run(), results, "Ada", "first")
    gpu = HERE.model_copy(update={"gpu": "NVIDIA H100 80GB HBM3"})
    assert baseline_of("night", gpu, results) is None
    assert baseline_of("day", HERE, results) is None
    bless(run(environment=gpu), results, "Ada", "first of this machine")
    assert baseline_of("night", gpu, results) == results / "baselines/h100-80gb-hbm3/night"


def test_a_new_baseline_names_the_one_before_and_keeps_notes(
    run: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(), run()
    target = bless(first, results, "Ada", "first")
    (target / "NOTES.md").write_text("of a person")
    (target / "figures").mkdir()
    (target / "figures" / "mine.txt").write_text("too")
    (target / "report.html").write_text("of the old run")
    capsys.readouterr()
    bless(second, results, "Bob", "second")
    assert said(results).replaces == first.name
    assert f"in place of {first.name}" in capsys.readouterr().out
    assert (target / "NOTES.md").read_text() == "of a person"
    assert (target / "figures" / "mine.txt").read_text() == "too"
    assert not (target / "report.html").exists()
    assert RunFolder.open(target).manifest.run_id == second.name
    assert beside(results) == ["night"]
    # A word more on the same run does not make it its own predecessor.
    bless(target, results, "Bob", "second, for good reasons")
    assert (said(results).replaces, said(results).run_id) == (first.name, second.name)


def test_a_baseline_without_words_and_a_damaged_one_can_be_replaced(
    run: Run, results: Path
) -> None:
    first = run()
    target = bless(first, results, "Ada", "first")
    (target / "blessed.json").unlink()
    bless(run(), results, "Ada", "second")
    assert said(results).replaces == first.name
    (target / "manifest.json").write_text("{")
    bless(run(), results, "Ada", "third")
    assert said(results).replaces == "one that cannot be read"


def test_the_name_is_gits_unless_given(
    run: Run, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "gitconfig"
    config.write_text("[user]\n  name = Grace Hopper\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.chdir(tmp_path)
    bless(run(), results, None, "first")
    assert said(results).who == "Grace Hopper"
    config.write_text("")
    with pytest.raises(BadInput, match="--who NAME"):
        bless(run(), results, None, "second")
    with pytest.raises(BadInput, match="--who NAME"):
        bless(run(), results, "  ", "second")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="--who NAME"):
        bless(run(), results, None, "second")


def dirty(**known: object) -> Environment:
    return HERE.model_copy(update={"dirty": True, **known})


@pytest.mark.parametrize(
    ("records", "more", "words"),
    [
        ((512,), {}, "1 of 2 cells have no record; finish it first: ctxsweep run night --resume"),
        ((), {"stop": True}, "is not complete, 0 of 2"),
        ((), {"environment": None}, "does not say on which machine"),
        ((), {"environment": dirty()}, "with changes on top of dc59babdd9"),
    ],
)
def test_runs_that_are_no_baseline(
    run: Run, results: Path, records: tuple[int, ...], more: dict[str, object], words: str
) -> None:
    path = run(*map(record, records), **more)
    with pytest.raises(BadInput, match=words):
        bless(path, results, "Ada", "why not")
    assert not (results / "baselines").exists()


@pytest.mark.parametrize("why", ["", " \n\t"])
def test_a_reason_must_be_given(run: Run, results: Path, why: str) -> None:
    with pytest.raises(BadInput, match="--why is empty"):
        bless(run(), results, "Ada", why)


def test_what_is_no_run_or_another_version(results: Path, tmp_path: Path, run: Run) -> None:
    with pytest.raises(StoreError, match="not a run's folder"):
        bless(tmp_path, results, "Ada", "why")
    path = run()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema_version is 99"):
        bless(path, results, "Ada", "why")
    (path / "manifest.json").write_text(json.dumps({**manifest, "scenario_name": "../away"}))
    with pytest.raises(StoreError, match="cannot be the name"):
        bless(path, results, "Ada", "why")


def test_a_cell_of_changed_sources_or_of_another_commit_counts(run: Run, results: Path) -> None:
    changed = run(record(512), record(1024, environment=dirty()))
    with pytest.raises(BadInput, match="--allow-dirty"):
        bless(changed, results, "Ada", "why")
    other = HERE.model_copy(update={"commit": "ab" * 20})
    mixed = run(record(512), record(1024, environment=other))
    with pytest.raises(BadInput, match=r"several commits \(ababababab, dc59babdd9\)"):
        bless(mixed, results, "Ada", "why")
    bless(mixed, results, "Ada", "why", allow_dirty=True)


def test_a_changed_tree_is_taken_if_asked_for_and_shown(
    run: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bless(run(environment=dirty()), results, "Ada", "why", allow_dirty=True)
    assert said(results).dirty is True
    assert "(dc59babdd9 with changes)" in capsys.readouterr().out


def test_a_run_without_figures_is_none(run: Run, results: Path) -> None:
    path = run(*(record(context, Status.OOM) for context in CONTEXTS))
    with pytest.raises(BadInput, match="no cell has figures"):
        bless(path, results, "Ada", "why")


def test_weak_points_are_warned_of(
    run: Run, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = HERE.model_copy(update={"commit": None, "dirty": None})
    path = run(record(512, busy=0.3), record(1024, Status.OOM), environment=installed)
    bless(path, results, "Ada", "why")
    warned = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in warned] == ["warning"] * 3
    assert "1 of 2 cells have no figures" in warned[0]
    assert "100% of its samples had to share the processor" in warned[1]
    assert "no git commit" in warned[2]


@pytest.mark.parametrize("step", ["write_atomic", "_keep_notes", "_exchange"])
def test_what_fails_half_way_leaves_the_old_one(
    run: Run, results: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = run()
    target = bless(first, results, "Ada", "first")
    before = {file.name: file.read_bytes() for file in target.iterdir()}

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baselines, step, refuse)
    with pytest.raises(OSError, match="No space"):
        bless(run(), results, "Ada", "second")
    assert {file.name: file.read_bytes() for file in target.iterdir()} == before
    assert beside(results) == ["night"]


def test_an_exchange_that_fails_puts_the_old_one_back(
    results: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = bless(run(), results, "Ada", "first")
    before = said(results)
    rename = Path.rename

    def fail_once_new(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail_once_new)
    with pytest.raises(OSError, match="Input/output"):
        put(target, {"blessed.json": "{}"})
    assert said(results) == before
    assert beside(results) == ["night"]


@pytest.mark.parametrize("new_is_there", [True, False])
def test_a_baseline_that_a_kill_left_elsewhere_is_named(
    run: Run,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    new_is_there: bool,
) -> None:
    """A kill between the two renames; the words say how it is put back."""
    target = bless(run(), results, "Ada", "first")
    before = said(results)

    def killed(folder: Path, new: Path, old: Path) -> None:
        folder.rename(old)
        if not new_is_there:
            new.rename(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(baselines, "_exchange", killed)
    with pytest.raises(KeyboardInterrupt):
        bless(run(), results, "Ada", "second")
    if not new_is_there:
        assert baseline_of("night", HERE, results) == target
        assert "cut off" not in listing(results, capsys)
        return
    (line,) = listing(results, capsys).splitlines()
    assert line.startswith(f"{target}: a bless was cut off")
    with pytest.raises(StoreError, match="a bless was cut off"):
        baseline_of("night", HERE, results)
    assert baseline_of("day", HERE, results) is None
    subprocess.run(line.partition("put it back: ")[2], shell=True, check=True)
    assert baseline_of("night", HERE, results) == target
    assert said(results) == before
    assert "cut off" not in listing(results, capsys)


def listing(results: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    print_baselines(results)
    return capsys.readouterr().out


def test_the_list(
    run: Run,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert "no baseline lies under" in listing(results, capsys)
    path = run()
    target = bless(path, results, "Ada [bold]", "first [of all]")
    (baseline(results).parent / ".night.x").mkdir()
    (baseline(results).parent / ".night.x" / "manifest.json").write_text("left by a crash")
    rows = listing(results, capsys).splitlines()
    assert rows[0].split() == ["machine", "scenario", "run", "build", "who", "when", "why"]
    assert len(rows) == 2
    row = ("2-core-amd-epyc", "night", path.name, COMMIT[:10], "Ada [bold]", "first [of all]")
    assert all(word in rows[1] for word in row)
    (target / "blessed.json").unlink()
    (unsaid,) = listing(results, capsys).splitlines()[1:]
    assert unsaid.count("not said") == 3 and COMMIT[:10] in unsaid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[]", "the whole: "),
        ("ÿ", "not JSON"),
        ('{"schema_version": 2}', "schema_version is 2, this ctxsweep reads 1"),
        ('{"schema_version": 1, "who": "Ada"}', "Field required"),
    ],
)
def test_a_damaged_blessing_is_named_and_hides_no_other(
    run: Run,
    results: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    words: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "600")
    target = bless(run(), results, "Ada", "first")
    (target / "blessed.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"night/blessed\.json: ") as caught:
        read_blessing(target)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    gpu = HERE.model_copy(update={"gpu": "NVIDIA H100 80GB HBM3"})
    bless(run(environment=gpu), results, "Bob", "sound")
    shown = listing(results, capsys)
    assert "cannot be read" in shown and words in shown and "sound" in shown


def test_a_blessing_of_another_run_is_told(
    run: Run, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    first, second = run(), run()
    target = bless(first, results, "Ada", "first")
    (target / "manifest.json").write_bytes((second / "manifest.json").read_bytes())
    assert f"blessed.json is of another run, {first.name}" in listing(results, capsys)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=40), st.from_regex(r'\{"who": .{0,20}\}').map(str.encode)))
def test_no_bytes_make_a_blessing_crash(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "blessed.json").write_bytes(data)
    with pytest.raises(StoreError, match=r"blessed\.json"):
        read_blessing(tmp_path)


def test_the_committed_baselines_are_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    committed = Path(__file__).parents[1] / "results"
    tracked = subprocess.run(
        ("git", "-C", str(committed), "ls-files", "baselines/*/*/manifest.json"),
        capture_output=True,
        text=True,
    ).stdout.split()
    rows = listing(committed, capsys).splitlines()[1:]
    assert "cannot be read" not in "".join(rows)
    assert len(rows) >= len(tracked)
