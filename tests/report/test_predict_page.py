"""A prediction's words, charts and page."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from ctxsweep.models.catalog import load_config
from ctxsweep.planning.answers import Predicted
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import device
from ctxsweep.planning.predicting import predict_all
from ctxsweep.report import predict_words as words
from ctxsweep.report.predict_charts import PARTS, charts
from ctxsweep.report.predict_page import write_prediction

CONTEXTS = (1024, 8192, 65536)


def predicted(*models: str, batches=(1,), contexts=CONTEXTS, on="RTX-4090") -> Predicted:
    configs = [load_config(name) for name in models]
    return predict_all(configs, Deployment(), device(on), contexts, batches)


def rows(found: Predicted, name: str) -> list[dict]:
    return charts(found)[name][2].to_dict()["data"]["values"]


@pytest.mark.parametrize("model", ["llama-3-8b", "mistral-7b"])
def test_the_memory_chart_stacks_to_the_total(model):
    found = predicted(model)
    drawn = rows(found, "memory")
    for cell in found.cells:
        parts = [r for r in drawn if r["role"] == "part" and r["x"] == cell.context_tokens]
        assert [part["part"] for part in parts] == list(PARTS.values())
        assert parts[0]["low"] == 0 and parts[-1]["high"] == cell.total_bytes
        assert all(low["high"] == high["low"] for low, high in pairwise(parts))
    limits = {row["label"]: row["low"] for row in drawn if row["role"] == "limit"}
    assert limits == {
        "memory of RTX-4090: 22.4 GiB": 24 * 10**9,
        "free for the model: 20.1 GiB": 24 * 10**9 - found.reserve_bytes,
    }


def test_what_does_not_fit_is_a_cross_and_no_point():
    found = predicted("llama-3-8b", "mamba-2.8b")
    drawn = rows(found, "decode")
    points = {(r["series"], r["x"]) for r in drawn if r["role"] == "point"}
    crosses = {(r["series"], r["x"]) for r in drawn if r["role"] == "failure"}
    assert crosses == {("llama-3-8b", 65536)}
    assert points == {(c.model, c.context_tokens) for c in found.cells} - crosses
    (strip,) = (row for row in drawn if row["role"] == "strip")
    assert strip["label"] == "does not fit ↑"


@pytest.mark.parametrize(
    ("models", "batches", "contexts", "on", "names"),
    [
        (["llama-3-8b"], (1,), (8192,), "H100", {"memory", "decode", "prefill"}),
        (["llama-3-8b", "gpt2"], (1, 8), CONTEXTS, "H100", {"memory", "decode", "prefill"}),
        (["falcon-180b"], (1,), CONTEXTS, "L4", {"memory"}),  # nothing fits: no times to draw
    ],
)
def test_every_kind_of_prediction_is_written(tmp_path, models, batches, contexts, on, names):
    found = predicted(*models, batches=batches, contexts=contexts, on=on)
    written = write_prediction(found, tmp_path)
    assert all(path.stat().st_size > 500 for path in written)
    assert {path.stem for path in tmp_path.glob("plots/*.png")} == names


def test_the_page_says_what_the_terminal_says_and_loads_nothing(tmp_path):
    found = predicted("llama-3-8b", "zamba2-2.7b-like", "mamba-2.8b")
    write_prediction(found, tmp_path)
    page = (tmp_path / "predict.html").read_text(encoding="utf-8")
    page = re.sub(r"<script>.*?</script>", "", page, count=1, flags=re.DOTALL)  # the library
    text = page.replace("&#39;", "'")
    for line in (words.headline(found), *words.assumptions(found), *words.crossing_lines(found)):
        assert line in text
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count('class="alarm"') == sum(not cell.fits for cell in found.cells)
    markdown = (tmp_path / "predict.md").read_text(encoding="utf-8")
    for cell in found.cells:
        assert f"| {' | '.join(words.row(cell))} |" in markdown


def test_the_same_prediction_gives_the_same_bytes(tmp_path):
    found = predicted("llama-3-8b", contexts=(1024, 8192))
    texts = []
    for name in ("a", "b"):
        write_prediction(found, tmp_path / name)
        texts.append((tmp_path / name / "predict.html").read_bytes())
    assert texts[0] == texts[1]


def test_a_plot_of_an_earlier_prediction_does_not_stay(tmp_path):
    write_prediction(predicted("llama-3-8b", contexts=(1024,)), tmp_path)
    write_prediction(predicted("falcon-180b", contexts=(1024,), on="L4"), tmp_path)
    assert {path.name for path in Path(tmp_path / "plots").iterdir()} == {
        "memory.svg",
        "memory.png",
    }


@pytest.mark.parametrize(
    ("model", "on", "said"),
    [
        ("llama-3-8b", "H100", "Longest context that fits: 415K tokens (128 KiB of cache a token)"),
        ("mistral-7b", "H100", "Any context fits: its window keeps 4K tokens."),
        ("mamba-2.8b", "H100", "Any context fits: its state is 21.9 MiB at every context."),
        ("gpt2", "H100", "Longest context that fits: 1K tokens, where its table of positions ends"),
        ("falcon-180b", "H100", "Does not fit: the weights take 333 GiB of 67.1 GiB."),
    ],
)
def test_reaches_in_words(model, on, said):
    found = predicted(model, contexts=(1024,), on=on)
    (line,) = words.reach_lines(found, found.models[0])
    assert line.startswith(said)
