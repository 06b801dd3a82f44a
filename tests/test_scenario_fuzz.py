"""500 damaged scenario files: a message with its place and exit code 2, or a plan; no traceback."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ctxsweep.cli import app, find
from ctxsweep.cli.plan import estimate_series
from ctxsweep.expansion import expand

FILES = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))
TEXTS = {path.stem: path.read_text() for path in FILES}
PARSED = {stem: yaml.safe_load(text) for stem, text in TEXTS.items()}
EXAMPLES = 250  # of each kind of damage, so 500 files

Path_ = tuple[Any, ...]

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**15, 10**30, -(10**400)]),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "1k", "1k-2k", "1k-1m+1", "0-8k*2", "8GiB", "-1GiB", "auto", "fp8", "a:b"]
    ),
    st.lists(st.integers(-2, 4), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.sampled_from(
        [
            {"like": "tiny-gqa", "attention": {"kv_heads": 3}},
            {"like": "tiny-gqa", "num_layers": 10**9},
            {"like": {"like": "tiny-gqa"}},
            {"mixer": "mamba2"},
        ]
    ),
)


def paths_of(value: Any, prefix: Path_ = ()) -> list[Path_]:
    """Every place within a parsed file."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [p for key, inner in items for p in ((*prefix, key), *paths_of(inner, (*prefix, key)))]


def holder(tree: Any, path: Path_) -> Any:
    for key in path[:-1]:
        tree = tree[key]
    return tree


def delete(draw: st.DrawFn, tree: Any, path: Path_) -> None:
    del holder(tree, path)[path[-1]]


def retype(draw: st.DrawFn, tree: Any, path: Path_) -> None:
    holder(tree, path)[path[-1]] = draw(values)


def rename(draw: st.DrawFn, tree: Any, path: Path_) -> None:
    where = holder(tree, path)
    if isinstance(where, dict):
        key = str(path[-1])
        new = draw(st.sampled_from([key[:-1], key + "s", key.upper(), key[::-1], "x", "name"]))
        where[new] = where.pop(path[-1])


def wrap(draw: st.DrawFn, tree: Any, path: Path_) -> None:
    where = holder(tree, path)
    inner = where[path[-1]]
    where[path[-1]] = draw(st.sampled_from([[inner], {"x": inner}, [inner, inner]]))


def transplant(draw: st.DrawFn, tree: Any, path: Path_) -> None:
    """Something valid in a place where it is not."""
    other = PARSED[draw(st.sampled_from(sorted(PARSED)))]
    source = draw(st.sampled_from(paths_of(other)))
    holder(tree, path)[path[-1]] = copy.deepcopy(holder(other, source)[source[-1]])


CHANGES: list[Callable[[st.DrawFn, Any, Path_], None]] = [
    delete,
    retype,
    rename,
    wrap,
    transplant,
]


@st.composite
def structurally_damaged(draw: st.DrawFn) -> str:
    tree = copy.deepcopy(PARSED[draw(st.sampled_from(sorted(PARSED)))])
    for _ in range(draw(st.integers(1, 3))):
        places = paths_of(tree)
        if places:
            draw(st.sampled_from(CHANGES))(draw, tree, draw(st.sampled_from(places)))
    flow = draw(st.sampled_from([None, True, False]))
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=flow, allow_unicode=True)


@st.composite
def textually_damaged(draw: st.DrawFn) -> bytes:
    raw = TEXTS[draw(st.sampled_from(sorted(TEXTS)))].encode()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(raw)))
        end = min(len(raw), start + draw(st.integers(0, 30)))
        lines = raw.splitlines(keepends=True) or [b""]
        line = draw(st.sampled_from(lines))
        new = draw(
            st.one_of(
                st.binary(max_size=6),
                st.text(max_size=4).map(lambda text: text.encode("utf-8", "ignore")),
                st.sampled_from(
                    [b"\t", b": ", b"- ", b"{", b"]", b"'", b"\n", b"&a ", b"*a", b"!!int ", b"|\n"]
                ),
                st.sampled_from(
                    [b"0", b"-", b".nan", b"9" * 5000, b"1e400", b"\xff", b"%YAML 9\n"]
                ),
                st.just(line),
            )
        )
        raw = raw[:start] + new + raw[end:]
    return raw[: draw(st.just(len(raw)) | st.integers(0, len(raw)))]


def check(raw: bytes) -> None:
    """Exit 2 with one message that names the file, or a plan that expands and estimates."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.yaml"
        path.write_bytes(raw)
        result = CliRunner().invoke(app, ["check", str(path)])
        assert result.exception is None or isinstance(result.exception, SystemExit), raw
        if result.exit_code == 2:
            assert result.stderr.startswith(f"ctxsweep: {path}:"), result.stderr
            assert result.stderr.count("\n") == 1, result.stderr
            event("refused")
            return
        event("valid")
        assert result.exit_code == 0, result.output
        plan = find.scenario(str(path), "cpu")
    assert expand(plan)
    for series in plan.series:
        estimate_series(plan, series, None)


thorough = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@thorough
@given(structurally_damaged())
def test_structural_damage(text: str) -> None:
    check(text.encode("utf-8", "surrogatepass"))


@thorough
@given(textually_damaged())
def test_textual_damage(raw: bytes) -> None:
    check(raw)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "", "damaged.yaml:1: empty"),
        (lambda text: text.replace("contexts:", "contxts:"), "contxts: unknown key; did you mean"),
        (lambda text: text.replace("tiny-gqa", "tiny-gpa"), "series.gqa.model: 'tiny-gpa' is not"),
        (lambda text: text.replace("window: 512", "window: 0"), "series.sliding_window.window: mu"),
        (
            lambda text: text.replace(
                "{model: tiny-gqa}", "{model: {like: tiny-gqa, attention: {kv_heads: 3}}}"
            ),
            "series.gqa.model.attention: heads = 4 must be a multiple of kv_heads = 3",
        ),
    ],
)
def test_the_real_command(tmp_path: Path, damage: Callable[[str], str], said: str) -> None:
    path = tmp_path / "damaged.yaml"
    path.write_text(damage(TEXTS["smoke"]))
    done = subprocess.run(
        [sys.executable, "-m", "ctxsweep.cli", "run", str(path), "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
