"""The micro-benchmarks give what the history needs: raw times under names that stay."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "-o",
    "python_files=bench_*.py",
    "-o",
    "pythonpath=tests/bench",
    "-p",
    "no:cacheprovider",
]


def test_every_round_is_kept_under_a_telling_name(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "pytest", "-q", "tests/bench/bench_ops.py", *OPTIONS]
    selected = ["-k", "step or (rope_append and t1-fp32)", "--benchmark-only"]
    done = subprocess.run(
        [*command, *selected, f"--benchmark-json={out}"],
        cwd=ROOT,
        # Under xdist, which runs this test, pytest-benchmark would measure nothing.
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["name"]: one for one in json.loads(out.read_text())["benchmarks"]}
    cpu = {name: one for name, one in found.items() if not name.startswith("cuda-")}
    assert set(cpu) == {"rope_append[gqa-8x2-d64-t1-fp32]", "mamba2_step[h8-p64-n64-fp32]"}
    for one in cpu.values():
        times = one["stats"]["data"]
        assert len(times) == one["stats"]["rounds"] >= 30
        assert all(1e-7 < time < 1 for time in times)  # of one call, not of a round
        assert one["extra_info"]["implementation"] in ("c", "torch")
        assert one["extra_info"]["threads"] == 1


def test_names_say_op_shape_and_type_and_are_not_given_twice() -> None:
    text = (ROOT / "tests/bench/bench_ops.py").read_text(encoding="utf-8")
    names = re.findall(r'^    "(.*)": ', text, re.MULTILINE)
    assert len(names) == len(set(names)) >= 30
    for name in names:
        assert re.fullmatch(r"[a-z0-9_]+\[[a-z0-9_-]+-(fp32|bf16|fp8_e4m3|int8)\]", name), name
