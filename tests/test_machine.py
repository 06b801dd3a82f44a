"""A machine's folder bears one name, whatever its maker writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.machine import machine_slug
from ctxsweep.records import Environment

ROOT = Path(__file__).resolve().parents[1]
BASELINES = sorted((ROOT / "results" / "baselines").glob("*/*/manifest.json"))


def environment(cpu_model: str, gpu: str | None = None, cores: int = 2) -> Environment:
    return Environment(
        machine="host",
        cpu_model=cpu_model,
        cpu_flags=(),
        physical_cores=cores,
        logical_cores=cores,
        memory_bytes=1,
        threads=1,
        device="cuda" if gpu else "cpu",
        gpu=gpu,
        python="3.11",
        os="Linux",
        versions={},
        load_average=0.0,
    )


@pytest.mark.parametrize(
    ("cpu_model", "gpu", "cores", "slug"),
    [
        ("AMD EPYC", None, 2, "2-core-amd-epyc"),
        ("AMD EPYC 7763 64-Core Processor", None, 4, "4-core-amd-epyc-7763"),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", None, 14, "14-core-intel-xeon-e5-2680-v4"),
        ("AMD Ryzen 7 7840U w/ Radeon 780M", None, 8, "8-core-amd-ryzen-7-7840u-w-radeon-780m"),
        ("AMD Ryzen 5 3400G with Radeon Vega Graphics", None, 4, "4-core-amd-ryzen-5-3400g"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", None, 2, "2-core-intel-xeon-2-20ghz"),
        ("Intel(R) Xeon(R) CPU @ 3.10GHz", None, 2, "2-core-intel-xeon-3-10ghz"),
        ("AMD EPYC 16-Core Processor", None, 8, "8-core-amd-epyc"),
        ("", "NVIDIA GeForce RTX 2080", 8, "geforce-rtx-2080"),
        ("", "NVIDIA GeForce RTX 2080 with Max-Q Design", 8, "geforce-rtx-2080-with-max-q-design"),
        ("AMD EPYC", "NVIDIA H100 80GB HBM3", 16, "h100-80gb-hbm3"),
        ("AMD EPYC", "Tesla V100-SXM2-16GB", 16, "tesla-v100-sxm2-16gb"),
        ("", None, 1, "1-core-cpu"),
        ("", "NVIDIA", 1, "gpu"),
    ],
)
def test_the_name(cpu_model: str, gpu: str | None, cores: int, slug: str) -> None:
    assert machine_slug(environment(cpu_model, gpu, cores)) == slug


@pytest.mark.parametrize("manifest", BASELINES, ids=lambda path: path.parent.name)
def test_committed_baselines_lie_where_it_says(manifest: Path) -> None:
    found = json.loads(manifest.read_text())["environment"]
    assert machine_slug(Environment.model_validate(found)) == manifest.parents[1].name


@given(st.text(max_size=80), st.none() | st.text(max_size=80))
def test_any_name_makes_a_folder(cpu_model: str, gpu: str | None) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", machine_slug(environment(cpu_model, gpu)))
