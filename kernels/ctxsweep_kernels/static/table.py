"""Every case of the static bench: one table of the folders that have a Triton kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module

from ctxsweep_kernels.static.case import Case

OPS = (
    "sliding_window",
    "paged_prefill",
    "paged_decode",
    "rope_append",
    "selective_state_update",
    "selective_scan",
    "ssd",
    "causal_conv",
    "wkv7",
    "retention",
)


@dataclass(frozen=True)
class Cases:
    """The cases of all ops, and why an op has none."""

    cases: tuple[Case, ...]
    problems: dict[str, str]


def all_cases(ops: Sequence[str] = OPS) -> Cases:
    """The cases of `<op>/cases.py`; an op whose file is missing or broken is a problem, no end."""
    cases: list[Case] = []
    problems: dict[str, str] = {}
    for op in ops:
        try:
            cases += import_module(f"ctxsweep_kernels.{op}.cases").CASES
        except Exception as problem:  # importing runs the cases of an op
            problems[op] = f"{type(problem).__name__}: {problem}"
    for name, times in _counted(cases).items():
        if times > 1:
            problems[name] = f"{times} cases have this name"
    return Cases(tuple(cases), problems)


def matching(cases: Sequence[Case], pattern: str) -> list[Case]:
    """Cases whose name fits a glob; without a star, those whose name holds the text."""
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    return [case for case in cases if fnmatchcase(case.name, pattern)]


def _counted(cases: Sequence[Case]) -> dict[str, int]:
    names = [case.name for case in cases]
    return {name: names.count(name) for name in names}
