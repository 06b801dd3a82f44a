"""``calibration.yaml``: read back as it was written, refused in one line where it is not whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.analysis.predicted import Errors
from ctxsweep.planning.calibration.calibration import (
    Calibration,
    Group,
    Measured,
    ProcessMemory,
)
from ctxsweep.planning.calibration.code_path import CodePath
from ctxsweep.planning.calibration.file import check, find, load, own_file, save
from ctxsweep.planning.calibration.speeds import BadCalibration, Speeds
from ctxsweep.records import Ceilings

CEILINGS = Ceilings(
    device="cpu", threads=2, matmul_flops_per_s={"float32": 2e11}, read_bytes_per_s=4e10
)
ERRORS = Errors(median=0.08, p90=0.2, worst=0.5, cells=72, low=0.8, high=1.5, coverage=0.97)
CALIBRATION = Calibration(
    machine="2-core-box",
    ceilings=CEILINGS,
    made_at="2026-01-02T03:04:05Z",
    runs=("one", "two"),
    held_out={"itl_s": ERRORS},
    groups=(
        Group(
            path=CodePath(
                backend="native", dtype="float32", kv_dtype="fp8_e4m3", mixers=("attention",)
            ),
            speeds=Speeds(call_s=1.23456789e-4, linear=0.4),
            memory=ProcessMemory(base_bytes=2.8e8, bytes_per_token=30),
            measured=Measured(
                models=("tiny-gqa",),
                contexts=(1024, 131072),
                batch_sizes=(1, 1),
                weights_bytes=(11, 12),
                call_tokens=(512, 512),
                cells=8,
            ),
        ),
    ),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("made") / "calibration.yaml"
    save(CALIBRATION, path)
    return path.read_text(encoding="utf-8")


def test_read_back_to_six_digits(tmp_path: Path) -> None:
    path = tmp_path / "new" / "calibration.yaml"
    save(CALIBRATION, path)
    found = load(path)
    assert found.groups[0].speeds.call_s == 1.23457e-4
    rounded = CALIBRATION.groups[0].speeds.model_copy(update={"call_s": 1.23457e-4})
    group = CALIBRATION.groups[0].model_copy(update={"speeds": rounded})
    assert found == CALIBRATION.model_copy(update={"groups": (group,)})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: "[1, 2", "not YAML"),
        (lambda text: "plain", "not a calibration"),
        (lambda text: "", "not a calibration"),
        (lambda text: text.replace("schema_version: 2", "schema_version: 9"), "is 9, this"),
        (lambda text: text.replace("linear: 0.4", "linear: 1.4"), "groups.0.speeds.linear"),
        (lambda text: text.replace("machine: 2-core-box\n", ""), "machine: Field required"),
        (lambda text: text[: len(text) // 2], "calibration.yaml: "),
    ],
)
def test_a_damaged_file_is_one_line(text: str, damage, said: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(damage(text), encoding="utf-8")
    with pytest.raises(BadCalibration) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("make it anew: ctxsweep calibrate")


@given(data=st.binary(max_size=200), cut=st.integers(0, 2000))
def test_no_bytes_end_in_anything_else(text: str, data: bytes, cut: int, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("bad") / "calibration.yaml"
    path.write_bytes(text.encode()[:cut] + data + text.encode()[cut:])
    try:
        load(path)
    except BadCalibration as error:
        assert "\n" not in str(error)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadCalibration, match="there is no such file"):
        load(tmp_path / "calibration.yaml")


def test_one_of_another_machine_or_threads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    check(CALIBRATION, path, "2-core-box", CEILINGS)
    with pytest.raises(BadCalibration, match="made on 2-core-box, this is 8-core-box"):
        check(CALIBRATION, path, "8-core-box", CEILINGS)
    with pytest.raises(BadCalibration, match="cpu with 2 threads, this is cpu with 1"):
        check(CALIBRATION, path, "2-core-box", CEILINGS.model_copy(update={"threads": 1}))


def test_the_machines_own_comes_before_the_committed_one(tmp_path: Path) -> None:
    assert find(tmp_path, "box") is None
    committed = tmp_path / "baselines" / "box" / "calibration.yaml"
    save(CALIBRATION, committed)
    assert find(tmp_path, "box") == committed
    save(CALIBRATION, own_file(tmp_path, "box"))
    assert find(tmp_path, "box") == tmp_path / "calibration" / "box.yaml"
