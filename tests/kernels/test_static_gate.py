"""The gate: the committed baseline holds, and a kernel that got worse is named with its figures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from ctxsweep_kernels.static import gate
from ctxsweep_kernels.static.against import AgainstError, find, read_file
from ctxsweep_kernels.static.bench import Report, run
from ctxsweep_kernels.static.figures import Figures
from ctxsweep_kernels.static.traffic import Touched, Traffic

HERE = Path(__file__).parent
EXAMPLES = HERE / "static_examples" / "attend.yaml"
KERNELS = HERE.parents[1] / "kernels"
WORKERS = 2


def ctxsweep_kernels(*arguments: str, kernels: Path = KERNELS) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(kernels), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "ctxsweep.cli", "kernels", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )


def test_no_kernel_is_worse_than_the_baseline():
    done = ctxsweep_kernels("--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_baseline_is_of_the_triton_that_is_installed():
    """Else nothing but traffic is compared: a new Triton comes with a new baseline."""
    import triton

    assert gate.read_baseline()["triton"] == triton.__version__, gate.RENEW


def test_a_mask_on_every_tile_fails_the_gate(tmp_path):
    copy = tmp_path / "kernels"
    shutil.copytree(
        KERNELS / "ctxsweep_kernels",
        copy / "ctxsweep_kernels",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    source = copy / "ctxsweep_kernels" / "sliding_window" / "stretches.py"
    text = source.read_text()
    assert text.count("                stretch == 3,\n") == 1
    source.write_text(text.replace("                stretch == 3,\n", "                True,\n"))
    case = "window_prefill/bf16-d128-w4096"
    done = ctxsweep_kernels("--check", "--case", case, "--arch", "sm_90", kernels=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"worse: {case} on sm_90: warp instructions for a unit in loop steady" in done.stderr
    assert "(+" in done.stderr and "→" in done.stderr
    assert gate.RENEW in done.stderr


@pytest.fixture(scope="module")
def examples() -> Report:
    """The example kernels on one architecture; those of the YAML stand for other libraries'."""
    return run([], ["sm_90"], read_file(EXAMPLES), workers=WORKERS)


def figures(report: Report, name: str, called: str = "kernel") -> dict[str, object]:
    one = next(one for one in report.rivals if one.case == name)
    return gate.baseline_of("3", [Figures(**{**vars(one), "case": called})], {})


def test_every_figure_of_a_worse_kernel_is_named(examples):
    was, now = figures(examples, "example/attend"), figures(examples, "example/attend-masked")
    messages = [str(one) for one in gate.worse(now, was, ["sm_90"])]
    assert len(messages) == 2
    assert messages[0].startswith("kernel on sm_90: warp instructions for a unit in loop steady 0.")
    assert messages[1].startswith("kernel on sm_90: warp instructions for a unit on average 0.")
    assert gate.worse(was, was, ["sm_90"]) == []
    assert gate.worse(was, now, ["sm_90"]) == []  # less is no failure


def test_another_triton_is_said_and_fails_nothing(examples):
    was, now = figures(examples, "example/attend"), figures(examples, "example/attend-masked")
    now["triton"] = "4"
    assert gate.worse(now, was, ["sm_90"]) == []
    remark = gate.other_version(now, was)
    assert remark and "Triton 3 and this is 4" in remark and "--renew" in remark


def test_a_kernel_that_no_longer_compiles_is_worse(examples):
    was, now = figures(examples, "example/attend"), figures(examples, "example/broken")
    (one,) = gate.worse(now, was, ["sm_90"])
    assert str(one) == ("kernel on sm_90: no longer compiles: arange's range must be a power of 2")


def changed(report: Report, **fields: object) -> dict[str, object]:
    one = next(one for one in report.rivals if one.case == "example/copy")
    return gate.baseline_of("3", [Figures(**{**vars(one), **fields})], {})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spilled_bytes": 16}, "spills 0 → 16 bytes a thread"),
        ({"wide_share": 0.5}, "bytes in 16-byte or TMA loads 100.0% → 50.0%"),
        ({"registers": 200}, "blocks that fit on a multiprocessor 32 → 8 (18 → 200 registers"),
        ({"per_unit": 14.0}, "warp instructions for a unit on average 12.5 → 14 (+12.0%)"),
        ({"per_unit": None}, "warp instructions for a unit on average 12.5 → unknown"),
        ({"case": "example/new"}, "is not in the baseline"),
    ],
)
def test_each_rule_of_the_gate(examples, fields, message):
    found = gate.worse(changed(examples, **fields), changed(examples), ["sm_90"])
    assert message in str(found[0])


def test_more_bytes_or_tiles_are_worse():
    def counted(loaded, dots):
        traffic = Traffic("x", {"k": Touched(loaded)}, {"k": 100}, dots, 4)
        return gate.baseline_of("3", [], {"x": traffic})

    assert gate.worse(counted(100, 4), counted(100, 4), []) == []
    bytes_, tiles = gate.worse(counted(110, 5), counted(100, 4), [])
    assert str(bytes_) == "x on any: bytes moved 100 → 110"
    assert str(tiles) == "x on any: tiles multiplied 4 → 5"


def test_traffic_that_is_no_longer_counted_is_worse(examples):
    was = changed(examples) | {"traffic": {"example/copy": {"moved_bytes": 1, "dots": 0}}}
    (one,) = gate.worse(changed(examples), was, ["sm_90"])
    assert str(one) == "example/copy on any: its traffic is no longer counted"


def test_a_case_that_is_gone_is_told_when_all_are_judged(examples):
    was = changed(examples)
    nothing = gate.baseline_of("3", [], {})
    assert gate.worse(nothing, was, ["sm_90"], everything=False) == []
    assert "no longer judged" in str(gate.worse(nothing, was, ["sm_90"])[0])


def test_renewing_a_part_keeps_the_rest(examples, tmp_path):
    path = tmp_path / "baseline.json"
    gate.write_baseline(changed(examples), True, path)
    gate.write_baseline(figures(examples, "example/attend"), False, path)
    gate.write_baseline(changed(examples, arch="sm_80"), False, path)
    cases = gate.read_baseline(path)["cases"]
    assert {name: set(archs) for name, archs in cases.items()} == {
        "example/copy": {"sm_90", "sm_80"},
        "kernel": {"sm_90"},
    }
    with pytest.raises(gate.MixedBaseline, match="of Triton 3 and this is 4: renew all"):
        gate.write_baseline(changed(examples) | {"triton": "4"}, False, path)
    gate.write_baseline(figures(examples, "example/attend"), True, path)
    assert set(gate.read_baseline(path)["cases"]) == {"kernel"}


def test_heuristics_are_unwrapped_and_failures_are_rows(examples):
    by_name = {one.case: one for one in examples.rivals}
    assert by_name["example/copy"].per_unit == 12.5 and not by_name["example/copy"].error
    assert by_name["example/broken"].error == "arange's range must be a power of 2"


ENTRY = 'name: x, kernel: "attend.py:copy", beside: x, unit: KiB'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kernels: [", "is not YAML"),
        ("[]", "a mapping with a list of `kernels` is wanted"),
        ("kernels: [3]", "kernel 1: a mapping is wanted"),
        ("kernels: [{name: x}]", "x: kernel, beside, unit, arguments is missing"),
        ("kernels: [{" + ENTRY + ", arguments: 3}]", "arguments is a mapping"),
        ("kernels: [{" + ENTRY + ", arguments: {}, warps: 3}]", "x: warps is no key"),
        ("kernels: [{" + ENTRY + ", arguments: {}, loops: [steady]}]", "a loop has name"),
        ("kernels: [{" + ENTRY.replace("KiB", "byte") + ", arguments: {}}]", "not 'byte'"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(AgainstError) as caught:
        find([str(path)])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{}", "the kernel's arguments source, target, length are not given"),
        ('{source: "*fp32", target: "*fp32", length: 1, size: 3}', "takes no argument size"),
        ('{source: "*float", target: "*fp32", length: 1}', "'*float' is none of *fp64"),
    ],
)
def test_arguments_that_do_not_fit_are_a_row(tmp_path, arguments, message):
    shutil.copy(EXAMPLES.with_suffix(".py"), tmp_path)
    path = tmp_path / "attend.yaml"
    path.write_text("kernels: [{" + ENTRY + f", arguments: {arguments}}}]")
    report = run([], ["sm_90"], read_file(path), workers=1)
    assert message in report.rivals[0].error


def test_a_library_that_is_not_here_is_a_row(tmp_path):
    path = tmp_path / "absent.yaml"
    path.write_text(
        "kernels: [{name: x, kernel: 'no_such.thing:f', beside: x, unit: KiB, arguments: {}}]"
    )
    report = run([], ["sm_90"], read_file(path), workers=1)
    assert "no_such.thing:f cannot be imported (ModuleNotFoundError" in report.rivals[0].error


def test_the_files_of_the_package_are_valid():
    assert {rival.name for rival in find(["all"])} >= {
        "vllm/prefill-w4096", "vllm/decode-fp8", "fla/prefill-w4096", "mamba_ssm/state-update-bf16",
    }  # fmt: skip
