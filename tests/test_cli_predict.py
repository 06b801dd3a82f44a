"""``ctxsweep predict`` and ``fit``: what they print and write, and mistakes in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ctxsweep.cli import fit, predict
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.catalog import load_config
from ctxsweep.models.hf_write import hf_config
from ctxsweep.planning.answers import FitTable, Predicted

RUNS = Path(__file__).parent / "fixtures" / "runs"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    predict.register(app)
    fit.register(app)
    return app


@pytest.fixture(scope="module")
def call(app):
    def run(*arguments: str) -> Result:
        return CliRunner(env={"COLUMNS": "80"}).invoke(app, list(arguments))

    return run


def said(result: Result) -> str:
    """The mistake: one line on standard error, nothing else anywhere."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("ctxsweep: ")
    return lines[0]


def test_one_model_gets_a_table_that_fits_80_columns(call):
    result = call("predict", "llama-3-8b", "--batch", "1,8")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == (
        "llama-3-8b on H100: least times (roofline bounds); real engines take longer"
    )
    assert "Longest context that fits (batch 1): 415K tokens" in result.stdout
    assert "NVIDIA H100 datasheet" in result.stdout
    rows = [line.split() for line in lines]
    assert ["128K", "1", "16", "GiB", "31.2", "GiB"] in [row[:6] for row in rows]
    assert any(row[:2] == ["128K", "8"] and "✕" in row for row in rows)
    assert "✕ does not fit" in result.stdout
    assert "Prefill is limited by arithmetic (compute), decode by memory" in result.stdout
    assert "Energy of a token (batch 1) at full board power" in result.stdout


def test_several_models_stand_side_by_side(call):
    result = call("predict", "llama-3-8b", "mamba-2.8b", "gpt2", "--device", "rtx4090")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("3 models on RTX-4090: least times")
    assert sum(line.startswith("llama-3-8b  ") for line in lines) == 3
    assert "mamba-2.8b: Any context fits: its state is 21.9 MiB at every context." in lines
    assert "Where one overtakes another (of these bounds, not measured):" in lines
    (gpt2,) = {line.split()[-1] for line in lines if line.startswith("gpt2  ")}
    assert gpt2 == "–"


def test_more_contexts_than_fit_beside_each_other_are_broken(call):
    result = call("predict", "zamba2-2.7b-like", "mamba-2.8b", "--contexts", "1k-1m*2")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in result.stdout
    assert sum(line.startswith("model ") for line in lines) == 6
    assert sum(line.split()[-1:] == ["1M"] for line in lines) == 3


def test_two_models_are_told_who_needs_less(call):
    text = call("predict", "zamba2-2.7b-like", "mamba-2.8b").stdout
    crossed = r"Memory: zamba2-2.7b-like needs less up to [\d.]+K tokens, mamba-2.8b beyond\."
    assert re.search(crossed, text)
    assert "Prefill: mamba-2.8b needs less from 1K to 128K tokens." in text


def test_nothing_is_said_of_contexts_that_do_not_fit(call):
    text = call("predict", "llama-3-8b", "mamba-2.8b", "--device", "L4").stdout
    assert "mamba-2.8b needs less from 1K to 39.7K tokens, as far as both fit." in text
    rows = [line for line in text.splitlines() if line.startswith("llama-3-8b  ")]
    assert len(rows) == 3 and all(row.count("✕") == 2 for row in rows)
    apart = call("predict", "falcon-180b", "mamba-2.8b").stdout
    assert "Nowhere do both fit." in apart


def test_equal_models_are_called_equal(call):
    lines = call("predict", "qwen2.5-7b", "qwen2.5-7b-yarn", "mamba-2.8b").stdout
    text = " ".join(lines.split())
    assert "memory: qwen2.5-7b and qwen2.5-7b-yarn need the same from 1K to 128K tokens." in text


def test_activations_are_of_each_batch(call):
    text = " ".join(call("predict", "llama-3-8b", "--batch", "1,64").stdout.split())
    assert "activations about 200 MiB (batch 1), 231 MiB (batch 64)" in text


def test_a_model_is_a_name_or_a_file(call, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("like: tiny-gqa\nnum_layers: 3\n")
    raw = tmp_path / "config.json"
    raw.write_text(json.dumps(hf_config(load_config("tiny-gqa"), "bfloat16")))
    found = Predicted.model_validate_json(call("predict", str(own), str(raw), "--json").stdout)
    sizes = [model.parameters for model in found.models]
    assert sizes[1] == sum(parameters(load_config("tiny-gqa")).values()) != sizes[0]
    table = call("fit", "--memory", "8GB", "--models", f"{own},{raw}", "--json").stdout
    assert {row.model for row in FitTable.model_validate_json(table).rows} == {
        model.name for model in found.models
    }
    own.write_text("like: llama-3-8b\nattention: {kv_heads: 7}\n")
    line = said(call("predict", str(own)))
    assert "not a valid model: attention.kv_heads: 7 → 8" in line and "ctxsweep inspect" in line


def test_an_encoder_is_sent_to_inspect(call):
    assert said(call("predict", "bert-base")).endswith("ctxsweep inspect bert-base")


def test_json_is_all_that_is_known(call):
    result = call(
        "predict", "llama-3-8b", "--contexts", "4k,128k", "--kv-dtype", "fp8",
        "--weight-dtype", "bf16", "--tp", "2", "--json",
    )  # fmt: skip
    found = Predicted.model_validate_json(result.stdout)
    assert (found.kv_dtype, found.weight_dtype) == ("fp8_e4m3", "bfloat16")
    assert (found.tensor_parallel, found.contexts) == (2, (4096, 131072))
    assert [cell.cache_bytes for cell in found.cells] == [n * 2**15 for n in found.contexts]


def test_the_folder_holds_page_markdown_json_and_plots(call, tmp_path):
    result = call("predict", "llama-3-8b", "mamba-2.8b", "--batch", "1,4", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    plots = {f"plots/{n}.{k}" for n in ("memory", "decode", "prefill") for k in ("svg", "png")}
    assert files == {"predict.html", "predict.md", "predict.json"} | plots
    assert {line.removeprefix(f"{tmp_path}/") for line in result.stderr.split()} == files
    assert Predicted.model_validate_json((tmp_path / "predict.json").read_text())


def test_more_memory_can_be_counted_on(call):
    lengths = []
    for memory in ("80GB", "79GiB"):
        text = call("predict", "llama-3-8b", "--memory", memory, "--json").stdout
        (model,) = Predicted.model_validate_json(text).models
        lengths.append(model.reaches[0].context_tokens)
    assert lengths[0] < lengths[1]


def test_this_machine_takes_a_runs_ceilings(call, tmp_path):
    run = sorted(RUNS.glob("*/records.jsonl"))[0].parent
    shutil.copytree(run, tmp_path / "smoke" / run.name)
    first = json.loads((run / "records.jsonl").read_text().splitlines()[0])
    result = call(
        "predict", "tiny-gqa", "--contexts", "1k", "--weight-dtype", "float32",
        "--device", "this", "--ceilings", "smoke", "--results", str(tmp_path), "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = Predicted.model_validate_json(result.stdout)
    assert found.device.measured
    assert found.device.read_bytes_per_s == first["ceilings"]["read_bytes_per_s"]
    assert found.device.memory_bytes == first["environment"]["memory_bytes"]
    assert found.cells[0].energy_j_per_token is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["llama-3-8"], "'llama-3-8' is not in the catalogue .* did you mean 'llama-3-8b'"),
        (["llama-3-8b", "--device", "H10"], "--device: no device is named 'H10'; did you mean 'H1"),
        (["llama-3-8b", "--contexts", "1k-8k"], "--contexts: .*say how to step, as in 1k-8k[*]2"),
        (["llama-3-8b", "--contexts", "0"], "--contexts: .*nearest valid: 1"),
        (
            ["gpt2", "--contexts", "2k"],
            "beyond the table of positions of gpt2; nearest valid: 1024",
        ),
        (["llama-3-8b", "--batch", "1,x"], "--batch '1,x' is not a list of numbers from 1"),
        (["llama-3-8b", "--batch", "0"], "--batch '0' is not a list of numbers from 1"),
        (["llama-3-8b", "--tp", "3"], "--tp: .*32 heads.*nearest valid: 2 or 4"),
        (["llama-3-8b", "--tp", "0"], "--tp 0: write a number greater than or equal to 1"),
        (["llama-3-8b", "--state-dtype", "int8"], "--state-dtype 'int8' is not known"),
        (
            ["llama-3-8b", "--prefill-chunk", "1", "--contexts", "16m"],
            "--prefill-chunk 1: 16,777,216 tokens are too many calls; nearest valid: 128",
        ),
        (["llama-3-8b", "--weight-dtype", "int5"], "--weight-dtype 'int5' .*did you mean 'int"),
        (["llama-3-8b", "--kv-dtype", "q4"], "--kv-dtype 'q4' is not known; there are: "),
        (["llama-3-8b", "--reserve", "1.5"], "--reserve '1.5' is not a share below 1"),
        (["llama-3-8b", "--ceilings", "x"], "add --device this"),
        (["llama-3-8b", "--device", "this", "--ceilings", "x"], "'x' is neither a run's folder"),
        (["llama-3-8b", "--prefill-chunk", "1k,2k"], "--prefill-chunk .*more than one length"),
        (["llama-3-8b", "--contexts", "1-9000+1"], "too many; at most 2000 cells"),
    ],
)
def test_mistakes_in_predict(call, tmp_path, arguments, message):
    line = said(call("predict", *arguments, "--results", str(tmp_path)))
    assert re.search(message, line), line


@given(
    contexts=st.text("0123456789kM*+-, x", max_size=12),
    batch=st.text("0123456789,x- ", max_size=6),
    reserve=st.text("0123456789.%-", max_size=6),
)
@settings(max_examples=30, deadline=None)
def test_whatever_is_typed_gets_an_answer_or_one_line(call, contexts, batch, reserve):
    result = call(
        "predict", "tiny-gqa",
        f"--contexts={contexts}", f"--batch={batch}", f"--reserve={reserve}", "--json",
    )  # fmt: skip
    if result.exit_code:
        said(result)
    else:
        assert Predicted.model_validate_json(result.stdout).cells


def test_fit_starts_with_the_answer(call):
    result = call("fit", "--memory", "24GB", "--context", "32k")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Into 24 GB fit, with 32K tokens, up to llama-3.1-8b in bf16. ")
    (row,) = (line.split() for line in lines if line.startswith("llama-3-8b "))
    assert row == ["llama-3-8b", "8.03B", "39.7K*", "91.7K*", "117K*", "1", "2", "3"]
    text = " ".join(lines)
    assert "Do not fit in any of these types: falcon-180b," in text
    assert "Only with a shorter context: " in text


def test_fit_over_several_devices_and_models(call):
    result = call("fit", "--memory", "8x80GB", "--models", "llama-3-70b,falcon-7b", "--json")
    found = FitTable.model_validate_json(result.stdout)
    assert (found.devices, found.memory_bytes) == (8, 80 * 10**9)
    assert [row.model for row in found.rows] == ["llama-3-70b", "falcon-7b"]
    assert "71 heads" in found.rows[1].problem


def test_fit_with_a_device_shows_times(call):
    lines = call("fit", "--device", "H100", "--models", "llama-3-8b").stdout.splitlines()
    assert lines[0].startswith("Into H100 (80 GB) fit")
    assert any(line.split()[-2:] == ["4.8", "ms"] for line in lines)


def test_fit_that_fits_nothing_says_so(call):
    text = call("fit", "--memory", "100MB", "--models", "llama-3-8b").stdout
    assert text.startswith("None of 1 models fits 8K tokens into 0.1 GB.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say how much memory there is: --memory 24GB"),
        (["--memory", "24"], "--memory '24': '24' is not an amount of memory; write 8GiB or 500MB"),
        (["--memory", "8x"], "--memory '8x'"),
        (["--memory", "0x80GB"], "--memory 0x80GB: at least one device; write 8x80GB"),
        (["--memory", "8x80GB", "--tp", "2"], "says how many devices there are; leave --tp out"),
        (["--memory", "24GB", "--models", "nope"], "'nope' is not in the catalogue"),
        (["--memory", "24GB", "--models", ","], "--models is empty"),
        (["--memory", "24GB", "--weight-dtype", "int8,x"], "--weight-dtype 'x' is not known"),
        (["--memory", "24GB", "--context", "1k,2k"], "--context .*more than one length"),
        (
            ["--memory", "24GB", "--batch", "0"],
            "--batch 0: write a number greater than or equal to 1",
        ),
    ],
)
def test_mistakes_in_fit(call, arguments, message):
    line = said(call("fit", *arguments))
    assert re.search(message, line), line
