"""Loading a scenario: overlays, overrides, and messages that say where, what and what then."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.scenario import Scenario, ScenarioError, load_scenario, parse_contexts
from ctxsweep.scenario_yaml import merge

SCENARIOS = sorted((Path(__file__).parents[1] / "scenarios").glob("*.yaml"))

BASE = """\
question: What does it cost?
contexts: 1k-8k*2
defaults:
  dtype: float32
  page_size: 128
series:
  gqa: {model: tiny-gqa}
  mqa:
    model: tiny-mqa
    page_size: 64
procedure:
  sentinel: {context: 1k, every: 2}
cpu:
  procedure: {repeats: 2}
cuda:
  defaults: {dtype: bfloat16}
  series:
    mqa: null
    gqa: {model: llama-3.1-8b}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(BASE)
    return path


def message(path: Path, text: str, **options: object) -> str:
    """What loading ``text`` says, the file's path cut to its name."""
    path.write_text(dedent(text))
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, **options)  # type: ignore[arg-type]
    return str(caught.value).replace(str(path), path.name)


def test_layers_lie_in_order(file: Path) -> None:
    cpu, cuda = load_scenario(file, "cpu"), load_scenario(file, "cuda")
    assert cpu.name == "demo"
    assert cpu.contexts == (1024, 2048, 4096, 8192)
    assert [(s.name, s.dtype, s.page_size) for s in cpu.series] == [
        ("gqa", "float32", 128),
        ("mqa", "float32", 64),
    ]
    assert [(s.name, s.model, s.dtype) for s in cuda.series] == [
        ("gqa", "llama-3.1-8b", "bfloat16")
    ]
    assert (cpu.procedure.repeats, cuda.procedure.repeats) == (2, 3)
    assert (cpu.device, cuda.device) == ("cpu", "cuda")


def test_options_lie_over_all(file: Path) -> None:
    plan = load_scenario(
        file,
        "cpu",
        ["procedure.repeats=5", "series.gqa.kv_dtype=int8", "budgets.memory_bytes=2GiB"],
        contexts="256,4k",
        series="mqa,gqa",
        seed=7,
    )
    assert plan.procedure.repeats == 5
    assert plan.budgets.memory_bytes == 2 << 30
    assert plan.contexts == (256, 4096)
    assert plan.seed == 7
    assert [(s.name, s.kv_dtype) for s in plan.series] == [("mqa", "auto"), ("gqa", "int8")]


def test_sentinel_moves_with_the_selection(file: Path) -> None:
    plan = load_scenario(file, "cpu", ["procedure.sentinel.series=gqa"], series="mqa")
    assert plan.procedure.sentinel is not None
    assert plan.procedure.sentinel.series == "mqa"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_scenario_survives_storing(path: Path, device: str) -> None:
    plan = load_scenario(path, device)  # type: ignore[arg-type]
    assert Scenario.model_validate(json.loads(plan.model_dump_json())) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "demo.yaml:1: empty"),
        ("# nothing\n", "demo.yaml:1: empty"),
        ("- a\n- b\n", "demo.yaml:1: must be a mapping"),
        ("a: [1\nb: 2\n", "demo.yaml:2: not valid YAML"),
        ("series:\n\ta: 1\n", "demo.yaml:2: not valid YAML: a tab"),
        ("seed: 1\nseed: 2\n", "demo.yaml:2: seed: is given twice"),
        ("a: &a [*a]\n", "demo.yaml:1: a"),
        ("seed: 1e99\n", "demo.yaml:1: seed: number too large"),
        ("seed: !!python/none x\n", "demo.yaml:1: seed: tag"),
        ("<<: {seed: 1}\n", "demo.yaml:1: <<: merge keys are not supported"),
        ("? [1]\n: 2\n", "demo.yaml:1: a key must be a single word"),
        ("seed: 1\n", "demo.yaml:1: series: is missing"),
        ("series: {}\n", "demo.yaml:1: series: is empty"),
        ("series: {a b: {model: m}}\n", "demo.yaml:1: series.a b: a name is made of"),
        ("contexts: 1k\nseries:\n  a: {}\n", "demo.yaml:3: series.a.model: is missing"),
        ("series: {a: {model: m}}\n", "demo.yaml:1: contexts: is missing"),
        ("device: cpu\n", "demo.yaml:1: device: unknown key"),
        ("cuda: 3\n", "demo.yaml:1: cuda: must be a mapping"),
        ("cuda: {cpu: {}}\n", "demo.yaml:1: cuda.cpu: unknown key"),
    ],
)
def test_malformed_files(file: Path, text: str, said: str) -> None:
    assert message(file, text).startswith(said)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("contexts:", "context:", "demo.yaml:2: context: unknown key; did you mean 'contexts'?"),
        ("1k-8k*2", "1k-8k", "demo.yaml:2: contexts: '1k-8k' is not a context length; say how"),
        ("1k-8k*2", "8k-1k*2", "demo.yaml:2: contexts: '8k-1k*2' ends below its start; nearest"),
        ("1k-8k*2", "1k-8k*1", "demo.yaml:2: contexts: '1k-8k*1' does not step forward; nearest"),
        ("1k-8k*2", "0", "demo.yaml:2: contexts: a context has at least 1 token; nearest valid: 1"),
        ("1k-8k*2", "900m", "demo.yaml:2: contexts: 943718400 tokens is too long; nearest valid"),
        ("1k-8k*2", ".nan", "demo.yaml:2: contexts: '.nan' is not a context length"),
        (
            "dtype: float32",
            "dtype: float23",
            "demo.yaml:4: series.gqa.dtype: must be 'float32', 'bfloat16' or 'float16', not "
            "'float23'; did you mean 'float32'?",
        ),
        (
            "page_size: 64",
            "page_size: 0",
            "demo.yaml:10: series.mqa.page_size: must be at least 1, not 0; nearest valid: 1",
        ),
        (
            "page_size: 64",
            "page_size: 2097152",
            "demo.yaml:10: series.mqa.page_size: must be at most 1048576, not 2097152; nearest "
            "valid: 1048576",
        ),
        (
            "page_size: 64",
            "window: -5",
            "demo.yaml:10: series.mqa.window: must be at least 1, not -5; nearest valid: 1",
        ),
        (
            "page_size: 64",
            "prefill_chunk: all",
            "demo.yaml:10: series.mqa.prefill_chunk: must be a whole number or 'whole' or "
            "'recurrent', not 'all'",
        ),
        ("every: 2", "evry: 2", "demo.yaml:12: procedure.sentinel.evry: unknown key; did you mean"),
        ("every: 2", "series: gpa", "demo.yaml:12: procedure.sentinel.series: no series is named"),
        ("{repeats: 2}", "{repeats: yes}", "demo.yaml:14: procedure.repeats: must be a whole"),
        ("{repeats: 2}", "{repeats: true}", "demo.yaml:14: procedure.repeats: must be a whole"),
        ("{repeats: 2}", "{order: abba}", "demo.yaml:14: procedure: order 'abba' alternates"),
    ],
)
def test_wrong_values(file: Path, old: str, new: str, said: str) -> None:
    assert old in BASE
    assert message(file, BASE.replace(old, new)).startswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"overrides": ["procedure.repeat=5"]}, "--set procedure.repeat=5: procedure.repeat: unkn"),
        ({"overrides": ["repeats"]}, "--set repeats: write it as key=value"),
        ({"overrides": ["device=cuda"]}, "--set device=cuda: device: cannot be set"),
        ({"overrides": ["seed=[1"]}, "--set seed=[1: not valid YAML"),
        ({"contexts": "1q"}, "--contexts 1q: contexts: '1q' is not a context length"),
        ({"seed": -1}, "--seed -1: seed: must be at least 0"),
        ({"series": "gqa,mqb"}, "--series gqa,mqb: no series is named 'mqb'; did you mean 'mqa'?"),
        ({"series": ","}, "--series ,: no series is named ''"),
    ],
)
def test_wrong_options(file: Path, options: dict[str, object], said: str) -> None:
    assert message(file, BASE, **options).startswith(said)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"seed: 1\nquestion: \xff\xfe\n", "demo.yaml:2: not UTF-8 text"),
        (b"seed: 1\nquestion: a\x00b\n", "demo.yaml:2: character U+0000"),
        (b'seed: 1\nquestion: "\\ud800"\n', "demo.yaml:2: question: holds a character"),
        (b"[" * 5000, "demo.yaml: nested too deeply"),
        (b"x" * (2 << 20), "demo.yaml: larger than 1024 KiB"),
    ],
)
def test_not_a_scenario_at_all(file: Path, raw: bytes, said: str) -> None:
    file.write_bytes(raw)
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file)
    assert str(caught.value).replace(str(file), file.name).startswith(said)


def test_aliases_cannot_unfold_without_end(file: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    assert "too large" in message(file, "\n".join(lines))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        with pytest.raises(ScenarioError, match=str(path)):
            load_scenario(path)


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("4k", (4096,)),
        ("4k,8k", (4096, 8192)),
        ("1k-16k*2", (1024, 2048, 4096, 8192, 16384)),
        ("1k-4k+1k", (1024, 2048, 3072, 4096)),
        ("1k-7k*2", (1024, 2048, 4096)),
        ("1000, 1M", (1000, 1 << 20)),
        ([4096, "1k", "1k-2k*2"], (1024, 2048, 4096)),
        (512, (512,)),
    ],
)
def test_contexts(text: object, lengths: tuple[int, ...]) -> None:
    assert parse_contexts(text) == lengths


@given(
    start=st.integers(1, 1 << 20),
    stop=st.integers(1, 1 << 24),
    step=st.integers(2, 1 << 22),
    sign=st.sampled_from("*+"),
)
def test_a_range_steps_evenly_within_its_ends(start: int, stop: int, step: int, sign: str) -> None:
    text = f"{start}-{stop}{sign}{step}"
    if stop < start or (sign == "+" and (stop - start) // step > 10_000):
        with pytest.raises(ValueError, match=r"ends below|more than"):
            parse_contexts(text)
        return
    lengths = parse_contexts(text)
    assert lengths[0] == start
    following = [n * step if sign == "*" else n + step for n in lengths]
    assert following[:-1] == list(lengths[1:])
    assert lengths[-1] <= stop < following[-1]


plain = st.recursive(
    st.none() | st.integers(),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abc"), plain))
def test_merging_nothing_changes_nothing(base: dict[str, object]) -> None:
    assert merge(base, {}) == base
    assert merge({}, {"k": base}) == {"k": base}


def test_null_takes_a_key_away() -> None:
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}) == {"a": {"c": 2}}
