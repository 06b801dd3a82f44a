"""Baselines: complete runs that a person chose to be compared with, and what that person said.

``results/baselines/<machine>/<scenario>/`` holds ``manifest.json``, ``records.jsonl`` and
``summary.json`` of the run, and ``blessed.json``. Nothing renews them but ``put``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from pydantic import ValidationError

from ctxsweep.frozen import Frozen
from ctxsweep.machine import machine_slug
from ctxsweep.records import Environment
from ctxsweep.store import StoreError, write_atomic

BLESSING_VERSION = 1
BLESSED = "blessed.json"
SUMMARY = "summary.json"
COPIED = ("manifest.json", "records.jsonl")
BENCHMARKS = "bench.json"
"""Where the nightly job puts a run's benchmarks, beside its records; copied if it is there."""
MADE = frozenset(
    {
        *COPIED,
        BENCHMARKS,
        SUMMARY,
        BLESSED,
        "predictions.json",
        "report.html",
        "plots",
        "log.txt",
        ".lock",
    }
)
"""What a run or a report writes; whatever else lies in a baseline's folder is a person's."""


class Blessing(Frozen):
    """``blessed.json``: who made this run the baseline, when, why, and of what it is."""

    schema_version: int = BLESSING_VERSION
    who: str
    when: str
    why: str
    run_id: str
    scenario: str
    machine: str
    environment: str
    commit: str | None
    dirty: bool | None
    replaces: str | None = None

    @property
    def build(self) -> str:
        """The commit in short, and whether it was changed."""
        return f"{(self.commit or 'no commit')[:10]}{' with changes' if self.dirty else ''}"


def baselines_root(results: Path) -> Path:
    """Where all baselines lie."""
    return results / "baselines"


def baseline_folder(results: Path, environment: Environment, scenario: str) -> Path:
    """Where the baseline of a scenario on such a machine belongs. Raises ``StoreError``."""
    return baselines_root(results) / machine_slug(environment) / plain_name(scenario)


def plain_name(name: str) -> str:
    """The name of a scenario as one part of a path. Raises ``StoreError`` for any other."""
    if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
        raise StoreError(
            f"scenario {name!r}: cannot be the name of a folder; "
            "a name without slashes that does not start with a dot can"
        )
    return name


def baseline_of(scenario: str, environment: Environment, results: Path) -> Path | None:
    """The baseline to compare such a run with; None if none was blessed for this machine.

    Raises ``StoreError`` if there was one and ``put`` was ended before it stood in its place again:
    a gate must not take another base in silence.
    """
    folder = baseline_folder(results, environment, scenario)
    if (folder / "manifest.json").is_file():
        return folder
    for lost in lost_baselines(results):
        if lost.folder == folder:
            raise StoreError(lost.words)
    return None


def baselines(results: Path) -> tuple[Path, ...]:
    """All baselines, by machine and scenario."""
    found = (path.parent for path in baselines_root(results).glob("*/*/manifest.json"))
    return tuple(sorted(path for path in found if not path.name.startswith(".")))


@dataclass(frozen=True)
class LostBaseline:
    """The baseline ``folder`` lies at ``now``: what put a new one in its place was ended."""

    folder: Path
    now: Path

    @property
    def words(self) -> str:
        """What happened and what helps, in one line."""
        return (
            f"{self.folder}: a bless was cut off and left this baseline in {self.now}; "
            f"put it back: mv {quote(str(self.now))} {quote(str(self.folder))}"
        )


def lost_baselines(results: Path) -> tuple[LostBaseline, ...]:
    """Baselines that only a hidden folder of ``put`` still has, by machine and scenario."""
    found = {}
    for manifest in sorted(baselines_root(results).glob("*/.*/old/manifest.json")):
        scratch = manifest.parents[1]
        folder = scratch.with_name(scratch.name[1:].rpartition(".")[0] or scratch.name)
        if not folder.exists():
            found[folder] = LostBaseline(folder, manifest.parent)
    return tuple(found.values())


def read_blessing(folder: Path) -> Blessing | None:
    """What was said of a baseline; None if nothing was. Raises ``StoreError`` if unreadable."""
    file = folder / BLESSED
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: not JSON ({error}); bless a run again") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > BLESSING_VERSION:
        raise StoreError(
            f"{file}: schema_version is {version}, this ctxsweep reads {BLESSING_VERSION}; "
            "read it with the version that wrote it"
        )
    try:
        return Blessing.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise StoreError(f"{file}: {where}: {first['msg']}; bless a run again") from error


def put(folder: Path, files: Mapping[str, str]) -> None:
    """Make ``folder`` the baseline with these files; the old one stays until they are on disk.

    What a person laid beside the old one is kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        for name, text in files.items():
            write_atomic(new / name, text)
        _keep_notes(folder, new)
        _exchange(folder, new, old)
    finally:
        if folder.exists() or not old.exists():  # never the only one that is left
            shutil.rmtree(scratch, ignore_errors=True)


def _keep_notes(old: Path, new: Path) -> None:
    for path in old.iterdir() if old.is_dir() else ():
        if path.name in MADE:
            continue
        if path.is_dir():
            shutil.copytree(path, new / path.name)
        else:
            shutil.copy2(path, new / path.name)


def _exchange(folder: Path, new: Path, old: Path) -> None:
    had = folder.exists()
    if had:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if had:
            old.rename(folder)
        raise
