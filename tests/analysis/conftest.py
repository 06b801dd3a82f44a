"""Fixtures over synthetic records, and the way to the modules that lie beside this file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctxsweep.records import Record

sys.path.insert(0, str(Path(__file__).parent))

from synthetic_records import build_record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """The builder of synthetic records."""
    return build_record


@pytest.fixture
def make_line() -> Callable[..., list[Record]]:
    """Records of one series at every octave from 1K to a longest context."""

    def line(series: str, longest: int = 131072, **laws: Any) -> list[Record]:
        contexts = [1024 * 2**i for i in range(8) if 1024 * 2**i <= longest]
        return [build_record(series, context, **laws) for context in contexts]

    return line
