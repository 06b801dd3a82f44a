"""Another commit of this project as something that children can run.

Its source tree is taken out of git into the cache folder, nothing of it is installed: the folders
``harness`` and ``kernels`` go first on the child's ``PYTHONPATH``, before an installation, so
packages and Python are those of this installation. The C files of the kernels are compiled from the
tree that runs, since the name of what is compiled is a digest of its sources.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from ctxsweep.execute.job import Job
from ctxsweep.frozen import Frozen
from ctxsweep.measure.environment import COMMIT_FILE, read_commit
from ctxsweep.models.pretrained import cache_folder
from ctxsweep.records import Environment
from ctxsweep.store import difference

ROOTS = ("harness", "kernels")
ASK_S = 60.0
GIT_S = 60.0

ASK = """
import json, sys
from importlib.util import find_spec
from ctxsweep.execute.job import Job
said = {"places": [find_spec(name).origin for name in ("ctxsweep", "ctxsweep_kernels")]}
for number, text in enumerate(json.load(sys.stdin)):
    try:
        job = Job.model_validate_json(text)
    except ValueError as error:
        said["refused"] = " ".join(str(error).split())[:300]
        continue
    said["taken"] = number
    said["job"] = job.model_dump(mode="json")
    said["keys"] = [cell.key for cell in job.cells]
    break
print(json.dumps(said))
"""
"""Asks a tree where it lies and which of some wordings of a job it takes, and as what."""


class BuildUnavailable(Exception):
    """Another build cannot be had or cannot measure what is asked; ``reason`` is for a person."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Understood(Frozen):
    """A job in the words that a build takes, and our keys of the cells by the build's own."""

    text: str
    keys: dict[str, str]


class Build(Frozen):
    """A source tree and the Python that runs it. ``path``: folders before all other packages."""

    label: str
    commit: str | None
    dirty: bool | None = False
    python: Path
    path: tuple[Path, ...] = ()

    @classmethod
    def here(cls) -> Self:
        """This installation, as children run it by default."""
        commit, dirty = read_commit()
        return cls(label="this build", commit=commit, dirty=dirty, python=Path(sys.executable))

    @property
    def interpreter(self) -> tuple[str, ...]:
        """The beginning of a command. A folder that the user stands in hides no other tree."""
        return (str(self.python), "-P") if self.path else (str(self.python),)

    @property
    def variables(self) -> dict[str, str]:
        """What the environment of a child has to say."""
        if not self.path:
            return {}
        after = [os.environ[name] for name in ("PYTHONPATH",) if os.environ.get(name)]
        # The working folder, which -P takes away, may hold an adapter of the user.
        return {"PYTHONPATH": os.pathsep.join([*map(str, self.path), *after, os.getcwd()])}

    def understand(self, job: Job) -> Understood:
        """Put a job into words that mean the same to this build; about half a second.

        All is said first; a build that does not know some field is not told of those that have
        their default here. Raises ``BuildUnavailable``: it does not start, another tree would run,
        it does not know the job, or takes it for another one.
        """
        if not self.path:
            return Understood(text=job.model_dump_json(), keys={})
        wordings = job.model_dump_json(), job.model_dump_json(exclude_defaults=True)
        said = self._ask(wordings)
        for place in map(Path, said["places"]):
            if not any(place.is_relative_to(root) for root in self.path):
                raise BuildUnavailable(f"{self.label}: {place} would run instead of its tree")
        if "taken" not in said:
            raise BuildUnavailable(f"{self.label} does not know such a job: {said['refused']}")
        changed = self._misread(job, said["job"])
        if changed:
            raise BuildUnavailable(f"{self.label} would measure another thing: {changed}")
        keys = zip(said["keys"], job.cells, strict=True)
        return Understood(
            text=wordings[said["taken"]], keys={theirs: cell.key for theirs, cell in keys}
        )

    def _misread(self, job: Job, echo: dict[str, Any]) -> str:
        try:
            heard = Job.model_validate(echo)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        changed = difference(job.model_dump(mode="json"), heard.model_dump(mode="json"))
        return "; ".join(changed[:3])

    def _ask(self, wordings: tuple[str, ...]) -> dict[str, Any]:
        try:
            done = subprocess.run(
                (*self.interpreter, "-c", ASK),
                input=json.dumps(wordings),
                capture_output=True,
                text=True,
                timeout=ASK_S,
                env={**os.environ, **self.variables},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildUnavailable(f"{self.label} does not start: {error}") from error
        if done.returncode:
            raise BuildUnavailable(f"{self.label} does not start: {_last_line(done.stderr)}")
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return said


def build_of(
    environment: Environment | None, repository: Path | None = None, cache: Path | None = None
) -> Build:
    """The build that a run was measured with.

    Raises ``BuildUnavailable``: it was no commit, or cannot be had here.
    """
    if environment is None or environment.commit is None:
        raise BuildUnavailable("the run does not say of which commit it is (not a git checkout)")
    if environment.dirty:
        raise BuildUnavailable(
            f"the run was measured with changes on top of {environment.commit[:10]}, "
            "which nothing keeps"
        )
    return build_at(environment.commit, repository, cache)


def build_at(commit: str, repository: Path | None = None, cache: Path | None = None) -> Build:
    """The tree of a commit, in the cache folder; the repository is only read.

    ``repository``: the folder that holds ``harness`` and ``kernels``; default: of this source tree.
    ``cache``: default: ``builds`` in the cache folder (``$CTXSWEEP_CACHE``).
    Raises ``BuildUnavailable``: no git checkout, no such commit, or the commit has no such folders.
    """
    if repository is None:
        repository = Path(__file__).resolve().parents[3]
        if read_commit()[0] is None:
            raise BuildUnavailable("this installation is not a git checkout; work in a clone")
    full = _full_name(commit, repository)
    tree = (cache or cache_folder() / "builds").absolute() / full
    if not tree.is_dir():
        _unpack(full, repository, tree)
    return Build(
        label=full[:10],
        commit=full,
        python=Path(sys.executable),
        path=tuple(tree / root for root in ROOTS),
    )


def _full_name(commit: str, repository: Path) -> str:
    place = _git(repository, "rev-parse", "--git-dir")
    if place.returncode:
        why = _last_line(place.stderr.decode(errors="replace"))
        raise BuildUnavailable(f"{repository} is not a git checkout that can be read ({why})")
    wanted = f"{commit}^{{commit}}"
    done = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", wanted)
    if done.returncode:
        raise BuildUnavailable(
            f"{repository} has no commit {commit}; git fetch it (of a shallow clone: --unshallow)"
        )
    return done.stdout.decode().split()[-1]


def _unpack(commit: str, repository: Path, tree: Path) -> None:
    """Write the tree beside its place and rename it: processes may do so at once."""
    archive = _git(repository, "archive", "--format=tar", commit, "--", *ROOTS)
    if archive.returncode:
        why = _last_line(archive.stderr.decode(errors="replace"))
        raise BuildUnavailable(f"the tree of {commit[:10]} cannot be read: {why}")
    try:
        tree.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{commit[:10]}.", dir=tree.parent))
        try:
            with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
                _extract(tar, scratch)
            (scratch / COMMIT_FILE).write_text(commit + "\n")
            scratch.chmod(0o755)
            scratch.rename(tree)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, tarfile.TarError) as error:
        if not tree.is_dir():  # else another process was first
            why = getattr(error, "strerror", None) or error
            raise BuildUnavailable(f"{tree} cannot be written: {why}") from error


def _extract(tar: tarfile.TarFile, folder: Path) -> None:
    if hasattr(tarfile, "data_filter"):
        tar.extractall(folder, filter="data")
    else:  # Python before 3.11.4; what is unpacked is the user's own tree
        tar.extractall(folder)


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ("git", "-C", str(folder), *arguments), capture_output=True, timeout=GIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildUnavailable(f"git does not answer: {error}") from error


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
