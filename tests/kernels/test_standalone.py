"""The kernels installed by themselves, without the harness, run the example of their README."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import torch

KERNELS = Path(__file__).parents[2] / "kernels"


def test_the_package_alone_runs_its_readme(tmp_path: Path) -> None:
    """torch is lent to the new environment by a path, which does not lend the harness."""
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "-qq", "--no-deps", str(KERNELS)], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "torch.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)

    assert "No module named 'ctxsweep.cli'" in run("import ctxsweep.cli").stderr
    where = run("import ctxsweep_kernels; print(ctxsweep_kernels.__file__)").stdout
    assert where.startswith(str(site))
    example = re.search(r"```python\n(.*?)```", (KERNELS / "README.md").read_text(), re.DOTALL)
    assert example is not None
    done = run(example[1])
    expected = re.search(r"print\(.*#\s*(.*)", example[1])
    assert expected is not None
    assert done.stdout.strip() == expected[1], done.stderr
