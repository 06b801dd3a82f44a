"""``ctxsweep inspect`` as a person uses it: the answer first, files that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ctxsweep.cli import app
from ctxsweep.cli.errors import BadInput
from ctxsweep.cli.inspect_model import find_model
from ctxsweep.models import catalog
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.models.hf_write import NoFamily, hf_config
from ctxsweep.models.scaling_down import tiny

NAMES = catalog.names()
FAMILIES = ["llama-3.1-8b", "mistral-7b", "mixtral-8x7b", "qwen2.5-7b", "gpt2", "mamba-130m"]
FAMILIES += ["mamba2-2.7b", "gemma-2b", "falcon-40b", "phi-3-mini-4k", "bloom-176b", "starcoder"]


def inspect(*arguments: str | Path) -> Result:
    """Run the command in 80 columns; an exception that is no exit is an error of ours."""
    asked = ["inspect", *(str(one) for one in arguments)]
    result = CliRunner().invoke(app, asked, env={"COLUMNS": "80"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def refused(*arguments: str | Path) -> str:
    """What standard error says of bad input: one line, exit code 2."""
    result = inspect(*arguments)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("ctxsweep: ")
    return line


def has_family(name: str) -> bool:
    try:
        hf_config(catalog.load_config(name), "bfloat16")
    except NoFamily:
        return False
    return True


def a_config(found: str | Path) -> ModelConfig:
    config = find_model(str(found), ()).config
    assert isinstance(config, ModelConfig)
    return config


def same_shape(one: ModelConfig, other: ModelConfig) -> bool:
    apart = {"name", "source", "published", "family"}
    return one.model_dump(exclude=apart) == other.model_dump(exclude=apart)


@pytest.mark.parametrize("name", [*NAMES, *catalog.encoder_names()])
def test_every_model_is_shown_in_80_columns_with_the_answer_first(name: str) -> None:
    done = inspect(name)
    assert done.exit_code == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{name}: ")
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert "…" not in done.stdout  # nothing is cut off


def test_the_first_sentence_says_what_it_is() -> None:
    first = " ".join(inspect("llama-3-8b").stdout.split("\n\n")[0].split())
    assert first == (
        "llama-3-8b: decoder, 32 layers of 4096, GQA 32/8 heads of 128, RoPE θ=500000, SwiGLU "
        "14336, trained to 8K; 8.03 B parameters (published 8,030,261,248: equal)"
    )


def test_json_holds_the_same_figures() -> None:
    found = json.loads(inspect("llama-3-8b", "--json", "--contexts", "8k", "--batch", "2").stdout)
    assert found["parameters"] == 8_030_261_248
    assert found["lengths"][0]["cache_bytes"] == 2 << 30
    assert [part["name"] for part in found["parts"]][:2] == ["embedding", "attention"]
    assert json.loads(inspect("t5-base", "--json").stdout)["parameters"] == 222_903_552


def test_types_and_batch_are_options() -> None:
    narrow = inspect("llama-3-8b", "--kv-dtype", "fp8", "--dtype", "fp32", "--contexts", "128k")
    assert "Cache: 64 KiB a token" in narrow.stdout
    assert "29.9 GiB in float32" in narrow.stdout


@pytest.mark.parametrize("name", NAMES)
def test_yaml_says_the_whole_model(name: str, tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    assert inspect(name, "--yaml", file).exit_code == 0
    assert a_config(file) == catalog.load_config(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_config_json_is_read_back(name: str, tmp_path: Path) -> None:
    """From the file itself and from its folder."""
    file = tmp_path / "config.json"
    assert inspect(name, "--hf-config", file).exit_code == 0
    assert same_shape(a_config(file), a_config(tmp_path))
    again = a_config(file)
    assert sum(parameters(again).values()) == sum(parameters(catalog.load_config(name)).values())
    assert again.layer_mixers() == catalog.load_config(name).layer_mixers()
    assert inspect(file).stdout.startswith(f"{tmp_path.name}: ")


# Twins have heads narrower than these families allow: those are taken whole.
WHOLE = ["gpt2", "starcoder", "bloom-176b"]


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_loads_the_config_and_builds_as_many_parameters(
    name: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    scale = () if name in WHOLE else ("--scale", "tiny")
    assert not inspect(name, *scale, "--hf-config", tmp_path / "config.json").exit_code
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    ours = catalog.load_config(name) if name in WHOLE else tiny(catalog.load_config(name))
    assert sum(p.numel() for p in model.parameters()) == sum(parameters(ours).values())


@pytest.mark.parametrize("name", [name for name in NAMES if not has_family(name)])
def test_what_has_no_family_says_so(name: str, tmp_path: Path) -> None:
    assert name in refused(name, "--hf-config", tmp_path / "config.json")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_valid_gets_the_nearest(tmp_path: Path) -> None:
    wrong = ("llama-3-8b", "--set", "attention.kv_heads=7")
    done = inspect(*wrong)
    assert done.exit_code == 2 and not done.stdout
    assert (
        "attention.kv_heads: 7 → 8 (heads = 32 must be a multiple of kv_heads = 7)" in done.stderr
    )
    file = tmp_path / "mended.yaml"
    assert inspect(*wrong, "--fix", file).exit_code == 2
    attention = a_config(file).attention
    assert attention is not None and attention.kv_heads == 8
    assert inspect(file).exit_code == 0
    said = json.loads(inspect(*wrong, "--json").stdout)
    assert said["valid"] is False and said["nearest"]["attention"]["kv_heads"] == 8
    assert [change["key"] for change in said["changes"]] == ["attention.kv_heads"]


def test_a_config_json_is_mended_on_its_own_keys(tmp_path: Path) -> None:
    raw = hf_config(catalog.load_config("llama-3-8b"), "bfloat16") | {"num_key_value_heads": 7}
    file, mended = tmp_path / "config.json", tmp_path / "mended.json"
    file.write_text(json.dumps(raw))
    done = inspect(file, "--fix", mended)
    assert done.exit_code == 2
    assert "num_key_value_heads: 7 → 8" in done.stderr
    assert json.loads(mended.read_text()) == raw | {"num_key_value_heads": 8}
    assert inspect(mended).exit_code == 0


def test_yaml_may_say_what_it_is_like(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("like: llama-3-8b\nattention: {kv_heads: 1}\n")
    assert "MQA 32/1 heads" in inspect(file).stdout
    file.write_text("like: llama-3-8b\nattention: {kv_heads: 5}\n")
    assert "attention.kv_heads: 5 → 4" in inspect(file).stderr


@pytest.mark.parametrize(("scale", "low", "high"), [("2x", 1.9, 2.1), ("10×", 9.5, 10.5)])
def test_a_larger_model_of_the_same_make(scale: str, low: float, high: float) -> None:
    found = json.loads(inspect("llama-3-8b", "--scale", scale, "--json").stdout)
    assert low < found["parameters"] / 8_030_261_248 < high
    assert found["published"] is None


def test_the_twin_of_a_model_is_shown() -> None:
    assert "2 layers of 256" in inspect("llama-3-8b", "--scale", "tiny").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lama-3-8b"], "did you mean 'llama-3-8b'"),
        (["missing.json"], "missing.json: no such file"),
        (["missing.yaml"], "missing.yaml: no such file"),
        (["tiny-gqa", "--contexts", "8z"], "'8z' is not a context length"),
        (["tiny-gqa", "--dtype", "int4"], "--dtype 'int4' is not known"),
        (["tiny-gqa", "--kv-dtype", "int"], "--kv-dtype 'int' is not known"),
        (["tiny-gqa", "--scale", "huge"], "--scale 'huge'"),
        (["tiny-gqa", "--scale", "1x"], "--scale '1x'"),
        (["tiny-gpt", "--scale", "10x"], "no model near 10 times the size"),
        (["tiny-gqa", "--set", "heads"], "write key=value"),
        (["tiny-gqa", "--set", "vocab_size=[1]"], "vocab_size: must be a whole number"),
        (["tiny-gqa", "--fix", "out.yaml"], "is valid, there is nothing to mend"),
        (["tiny-gqa", "--yaml", "none/out.yaml"], "there is no folder none"),
        (["tiny-gqa", "--yaml", "-", "--hf-config", "-"], "give each its own"),
        (["bert-base", "--hf-config", "-"], "bert-base is not one"),
        (["bert-base", "--scale", "2x"], "bert-base is not one"),
        (["bert-base", "--set", "heads=3"], "bert-base is an encoder"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "", "is empty"),
        ("a.yaml", "[1]", "must be a mapping of keys such as 'mixer: attention'"),
        ("a.yaml", "a: [", "a.yaml:1: not valid YAML"),
        ("a.json", '{"model_type": "bert", "hidden_size": 768}', "key 'num_attention_heads'"),
        ("a.json", '{"model_type": "t5", "feed_forward_proj": "gated-gelu"}', "valid: relu"),
        ("a.yaml", "mixer: attention", "vocab_size: is missing"),
        ("a.yaml", "like: 3", "must be the name of a model"),
        ("a.yaml", "like: lama-3-8b", "did you mean 'llama-3-8b'"),
        ("a.json", "{", "cannot be read as JSON"),
        ("a.json", "[]", "must be an object with a model_type"),
        ("a.json", "{}", "model_type"),
        ("a.json", '{"model_type": "llama"}', "is missing"),
        ("a.json", '{"model_type": "lama"}', "'lama' is not built"),
    ],
)
def test_files_that_are_no_models_are_told_in_one_line(
    name: str, text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    assert words in refused(tmp_path / name)


KEYS = ["mixer", "attention", "hidden_size", "d_model", "num_heads", "vocab_size", "like", "x"]
KEYS += ["num_attention_heads", "num_hidden_layers", "n_embd", "rope_parameters", "layer_types"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9999) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(
    fields=st.dictionaries(st.sampled_from(KEYS), VALUES),
    family=st.sampled_from([None, "llama", "gpt2", "mamba2", "falcon", "bert", "t5", "jamba"]),
    suffix=st.sampled_from([".json", ".yaml"]),
)
def test_any_file_is_a_model_or_refused_in_words(
    fields: dict[str, Any], family: str | None, suffix: str, tmp_path_factory: Any
) -> None:
    file = tmp_path_factory.mktemp("m") / f"m{suffix}"
    file.write_text(json.dumps(fields | ({"model_type": family} if family else {})))
    try:
        find_model(str(file), ())
    except BadInput as error:
        assert "\n" not in str(error)


def test_an_encoders_config_json_is_the_encoder(tmp_path: Path) -> None:
    """As transformers writes it, with its own defaults: BERT-base is theirs."""
    transformers = pytest.importorskip("transformers")
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    assert "109 M parameters" in inspect(tmp_path / "bert").stdout
    shape = {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "d_kv": 64}
    shape["n_positions"] = 512
    transformers.T5Config(**shape).save_pretrained(tmp_path / "t5")
    found = json.loads(inspect(tmp_path / "t5" / "config.json", "--json").stdout)
    known = json.loads(inspect("t5-base", "--json").stdout)
    assert {**found, "name": "", "source": "", "published": None} == (
        {**known, "name": "", "source": "", "published": None}
    )
    assert "is an encoder" in refused(tmp_path / "bert", "--set", "heads=3")


def test_a_fix_goes_to_yaml_or_json_only(tmp_path: Path) -> None:
    wrong = ("tiny-gqa", "--set", "attention.kv_heads=3", "--fix")
    assert "write FILE.yaml" in refused(*wrong, tmp_path / "out.txt")
    assert inspect(*wrong, tmp_path / "out.json").exit_code == 2
    attention = a_config(tmp_path / "out.json").attention
    assert attention is not None and attention.kv_heads == 4


def test_the_yaml_is_plain() -> None:
    fields = yaml.safe_load(inspect("mistral-7b", "--yaml", "-").stdout)
    assert fields["attention"]["window"] == 4096
    assert "mamba" not in fields
