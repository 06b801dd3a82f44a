"""The catalogue as people see it: the list, its page in the docs, and the scenario over it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctxsweep.cli import app
from ctxsweep.models import catalog
from ctxsweep.models.catalog_table import OWN, by_family, made_of
from ctxsweep.scenario import load_scenario

ROOT = Path(__file__).parents[2]
SWEPT = set(catalog.families()) - {OWN}


def test_the_list_fits_a_terminal_and_holds_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(app, ["list", "models"]).stdout
    assert max(map(len, shown.splitlines())) <= 80
    for name in (*catalog.all_names(), *catalog.encoder_names(), *SWEPT):
        assert name in shown
    line = next(line for line in shown.splitlines() if line.startswith("  llama-3-8b "))
    assert line.split() == ["llama-3-8b", "GQA", "4:1", "8.03B", "8K", "128", "KiB", "16", "GiB"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama-2-7b", "MHA"),
        ("falcon-7b", "MQA 71:1"),
        ("mistral-7b", "GQA 4:1, window 4096"),
        ("bloom-176b", "MHA, ALiBi"),
        ("jamba-v0.1", "Mamba-1, GQA 4:1 in 1 of 8, 2 of 16 experts"),
        ("zamba2-2.7b-like", "Mamba-2, MHA in 1 of 7 shared"),
        ("rwkv6-7b", "RWKV-6"),
    ],
)
def test_what_a_model_is_made_of_in_words(name: str, words: str) -> None:
    assert made_of(catalog.load_config(name)) == words


def test_families_are_listed_by_size() -> None:
    table = by_family()
    for rows in table.values():
        sizes = [row.parameters for row in rows]
        assert sizes == sorted(sizes)
    assert list(table)[-2:] == [OWN, "encoders"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_family_is_swept_as_a_twin(device: str) -> None:
    plan = load_scenario(ROOT / "scenarios" / "families.yaml", device=device)
    models = [one.model for one in plan.series]
    assert all(isinstance(m, dict) and m.keys() == {"like", "scale"} for m in models)
    family_of = {n: family for family, held in catalog.families().items() for n in held}
    assert {family_of[m["like"]] for m in models if isinstance(m, dict)} == SWEPT
    assert (plan.contexts[0], plan.contexts[-1]) == (1024, 16384)
    assert {one.backend for one in plan.series} == {"native"}
    for model in models:
        assert catalog.load_config(model).hidden_size == 256


def test_an_encoder_in_a_scenario_gets_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("contexts: 1k\nseries: {bert: {model: bert-base}}\n")
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 2
    assert "it cannot be swept" in result.stderr
    assert "Traceback" not in result.stderr
