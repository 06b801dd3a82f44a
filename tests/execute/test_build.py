"""Other commits as builds: the tree that is asked for runs, and what cannot be had is said."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from planted import Repository

from ctxsweep.execute.build import Build, BuildUnavailable, build_at, build_of
from ctxsweep.execute.job import Job
from ctxsweep.measure.environment import read_environment
from ctxsweep.records import Cell, Series
from ctxsweep.scenario import Budgets, Procedure

JOB_PY = "harness/ctxsweep/execute/job.py"
RECORDS_PY = "harness/ctxsweep/records.py"
SINKS = (
    "    sinks: int | None = Field(\n        None, ge=1, description="
    '"First tokens that stay visible beside the window (StreamingLLM)."\n    )\n'
)
CHUNK = '512, description="Tokens per prefill call'


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("git") / "project")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


def job_of(**series: object) -> Job:
    values = {"name": "s", "model": "tiny-gqa", **series}
    cell = Cell(
        scenario="t",
        series=Series.model_validate(values),
        context_tokens=64,
        generate_tokens=4,
        procedure="ladder",
    )
    return Job(cells=(cell,), procedure=Procedure(), budgets=Budgets())


def planted(repository: Repository, cache: Path, *changes: tuple[str, str, str]) -> Build:
    return build_at(repository.plant(*changes), repository.folder, cache)


def tell(build: Build, code: str) -> str:
    """What Python says in the environment of the build's children."""
    command = (*build.interpreter, "-c", code)
    environment = {**os.environ, **build.variables}
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout.strip()


def files_of(folder: Path) -> dict[str, int]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): path.stat().st_mtime_ns for path in paths}


def test_a_tree_leaves_no_trace_in_the_repository_and_is_taken_once(
    repository: Repository, tmp_path: Path
) -> None:
    before = files_of(repository.folder)
    build = build_at(repository.first[:12], repository.folder, tmp_path)
    assert build.commit == repository.first
    assert [path.is_dir() for path in build.path] == [True, True]
    taken = files_of(tmp_path)
    assert build_at(repository.first, repository.folder, tmp_path) == build
    assert files_of(tmp_path) == taken
    assert files_of(repository.folder) == before
    assert [path.name for path in tmp_path.iterdir()] == [repository.first]


def test_the_tree_runs_and_says_which_commit_it_is(repository: Repository, cache: Path) -> None:
    build = build_at(repository.first, repository.folder, cache)
    code = (
        "import ctxsweep, ctxsweep_kernels\n"
        "from ctxsweep.measure.environment import read_commit\n"
        "print(ctxsweep.__file__, ctxsweep_kernels.__file__, *read_commit(), sep='\\n')"
    )
    harness, kernels, commit, dirty = tell(build, code).splitlines()
    assert Path(harness).is_relative_to(build.path[0])
    assert Path(kernels).is_relative_to(build.path[1])
    assert (commit, dirty) == (repository.first, "False")


def test_a_package_in_the_working_folder_or_on_the_path_does_not_hide_the_tree(
    repository: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ctxsweep").mkdir()
    (tmp_path / "ctxsweep" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    build = build_at(repository.first, repository.folder, cache)
    assert build.understand(job_of()).text == job_of().model_dump_json()


def test_an_adapter_in_the_working_folder_is_still_found(
    repository: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_adapter.py").write_text("NAME = 'mine'\n")
    monkeypatch.chdir(tmp_path)
    build = build_at(repository.first, repository.folder, cache)
    assert tell(build, "import own_adapter; print(own_adapter.NAME)") == "mine"


def test_a_build_that_would_run_another_tree_is_refused(tmp_path: Path) -> None:
    here = Build.here()
    lost = here.model_copy(update={"label": "lost", "path": (tmp_path,)})
    with pytest.raises(BuildUnavailable, match=r"lost: .*would run instead of its tree"):
        lost.understand(job_of())


def test_this_installation_is_told_everything_and_asked_nothing() -> None:
    here = Build.here().model_copy(update={"python": Path("/no/python")})
    assert here.understand(job_of()).text == job_of().model_dump_json()
    assert here.variables == {}


def test_an_older_build_is_told_what_it_knows_and_names_cells_in_its_way(
    repository: Repository, cache: Path
) -> None:
    older = planted(repository, cache, (RECORDS_PY, SINKS, ""))
    job = job_of()
    understood = older.understand(job)
    assert "sinks" not in understood.text
    assert Job.model_validate_json(understood.text) == job
    ((theirs, ours),) = understood.keys.items()
    assert ours == job.cells[0].key != theirs
    with pytest.raises(BuildUnavailable, match=r"does not know such a job: .*sinks"):
        older.understand(job_of(sinks=4, window=64))


def test_another_default_is_seen_where_it_would_be_measured(
    repository: Repository, cache: Path
) -> None:
    other = (RECORDS_PY, CHUNK, CHUNK.replace("512", "256"))
    assert planted(repository, cache, other).understand(job_of()).text
    both = planted(repository, cache, other, (RECORDS_PY, SINKS, ""))
    with pytest.raises(BuildUnavailable, match=r"another thing: .*prefill_chunk: 512 → 256"):
        both.understand(job_of())
    assert both.understand(job_of(prefill_chunk=128)).text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((JOB_PY, "class Job(Frozen):", "class Task(Frozen):"), "does not start: .*Job"),
        ((JOB_PY, "    budgets: Budgets\n", "    limits: Budgets\n"), "does not know such a job"),
        (
            (JOB_PY, "class Job", 'raise OSError("no disk")\n\n\nclass Job'),
            "start: OSError: no disk",
        ),
        ((JOB_PY, "    threads: int = 1\n", "    threads: int = 1\n    cores: int = 2\n"), "cores"),
    ],
)
def test_a_build_with_another_protocol_is_not_run(
    repository: Repository, cache: Path, change: tuple[str, str, str], words: str
) -> None:
    with pytest.raises(BuildUnavailable, match=words):
        planted(repository, cache, change).understand(job_of())


def test_a_python_that_is_gone(repository: Repository, cache: Path, tmp_path: Path) -> None:
    build = build_at(repository.first, repository.folder, cache)
    with pytest.raises(BuildUnavailable, match=r"does not start: .*no-python"):
        build.model_copy(update={"python": tmp_path / "no-python"}).understand(job_of())


@pytest.mark.parametrize("commit", ["f" * 40, "no-such-tag", "--help", ""])
def test_an_unknown_commit(repository: Repository, cache: Path, commit: str) -> None:
    with pytest.raises(BuildUnavailable, match="has no commit"):
        build_at(commit, repository.folder, cache)


def test_a_folder_that_is_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(BuildUnavailable, match="is not a git checkout"):
        build_at("HEAD", tmp_path, tmp_path / "cache")


def test_a_commit_without_the_source_folders(repository: Repository, tmp_path: Path) -> None:
    repository.git("checkout", "--quiet", repository.first)
    repository.git("rm", "-r", "--quiet", "kernels")
    repository.git("commit", "--quiet", "--message", "no kernels")
    bare = repository.git("rev-parse", "HEAD")
    with pytest.raises(BuildUnavailable, match=r"cannot be read: .*kernels"):
        build_at(bare, repository.folder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildUnavailable, match="cannot be written"):
        build_at(repository.first, repository.folder, tmp_path / "file")


def test_a_python_whose_tarfile_knows_no_filter(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python 3.11.2 of Debian 12."""
    extract = tarfile.TarFile.extractall

    def without_filter(self: tarfile.TarFile, path: Path) -> None:
        extract(self, path)

    monkeypatch.setattr(tarfile.TarFile, "extractall", without_filter)
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    build = build_at(repository.first, repository.folder, tmp_path)
    assert (build.path[0] / "ctxsweep" / "__init__.py").is_file()


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python unpacks anything")
def test_a_tree_that_points_outside_is_refused(repository: Repository, tmp_path: Path) -> None:
    repository.git("checkout", "--quiet", repository.first)
    link = repository.folder / "harness" / "outside"
    link.symlink_to("/etc/hostname")
    repository.git("add", str(link))
    repository.git("commit", "--quiet", "--message", "a link")
    with pytest.raises(BuildUnavailable, match=r"cannot be written: .*outside"):
        build_at(repository.git("rev-parse", "HEAD"), repository.folder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_default_place_is_the_cache_folder(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path))
    build = build_at(repository.first, repository.folder)
    assert build.path[0] == tmp_path / "builds" / repository.first / "harness"


def test_a_cache_folder_named_from_the_working_folder(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build = build_at(repository.first, repository.folder, Path("builds"))
    assert build.understand(job_of()).text
    monkeypatch.chdir("/")
    assert build.understand(job_of()).text


def test_several_at_once_get_the_same_tree(repository: Repository, tmp_path: Path) -> None:
    def one(_: int) -> Build:
        return build_at(repository.first, repository.folder, tmp_path)

    with ThreadPoolExecutor(6) as pool:
        builds = list(pool.map(one, range(6)))
    assert set(builds) == {builds[0]}
    assert [path.name for path in tmp_path.iterdir()] == [repository.first]


def test_the_build_of_a_run(repository: Repository, cache: Path) -> None:
    environment = read_environment("cpu", 1)

    def run(**known: object) -> Build:
        return build_of(environment.model_copy(update=known), repository.folder, cache)

    assert run(commit=repository.first, dirty=False).commit == repository.first
    with pytest.raises(BuildUnavailable, match="with changes on top of"):
        run(commit=repository.first, dirty=True)
    with pytest.raises(BuildUnavailable, match="does not say of which commit"):
        run(commit=None, dirty=None)
    with pytest.raises(BuildUnavailable, match="does not say of which commit"):
        build_of(None, repository.folder, cache)


def test_the_c_files_are_compiled_from_the_tree_that_runs(
    repository: Repository, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = "kernels/ctxsweep_kernels/rope_append/append.c"
    header = "kernels/ctxsweep_kernels/native/parallel.h"
    first = build_at(repository.first, repository.folder, cache)
    start, work = '#include "vectors.h"\n', "/* Work on"
    in_source = planted(repository, cache, (source, start, f"{start}int mark = 7;\n"))
    in_header = planted(repository, cache, (header, work, f"/* changed */\n{work}"))
    code = (
        "import json\n"
        "from ctxsweep_kernels.dispatch import C_SOURCES\n"
        "from ctxsweep_kernels.native.build import library\n"
        "found = library(C_SOURCES['rope_append'])\n"
        "print(json.dumps([found._name, hasattr(found, 'mark')]))"
    )
    said = [json.loads(tell(build, code)) for build in (first, in_source, in_header)]
    assert [marked for _, marked in said] == [False, True, False]
    assert len({name for name, _ in said}) == 3
