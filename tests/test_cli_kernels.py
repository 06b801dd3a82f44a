"""``ctxsweep kernels``: what it prints and writes, and mistakes in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

EXAMPLES = Path(__file__).parent / "kernels" / "static_examples"
CASE = "state_update/mamba2-bf16-n128"


def kernels(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ctxsweep.cli", "kernels", *arguments],
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """One run with everything: two devices, another's kernels, a folder."""
    out = tmp_path_factory.mktemp("kernels")
    done = kernels(
        "--case", CASE, "--device", "H100,RTX-4090", "--arch", "sm_86",
        "--against", str(EXAMPLES / "attend.yaml"), "--out", str(out),
        TRITON_INTERPRET="1",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # one of the examples does not compile, on purpose
    (out / "stdout").write_text(done.stdout)
    return out


def test_the_terminal_shows_every_device(written):
    text = (written / "stdout").read_text()
    assert "H100 (sm_90)" in text and "RTX-4090 (sm_89)" in text and "sm_86" in text
    assert CASE in text and "bytes, 3.35 TB/s" in text
    assert "example/broken" in text and "arange's range must be a power of 2" in text


def test_the_json_holds_everything(written):
    data = json.loads((written / "kernels.json").read_text())
    by_arch = {one["arch"]: one for one in data["figures"]}
    assert set(by_arch) == {"sm_90", "sm_89", "sm_86"}
    held = by_arch["sm_90"]["devices"]["H100"]["occupancy"]
    assert held["blocks"] > 0 and held["limiter"]
    assert by_arch["sm_86"]["devices"] == {}
    assert len(data["against"]) == 4 * 3 and data["triton"]


def test_markdown_and_page_hold_the_same_rows(written):
    text = (written / "kernels.md").read_text()
    page = (written / "kernels.html").read_text()
    for part in (CASE, "example/attend-masked", "arange&#39;s range must be a power of 2"):
        assert part.replace("&#39;", "'") in text
        assert part in page
    assert "http" not in page.replace("http-equiv", "")
    assert "None" not in page


def test_json_is_all_that_is_printed():
    done = kernels("--case", CASE, "--device", "h100", "--json")
    assert done.returncode == 0, done.stderr
    assert [one["case"] for one in json.loads(done.stdout)["figures"]] == [CASE]


def test_a_file_of_kernels_finds_its_yaml():
    done = kernels("--case", CASE, "--device", "H100", "--against", f"{EXAMPLES}/attend.py:copy")
    assert done.returncode == 0, done.stderr
    assert "example/copy" in done.stdout and "example/attend" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "V100"], "no device 'V100'; there are: A100, H100"),
        (["--arch", "hopper"], "no architecture 'hopper'"),
        (["--case", "nothing-such"], "no case fits nothing-such; there are: "),
        (["--against", "nobody"], "nothing to compare with is named 'nobody'"),
        (["--against", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = kernels(*arguments)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_without_triton_it_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'triton' else find(name, *rest)\n"
    )
    done = kernels(PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr == (
        "ctxsweep: Triton is not installed; pip install triton (or 'ctxsweep[triton]')\n"
    )
