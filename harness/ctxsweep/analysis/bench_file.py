"""What pytest-benchmark writes with ``--benchmark-json``: the one reader of it, and its part used.

The comparison and the history take their figures from here, so that both hold the same benchmark
by the same name and refuse the same files.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ctxsweep.store import StoreError

CONDITIONS = ("implementation", "device", "threads")
"""What ``extra_info`` may say of how a benchmark ran; a time holds under these alone."""
# Of normal samples: IQR over standard deviation, and the median's standard error over the mean's.
IQR_OF_NORMAL, MEDIAN_OF_NORMAL = 1.349, 1.2533

Seconds = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    """Immutable; other keys are pytest-benchmark's own business. No NaN, no text for a number."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Stats(_Part):
    """Times of a call, s. ``data`` has the single rounds, where they were kept."""

    median: Seconds
    iqr: Annotated[float, Field(ge=0)]
    rounds: Annotated[int, Field(ge=1)]
    data: tuple[Seconds, ...] | None = None

    @property
    def median_error_s(self) -> float | None:
        """The median's standard error from the quartiles, as if rounds were normal; None of one."""
        if self.rounds < 2:
            return None
        return MEDIAN_OF_NORMAL * self.iqr / IQR_OF_NORMAL / math.sqrt(self.rounds)


class Benchmark(_Part):
    """One benchmark. ``fullname`` is pytest's: ``tests/test_a.py::TestB::test_c[4k]``."""

    name: Name
    fullname: Name
    stats: Stats
    extra_info: dict[str, Any] = Field(default_factory=dict)

    @property
    def module(self) -> str:
        """The file without folders and ending: ``test_a``."""
        path = self._parts[0]
        return re.split(r"[/\\]", path)[-1].removesuffix(".py") or path

    @property
    def subject(self) -> str:
        """The name, behind its class if it has one: ``TestB::test_c[4k]``."""
        return "::".join((*self._parts[1:-1], self.name))

    @property
    def identity(self) -> str:
        """What it goes by from file to file: ``test_a::TestB::test_c[4k]``."""
        return f"{self.module}::{self.subject}"

    @property
    def conditions(self) -> dict[str, str]:
        """Of ``CONDITIONS`` those that are said."""
        said = {name: self.extra_info.get(name) for name in CONDITIONS}
        return {name: str(value) for name, value in said.items() if value not in (None, "")}

    @property
    def _parts(self) -> list[str]:
        """Path, classes, function: a parameter may hold ``::`` itself."""
        return self.fullname.partition("[")[0].split("::")


class Processor(_Part):
    """As py-cpuinfo names it."""

    brand_raw: str = ""
    count: int | None = None


class Machine(_Part):
    """Where the benchmarks ran."""

    python_version: str = ""
    cpu: Processor | None = None


class Commit(_Part):
    """What was checked out; outside of a repository pytest-benchmark says ``unversioned``."""

    id: str | None = None
    dirty: bool | None = None


class BenchFile(_Part):
    """The whole file."""

    benchmarks: Annotated[tuple[Benchmark, ...], Field(min_length=1)]
    machine_info: Machine | None = None
    commit_info: Commit | None = None
    datetime: str = ""


def read_bench_file(path: Path) -> BenchFile:
    """Read it. Raises ``StoreError`` for a file that is missing, another, or ambiguous."""
    try:
        found = BenchFile.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise StoreError(f"{path}: {_in_words(error)}") from error
    name, times = Counter(one.identity for one in found.benchmarks).most_common(1)[0]
    if times > 1:
        raise StoreError(f"{path}: {times} benchmarks are called {name}; give each its own name")
    return found


def _in_words(error: ValidationError) -> str:
    """The first mistake, with its place: ``benchmarks.0.stats.rounds: ...``."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if place == "benchmarks" and first["type"] == "too_short":
        return "holds no benchmark; was everything deselected?"
    why = f"{place}: {first['msg']}" if place else first["msg"]
    return f"not a file of pytest-benchmark ({why}); write one with --benchmark-json"
