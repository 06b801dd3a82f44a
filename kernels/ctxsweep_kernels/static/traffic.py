"""Bytes and tiles that a kernel touches, counted in Triton's interpreter.

The interpreter sends every load, store and atomic of a program through its builder with the
addresses and the mask. Those are added up here by tensor: `moved` counts every access (what asks
the caches), `unique` every byte once (what asks memory, if the caches hold all the rest).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Trace

OUTSIDE = "(not an argument)"


@dataclass
class Touched:
    """Bytes of one tensor."""

    loaded: int = 0
    stored: int = 0
    loaded_unique: int = 0
    stored_unique: int = 0

    @property
    def moved(self) -> int:
        return self.loaded + self.stored

    @property
    def unique(self) -> int:
        return self.loaded_unique + self.stored_unique


@dataclass
class Traffic:
    """What the launches of a trace touched, beside the least that any kernel must.

    tensors: by the name under which the first launch takes the tensor.
    dots, minimum_dots: tiles multiplied (`tl.dot` calls), and the least; None: not asked.
    """

    case: str = ""
    tensors: dict[str, Touched] = field(default_factory=dict)
    minimum: dict[str, int] = field(default_factory=dict)
    dots: int = 0
    minimum_dots: int | None = None
    programs: int = 0
    error: str = ""

    @property
    def moved(self) -> int:
        return sum(one.moved for one in self.tensors.values())

    @property
    def unique(self) -> int:
        return sum(one.unique for one in self.tensors.values())

    @property
    def ratio(self) -> float | None:
        """Bytes moved over the least."""
        least = sum(self.minimum.values())
        return self.moved / least if least else None

    @property
    def unique_ratio(self) -> float | None:
        """Bytes touched at least once over the least."""
        least = sum(self.minimum.values())
        return self.unique / least if least else None

    def to_json(self) -> dict[str, Any]:
        """Plain data, for a file or another process."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Traffic:
        tensors = {name: Touched(**one) for name, one in data["tensors"].items()}
        return cls(**{**data, "tensors": tensors})


def count(trace: Trace) -> Traffic:
    """Run the launches of `trace` in this process's interpreter and count.

    Raises:
        RuntimeError: the process does not interpret kernels (TRITON_INTERPRET=1 is not set).
        ValueError: `trace.minimum` names no tensor of the launches.
    """
    spans = _spans(trace.launches)
    unknown = set(trace.minimum) - {name for name, _ in spans.values()}
    if unknown:
        raise ValueError(f"no launch takes a tensor named {', '.join(sorted(unknown))}")
    ledger = _Ledger(spans)
    with _watched(ledger):
        for launch in trace.launches:
            launch.run()
    return Traffic(
        tensors=ledger.touched(),
        minimum=dict(trace.minimum),
        dots=ledger.dots,
        minimum_dots=trace.dots,
        programs=sum(int(np.prod(launch.grid)) for launch in trace.launches),
    )


def count_cases(cases: Sequence[Case]) -> list[Traffic]:
    """Traffic of every case that has a trace; whatever fails is a row that says why."""
    rows = []
    for case in cases:
        if case.trace is None:
            continue
        try:
            row = count(case.trace())
        except Exception as problem:  # a call that fails is a row that says why
            row = Traffic(error=f"{type(problem).__name__}: {problem}")
        row.case = case.name
        rows.append(row)
    return rows


def count_in_process(names: Sequence[str]) -> list[Traffic]:
    """Like `count_cases` for cases of the table by name, in a process that interprets."""
    if not names:
        return []
    code = f"from {__name__} import _answer; _answer()"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(list(names)),
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return [Traffic(case=name, error=f"the interpreter ended: {last}") for name in names]
    return [Traffic.from_json(row) for row in json.loads(done.stdout.splitlines()[-1])]


def _answer() -> None:
    wanted = set(json.load(sys.stdin))
    cases = import_module("ctxsweep_kernels.static.table").all_cases().cases
    rows = count_cases([case for case in cases if case.name in wanted])
    print(json.dumps([row.to_json() for row in rows]))


def _spans(launches: Sequence[Launch]) -> dict[int, tuple[str, int]]:
    """Name and length in bytes of every storage that is passed, by its address."""
    spans: dict[int, tuple[str, int]] = {}
    for launch in launches:
        for name, value in launch.arguments.items():
            tensor = getattr(value, "base", value)  # of a tensor descriptor
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                spans.setdefault(storage.data_ptr(), (name, storage.nbytes()))
    return spans


class _Ledger:
    def __init__(self, spans: dict[int, tuple[str, int]]) -> None:
        self.dots = 0
        self._starts = np.array(sorted(spans), dtype=np.int64)
        self._names = [spans[int(start)][0] for start in self._starts]
        self._sizes = np.array([spans[int(start)][1] for start in self._starts], dtype=np.int64)
        self._totals = {"load": [0] * len(spans), "store": [0] * len(spans)}
        self._seen = {
            way: [np.zeros(size, dtype=bool) for size in self._sizes] for way in ("load", "store")
        }
        self._outside = Touched()

    def note(self, way: str, pointers: Any, mask: Any) -> None:
        width = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        addresses = np.broadcast_to(pointers.data, mask.data.shape)[mask.data.astype(bool)]
        addresses = addresses.astype(np.int64)
        places = np.searchsorted(self._starts, addresses, side="right") - 1
        for place in np.unique(places):
            here = addresses[places == place]
            offsets = here - self._starts[place] if place >= 0 else here
            if place < 0 or (offsets >= self._sizes[place]).any():
                self._elsewhere(way, here.size * width)
                continue
            self._totals[way][place] += here.size * width
            seen = self._seen[way][place]
            for byte in range(width):
                seen[offsets + byte] = True

    def _elsewhere(self, way: str, size: int) -> None:
        self._outside.loaded += size if way == "load" else 0
        self._outside.stored += size if way == "store" else 0

    def touched(self) -> dict[str, Touched]:
        rows: dict[str, Touched] = {}
        for place, name in enumerate(self._names):
            one = rows.setdefault(name, Touched())
            one.loaded += self._totals["load"][place]
            one.stored += self._totals["store"][place]
            one.loaded_unique += int(self._seen["load"][place].sum())
            one.stored_unique += int(self._seen["store"][place].sum())
        if self._outside.moved:
            rows[OUTSIDE] = self._outside
        return rows


@contextmanager
def _watched(ledger: _Ledger) -> Iterator[None]:
    """Notes what passes the interpreter's builder; descriptors come down to the same calls."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("traffic is counted in the interpreter; set TRITON_INTERPRET=1")
    from triton.runtime.interpreter import interpreter_builder as builder

    def before(name: str, note: Callable[..., None]) -> None:
        original = getattr(builder, name)

        def watched(*arguments: Any, **named: Any) -> Any:
            note(*arguments)
            return original(*arguments, **named)

        setattr(builder, name, watched)

    def rmw(_operation: Any, pointers: Any, _value: Any, mask: Any, *_rest: Any) -> None:
        ledger.note("load", pointers, mask)
        ledger.note("store", pointers, mask)

    def dot(*_arguments: Any) -> None:
        ledger.dots += 1

    names = {
        "create_masked_load": lambda pointers, mask, *_: ledger.note("load", pointers, mask),
        "create_masked_store": lambda pointers, _value, mask, *_: ledger.note(
            "store", pointers, mask
        ),
        "create_atomic_rmw": rmw,
        "create_dot": dot,
        "create_dot_scaled": dot,
    }
    try:
        for name, note in names.items():
            before(name, note)
        yield
    finally:
        for name in names:
            builder.__dict__.pop(name, None)
