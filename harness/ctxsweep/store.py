"""A run's folder: append a record, read them back, resume what was cut off.

``results/<scenario>/<run_id>/`` holds ``manifest.json``, ``records.jsonl`` and ``log.txt``; what is
derived from them (summary, page, plots) is written beside them by others through ``write_atomic``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from ctxsweep.frozen import Frozen
from ctxsweep.records import SCHEMA_VERSION, Environment, Record


class StoreError(Exception):
    """A run's folder cannot be used as asked; the message says which, why and what would help."""


class ScenarioChanged(StoreError):
    """A run may only be resumed with the scenario that it was started with."""

    def __init__(self, path: Path, difference: tuple[str, ...]) -> None:
        lines = "\n".join(f"  {line}" for line in difference)
        super().__init__(
            f"{path}: the scenario has changed since this run was started:\n{lines}\n"
            "Undo the change to resume this run, or start a new one without --resume."
        )
        self.difference = difference


class Manifest(Frozen):
    """``manifest.json``: what was asked for, of what machine, in which order."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    scenario_name: str
    scenario: dict[str, Any]
    seed: int
    order: tuple[str, ...]
    environment: Environment | None = None
    started_at: str
    finished_at: str | None = None
    interrupted_at: str | None = None


class RunFolder:
    """One run on disk. Opened for reading by anyone, for writing by one process at a time."""

    def __init__(self, path: Path, manifest: Manifest, lock: int | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = lock

    @classmethod
    def create(
        cls,
        root: Path,
        scenario_name: str,
        scenario: Mapping[str, Any],
        seed: int,
        order: tuple[str, ...],
        environment: Environment | None = None,
    ) -> Self:
        """Make ``root/<scenario_name>/<run_id>/`` and hold it for writing."""
        resolved = _plain(scenario)
        manifest = Manifest(
            run_id=_new_run_id(resolved),
            scenario_name=scenario_name,
            scenario=resolved,
            seed=seed,
            order=order,
            environment=environment,
            started_at=utc_now(),
        )
        path = root / scenario_name / manifest.run_id
        path.mkdir(parents=True)
        lock = _acquire(path)
        write_atomic(path / "manifest.json", manifest.model_dump_json(indent=2))
        (path / "records.jsonl").touch()
        _sync_folder(path)
        return cls(path, manifest, lock)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open for reading. Raises ``StoreError`` if there is no readable manifest."""
        return cls(path, _read_manifest(path))

    @classmethod
    def resume(cls, path: Path, scenario: Mapping[str, Any], seed: int) -> Self:
        """Hold a run for writing again; what a crash left of a last line is cut away.

        Raises ``ScenarioChanged`` if scenario or seed differ, ``StoreError`` if locked.
        """
        manifest = _read_manifest(path)
        old = {**manifest.scenario, "seed": manifest.seed}
        changed = difference(old, {**_plain(scenario), "seed": seed})
        if changed:
            raise ScenarioChanged(path, changed)
        folder = cls(path, manifest, _acquire(path))
        folder._cut_torn_line()
        return folder

    @property
    def log_path(self) -> Path:
        """Where the children's stderr goes."""
        return self.path / "log.txt"

    @property
    def _records_path(self) -> Path:
        return self.path / "records.jsonl"

    def append(self, record: Record) -> None:
        """Write one line and wait until it is on disk."""
        if self._lock is None:
            raise StoreError(f"{self.path}: opened for reading; use create() or resume()")
        data = record.model_dump_json().encode() + b"\n"
        with self._records_path.open("ab", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())

    def records(self) -> Iterator[Record]:
        """All records in order of writing; a torn last line is passed over."""
        for number, line in enumerate(_whole_lines(self._records_path), start=1):
            try:
                yield Record.model_validate_json(line)
            except ValidationError as error:
                raise StoreError(
                    f"{self._records_path}, line {number}: not a record of schema version "
                    f"{SCHEMA_VERSION} ({error.errors()[0]['msg']})"
                ) from error

    def finished_keys(self) -> frozenset[str]:
        """Keys of the cells that have a record, whatever its status."""
        return frozenset(record.cell.key for record in self.records())

    def finish(self) -> None:
        """Stamp the manifest: every cell of the plan has its record."""
        self._stamp(finished_at=utc_now(), interrupted_at=None)

    def interrupt(self) -> None:
        """Stamp the manifest: a person ended the sweep; ``finish`` takes the stamp away."""
        self._stamp(interrupted_at=utc_now())

    def _stamp(self, **times: str | None) -> None:
        self.manifest = self.manifest.model_copy(update=times)
        write_atomic(self.path / "manifest.json", self.manifest.model_dump_json(indent=2))

    def close(self) -> None:
        """Let others write this run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cut_torn_line(self) -> None:
        self._records_path.touch()
        whole = sum(len(line) for line in _whole_lines(self._records_path))
        if whole < self._records_path.stat().st_size:
            with self._records_path.open("rb+") as file:
                file.truncate(whole)
                os.fsync(file.fileno())


def run_folders(root: Path, scenario_name: str) -> tuple[Path, ...]:
    """The runs of a scenario under ``root``, oldest first (run ids sort by time)."""
    return tuple(sorted(p.parent for p in (root / scenario_name).glob("*/manifest.json")))


def write_atomic(path: Path, text: str) -> None:
    """Replace a file as a whole: readers see the old text or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs, one ``key: old → new`` a leaf; items of a list go by their ``name``.

    A key that is absent equals one that is null: a run from before the key was known has neither.
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [*before, *(key for key in after if key not in before)]
    absent = "(absent)"
    return tuple(
        f"{key}: {before.get(key, absent)} → {after.get(key, absent)}"
        for key in keys
        if before.get(key, "null") != after.get(key, "null")
    )


def utc_now() -> str:
    """UTC in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _leaves(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            name = item.get("name", index) if isinstance(item, Mapping) else index
            yield from _leaves(item, f"{prefix}[{name}]")
    else:
        yield prefix, json.dumps(value)


def _plain(scenario: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back, so that tuples and lists compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(scenario))
    return plain


def _new_run_id(scenario: Mapping[str, Any]) -> str:
    now = datetime.now(UTC)
    text = f"{json.dumps(scenario, sort_keys=True)}{now.isoformat()}{os.getpid()}"
    return f"{now:%Y%m%dT%H%M%SZ}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _read_manifest(path: Path) -> Manifest:
    file = path / "manifest.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{file}: schema_version is {version}, this ctxsweep reads {SCHEMA_VERSION}; "
                "read it with the version that wrote it"
            )
        return Manifest.model_validate(data)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: not a run's folder, it has no manifest.json") from error
    except (ValueError, AttributeError) as error:  # not UTF-8, not JSON, not a manifest
        raise StoreError(f"{file}: not a manifest ({str(error).splitlines()[0]})") from error


def _acquire(path: Path) -> int:
    """Lock the folder for this process; the system lets go when the process dies."""
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(lock, 32).decode() or "unknown"
        os.close(lock)
        raise StoreError(
            f"{path}: is being written by process {holder}; wait for it or end it first"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Lines that were written to their end. A last one that is not JSON was torn by a power cut."""
    with path.open("rb") as file:
        line = file.readline()
        while line:
            following = file.readline()
            if not following and not _is_json(line):
                return
            yield line
            line = following


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
