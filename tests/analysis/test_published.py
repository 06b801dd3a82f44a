"""Published tables: the figures that the paper has, and errors that say what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctxsweep.analysis import published
from ctxsweep.analysis.published import Figure, UnknownTable, load, names


def figures(table: str, series: str) -> list[str]:
    found = load(table)
    return [f.text for s in found.series if s.name == series for f in s.perplexity]


def test_tables_hold_the_papers_figures() -> None:
    table = load("yarn-llama2-7b")
    assert table.contexts == (2048, 4096, 6144, 8192, 10240)
    at = [table.contexts.index(n) for n in (2048, 8192, 10240)]
    wanted = {
        "PI (s = 2)": ["3.92", "3.34", "8.07"],
        "NTK (base 20000)": ["4.20", "3.59", "6.24"],
        "YaRN (s = 2)": ["3.91", "3.35", "6.04"],
    }
    assert {s.name: [s.perplexity[i].text for i in at] for s in table.series} == wanted
    long = "yarn-llama2-7b-128k"
    assert figures(long, "YaRN (s = 32)") == ["3.56", "2.70", "2.45", "2.36", "2.37"]
    assert figures(long, "Code Llama (NTK)") == ["3.71", "2.74", "2.55", "2.54", "2.71"]
    assert figures(long, "YaRN (s = 16)") == ["3.51", "2.65", "2.42", ">10", ">10"]


@pytest.mark.parametrize("name", names())
def test_every_table_has_its_source(name: str) -> None:
    table = load(name)
    assert "arXiv 2309.00071" in table.source and table.table.startswith("Table ")
    assert table.units == "perplexity" and "Proof-pile" in table.measured
    assert {s.method for s in table.series} <= {"linear", "ntk", "yarn"}


def test_lower_bounds_stay_lower_bounds() -> None:
    bound = load("yarn-llama2-7b-128k").series[2].perplexity[-1]
    assert bound == Figure(value=10.0, at_least=True)


def test_unknown_table_names_the_nearest() -> None:
    with pytest.raises(UnknownTable, match="did you mean 'yarn-llama2-7b'") as found:
        load("yarn-lama-7b")
    assert "yarn-llama2-7b-128k" in str(found.value)


def test_a_table_with_a_gap_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (published.FOLDER / "yarn-llama2-7b.yaml").read_text(encoding="utf-8")
    (tmp_path / "short.yaml").write_text(text.replace("3.92, ", ""), encoding="utf-8")
    monkeypatch.setattr(published, "FOLDER", tmp_path)
    with pytest.raises(UnknownTable, match=r"PI \(s = 2\): 4 figures for 5 contexts"):
        load("short")
