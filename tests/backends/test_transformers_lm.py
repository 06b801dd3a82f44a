"""transformers' models: right where they run, and every trap of theirs refused with its reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import Backend, InvalidSeries, Limits, Unsupported
from ctxsweep.backends.native import NativeBackend
from ctxsweep.backends.transformers_lm import cache as transformers_cache
from ctxsweep.backends.transformers_lm.backend import TransformersBackend
from ctxsweep.backends.transformers_lm.config import WHOLE_ONLY
from ctxsweep.records import RopeScaling, Series

transformers = pytest.importorskip("transformers", reason="needs transformers")

PROMPT, CHUNK, WINDOW = 72, 16, 20
YARN = RopeScaling(rope_type="yarn", factor=4, original_max_position_embeddings=64)
WIDTHS = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}
MAMBA2 = {"mamba_d_state": 16, "mamba_n_heads": 8, "mamba_d_head": 16}
DELTA = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "moe_intermediate_size": 32,
}
ZAMBA2 = {
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    "mamba_d_state": 16,
    "mamba_headdim": 16,
    "n_mamba_heads": 8,
    "mamba_ngroups": 1,
    "num_mem_blocks": 1,
}
BUILT = ("llama", "qwen2", "phi3", "bloom")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
# model_type -> what makes it small; each kind of cache that theirs have
FAMILIES: dict[str, dict[str, Any]] = {
    "gemma3_text": {"head_dim": 16, "num_hidden_layers": 6, "sliding_window": WINDOW},
    "gpt_oss": {"head_dim": 16, "sliding_window": WINDOW, "num_local_experts": 4},
    "deepseek_v3": LATENT,
    "bloom": {"n_layer": 2, "n_head": 4},
    "llama": {"rope_parameters": LLAMA3},
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 128},
    "bamba": {**MAMBA2, "mamba_n_groups": 1, "attn_layer_indices": [1]},
    "zamba2": ZAMBA2,
    "qwen3_5_text": DELTA,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "minimax": {
        "num_local_experts": 4,
        "layer_types": ["linear_attention", "full_attention"],
        "block_size": 16,
    },
    "xlstm": {"num_heads": 4, "num_blocks": 2, "qk_dim_factor": 1.0, "v_dim_factor": 1.0},
}
MAMBA1: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "jamba": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
    },
    "zamba": {
        "num_hidden_layers": 6,
        "num_key_value_heads": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
    },
}
OURS: tuple[tuple[Any, dict[str, Any]], ...] = (
    ("tiny-gqa", {}),
    ("tiny-mqa", {}),
    ("tiny-moe", {"window": WINDOW}),
    ("tiny-swa", {"window": WINDOW}),
    ("tiny-mamba1", {"prefill_chunk": "whole"}),
    ("tiny-mamba2", {}),
    ("tiny-hybrid", {}),
)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXSWEEP_CACHE", str(tmp_path_factory.mktemp("checkpoints")))
        yield


def series(model: Any, **settings: Any) -> Series:
    return Series(
        name="x", backend="transformers", model=model, **{"prefill_chunk": CHUNK, **settings}
    )


def theirs(family: str, **more: Any) -> dict[str, Any]:
    return {**WIDTHS, "model_type": family, **(FAMILIES | MAMBA1).get(family, {}), **more}


def load(model: Any, batch: int = 1, room: int = 128, **settings: Any) -> TransformersBackend:
    one = series(model, **settings)
    return TransformersBackend.load(one, Limits(room, batch, "cpu", threads=1, seed=4))


def prompt(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 512, (batch, PROMPT))


def feed(backend: Backend, tokens: np.ndarray, each: int = CHUNK) -> None:
    for start in range(0, tokens.shape[1], each):
        backend.prefill(tokens[:, start : start + each])


def logits_of_decoding(backend: Backend, steps: int = 4) -> np.ndarray:
    """``[steps, B, V]``: after the prompt and after each token but the last."""
    seen = []
    for _ in range(steps):
        seen.append(backend.logits())
        backend.decode()
    return np.stack(seen)


@pytest.mark.parametrize(("model", "settings"), OURS, ids=lambda value: str(value))
def test_with_the_same_weights_it_is_the_native_model(model: Any, settings: dict[str, Any]) -> None:
    backend = load(model, batch=2, **settings)
    one = Series(name="x", model=model, **{k: v for k, v in settings.items() if k == "window"})
    native = NativeBackend.load(one, Limits(128, 2, "cpu", threads=1, seed=4))
    feed(backend, prompt(2), PROMPT if settings.get("prefill_chunk") == "whole" else CHUNK)
    native.prefill(prompt(2))
    assert backend.engine()["weights"] == native.engine()["weights"]
    ours, wanted = logits_of_decoding(backend), logits_of_decoding(native)
    assert np.abs(ours - wanted).max() <= 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_and_steps_give_what_one_call_without_a_cache_gives(family: str) -> None:
    chunk = "recurrent" if family in WHOLE_ONLY else CHUNK
    backend = load(theirs(family), batch=2, prefill_chunk=chunk)
    feed(backend, prompt(2))
    tokens, wanted = [prompt(2)], []
    mark = backend.snapshot()
    for _ in range(3):
        tokens.append(np.array(backend.engine()["next_tokens"])[:, None])
        backend.decode()
    with torch.inference_mode():
        context = torch.from_numpy(np.concatenate(tokens, axis=1))
        wanted = backend._model(context, use_cache=False).logits[:, -4:].numpy()
    assert np.abs(backend.logits() - wanted[:, -1]).max() <= 1e-4
    backend.restore(mark)
    again = logits_of_decoding(backend)
    assert np.abs(again.swapaxes(0, 1) - wanted).max() <= 1e-4
    assert (backend.cost(PROMPT) is None) == (family not in BUILT)  # native models know the formula


@pytest.mark.parametrize("family", MAMBA1)
def test_mamba_1_still_forgets_in_calls_of_many_tokens(family: str) -> None:
    """The trap that the refusal stands for: when this fails, it can be lifted."""
    assert family in WHOLE_ONLY
    folder = checkpoints.model_folder(series(theirs(family)), seed=4)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    name = "past_key_values" if family in ("jamba", "zamba") else "cache_params"

    def state(each: int) -> torch.Tensor:
        held = None
        for part in torch.from_numpy(prompt())[:, :16].split(each, dim=1):
            out = model(part, use_cache=True, **{name: held})
            held = getattr(out, name)
        return held.layers[0].recurrent_states[0]

    with torch.inference_mode():
        whole, pairs, steps = state(16), state(2), state(1)
    assert (steps - whole).abs().max() <= 1e-4 * whole.abs().max()
    assert (pairs - whole).abs().max() > 0.05 * whole.abs().max()


def test_minimax_still_masks_parts_wrong() -> None:
    """As above: its caches are not refused, its calls of many tokens are."""
    backend = load(theirs("minimax"), prefill_chunk="whole")
    context = torch.from_numpy(prompt())
    with torch.inference_mode():
        first = backend._model(context[:, :40], use_cache=True)
        positions = torch.arange(40, PROMPT)[None]
        both = {"past_key_values": first.past_key_values, "position_ids": positions}
        parts = backend._model(context[:, 40:], use_cache=True, **both).logits[0, -1]
        whole = backend._model(context, use_cache=False).logits[0, -1]
    assert (parts - whole).abs().max() > 1e-3


@pytest.mark.parametrize("family", [*MAMBA1, "minimax"])
def test_those_run_whole_and_token_by_token(family: str) -> None:
    with pytest.raises(InvalidSeries, match="whole") as caught:
        TransformersBackend.check(series(theirs(family)))
    assert caught.value.key == "prefill_chunk"
    whole = load(theirs(family), prefill_chunk="whole")
    assert not whole.capabilities.chunked_prefill and not whole.capabilities.snapshot
    whole.prefill(prompt())
    with pytest.raises(InvalidSeries, match=rf"2 tokens after {PROMPT}\b"):
        whole.prefill(prompt()[:, :2])
    single = load(theirs(family), prefill_chunk="recurrent")
    assert single.capabilities.chunked_prefill and single.capabilities.snapshot
    feed(single, prompt())
    assert np.abs(logits_of_decoding(whole) - logits_of_decoding(single)).max() <= 1e-4


@pytest.mark.parametrize(("model", "settings"), OURS, ids=lambda value: str(value))
def test_the_formula_holds_in_bfloat16(model: Any, settings: dict[str, Any]) -> None:
    backend = load(model, batch=2, dtype="bfloat16", **settings)
    sizes = (PROMPT,) if settings.get("prefill_chunk") == "whole" else (1, 18, 1, 52)
    length = 0
    for tokens in sizes:
        backend.prefill(prompt(2)[:, length : length + tokens])
        length += tokens
        assert backend.memory().cache_used_bytes == backend.cost(length).cache_bytes
    backend.decode()
    held = backend.memory()
    assert (
        held.cache_used_bytes == backend.cost(length + 1).cache_bytes <= held.cache_reserved_bytes
    )


def test_a_mark_holds_no_keys_that_the_cache_holds_too() -> None:
    backend = load("tiny-gqa")
    feed(backend, prompt())
    held, *_ = backend.snapshot()
    assert transformers_cache.held_bytes(held.cache) == (0, 0)
    before = backend.memory()
    for _ in range(5):
        backend.decode()
    backend.restore(backend._newest)
    assert backend.memory() == before


def test_what_a_window_layer_holds_beyond_its_window_is_reserved() -> None:
    backend = load("tiny-swa", window=WINDOW)
    feed(backend, prompt())
    held = backend.memory()
    token = 2 * 2 * 2 * 32 * 4  # layers, keys and values, heads, head_dim, float32
    assert held.cache_used_bytes == (WINDOW - 1) * token
    assert held.cache_reserved_bytes == (WINDOW - 1 + PROMPT % CHUNK) * token


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_the_one_asked_for(attention: str) -> None:
    backend = load("tiny-gqa", options={"attn_implementation": attention})
    feed(backend, prompt())
    assert backend.engine()["attn_implementation"] == attention
    reference = load("tiny-gqa")
    feed(reference, prompt())
    assert np.abs(backend.logits() - reference.logits()).max() <= 1e-4


def test_rotary_positions_are_stretched_as_the_papers_say() -> None:
    plain = load("tiny-gqa")._model.model.rotary_emb.inv_freq
    linear = RopeScaling(rope_type="linear", factor=4)
    stretched = load("tiny-gqa", rope=linear)._model.model.rotary_emb.inv_freq
    assert torch.allclose(stretched, plain / 4)
    yarn = load("tiny-gqa", rope=YARN)
    by_yarn = yarn._model.model.rotary_emb.inv_freq
    assert torch.allclose(by_yarn[0], plain[0])  # turns often within 64 tokens: as it was
    assert torch.allclose(by_yarn[-1], plain[-1] / 4)  # less than once: interpolated
    feed(yarn, prompt())
    whole = load("tiny-gqa", rope=YARN, prefill_chunk="whole")
    whole.prefill(prompt())
    assert np.abs(yarn.logits() - whole.logits()).max() <= 1e-4
    unstretched = load("tiny-gqa")
    feed(unstretched, prompt())
    assert np.abs(yarn.logits() - unstretched.logits()).max() > 1e-3


AIMED = {"factor": "auto", "target_tokens": 128}


@pytest.mark.parametrize("kind", ["linear", "ntk", "ntk_by_parts", "yarn", "llama3"])
def test_the_trained_length_is_the_models_own_as_in_native(kind: str) -> None:
    """Our folders allow contexts without end; the trained length is written beside that."""
    model = {"like": "tiny-gqa", "trained_context": 32}
    rope = RopeScaling(rope_type=kind, **AIMED)
    backend = load(model, rope=rope)
    one = Series(name="x", model=model, rope=rope)
    native = NativeBackend.load(one, Limits(128, 1, "cpu", threads=1, seed=4))
    feed(backend, prompt())
    native.prefill(prompt())
    assert np.abs(backend.logits() - native.logits()).max() <= 1e-4
    named = RopeScaling(rope_type=kind, factor=4, original_max_position_embeddings=64)
    other = load(model, rope=named)
    feed(other, prompt())
    if kind not in ("linear", "ntk"):  # a length that the series names counts before the model's
        assert np.abs(backend.logits() - other.logits()).max() > 1e-3


def test_a_window_is_laid_over_their_families_that_have_one() -> None:
    model = theirs("starcoder2")
    narrow, wide = load(model, window=WINDOW), load(model)
    for backend in (narrow, wide):
        feed(backend, prompt())
    assert narrow.memory().cache_used_bytes * PROMPT == wide.memory().cache_used_bytes * (
        WINDOW - 1
    )
    config = transformers.AutoConfig.for_model(**model, sliding_window=WINDOW)
    reference = transformers.AutoModelForCausalLM.from_config(config).eval()
    reference.load_state_dict(wide._model.state_dict())
    with torch.inference_mode():
        wanted = reference(torch.from_numpy(prompt()), use_cache=False).logits[:, -1].numpy()
    assert np.abs(narrow.logits() - wanted).max() <= 1e-4
    assert np.abs(wide.logits() - wanted).max() > 1e-3


REFUSED: tuple[tuple[Any, dict[str, Any], str, str], ...] = (
    ("tiny-mamba1", {}, "prefill_chunk", "whole"),
    ("tiny-gqa", {"kv_dtype": "fp8_e4m3"}, "kv_dtype", "auto"),
    ("tiny-swa", {"window": 1}, "window", "2"),
    ("tiny-mamba2", {"rope": YARN}, "rope", "no rotary"),
    ("tiny-gqa", {"rope": RopeScaling(rope_type="dynamic", factor=2)}, "rope.rope_type", "yarn"),
    (
        {
            "like": "tiny-gqa",
            "trained_context": 64,
            "attention": {"rope": {"rope_type": "dynamic", "factor": 2.0}},
        },
        {},
        "model",
        "dynamic",
    ),
    ("tiny-gqa", {"rope": RopeScaling(rope_type="yarn", factor=2)}, "rope.original", "needs"),
    (
        "tiny-gqa",
        {"rope": RopeScaling(rope_type="linear", factor=2, beta_fast=8)},
        "rope.beta_fast",
        "no such",
    ),
    ("tiny-gqa", {"options": {"cache": "static"}}, "options", "attn_implementation"),
    ("tiny-gqa", {"options": {"attn_implementation": "x"}}, "options.attn", "sdpa"),
    ("tiny-rwkv7", {}, "model", "rwkv7"),
)


@pytest.mark.parametrize(("model", "settings", "key", "says"), REFUSED, ids=str)
def test_settings_that_cannot_run_are_refused_before_loading(
    model: Any, settings: dict[str, Any], key: str, says: str
) -> None:
    with pytest.raises(InvalidSeries, match=says) as caught:
        TransformersBackend.check(series(model, **settings))
    assert caught.value.key.startswith(key)


REFUSED_AT_LOAD: tuple[tuple[dict[str, Any], dict[str, Any], str, str], ...] = (
    (theirs("olmo2"), {"window": WINDOW}, "window", "no sliding window"),
    (theirs("qwen3"), {"window": WINDOW}, "window", "no sliding window"),
    (theirs("gemma3_text"), {"rope": YARN}, "rope", "one kind"),
    (theirs("gpt_oss"), {"options": {"attn_implementation": "sdpa"}}, "options.attn", "eager"),
    (theirs("lama"), {}, "model", "llama"),
)


@pytest.mark.parametrize(("model", "settings", "key", "says"), REFUSED_AT_LOAD, ids=str)
def test_what_only_transformers_knows_is_refused_at_load(
    model: Any, settings: dict[str, Any], key: str, says: str
) -> None:
    with pytest.raises(InvalidSeries, match=says) as caught:
        load(model, **settings)
    assert caught.value.key.startswith(key)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (theirs("rwkv", attention_hidden_size=64), "keeps its state"),
        (theirs("recurrent_gemma", num_hidden_layers=3, lru_width=64, head_dim=16), "keeps its"),
        (
            theirs("opt", ffn_dim=128, word_embed_proj_dim=64, max_position_embeddings=100),
            "100 learned positions, fewer than 128",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value["model_type"],
)
def test_a_family_that_cannot_be_measured_says_why(model: dict[str, Any], says: str) -> None:
    with pytest.raises(Unsupported, match=says) as caught:
        load(model)
    assert caught.value.remedy


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    one = series("tiny-mqa")
    written = checkpoints.model_folder(one, seed=4)
    backend, again = load("tiny-mqa"), load(str(written))
    for each in (backend, again):
        feed(each, prompt())
    assert np.array_equal(backend.logits(), again.logits())
    assert again.engine()["weights"] == str(written)
    with pytest.raises(InvalidSeries, match="no sliding window"):
        TransformersBackend.check(series(str(written), window=8))
    part = load_file(written / "model.safetensors")
    del part["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "config.json").write_text((written / "config.json").read_text())
    with pytest.raises(InvalidSeries, match=r"model\.safetensors"):
        load(str(tmp_path))
    save_file(part, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidSeries, match=r"1 tensors, such as model\.layers\.1\.mlp\.up_proj"):
        load(str(tmp_path))


STUB = """
def selective_scan_fn(*args, **kwargs):
    raise RuntimeError("a GPU kernel was called on a CPU")
"""
SHADOWED = """
import numpy as np
from ctxsweep.backends.base import Limits
from ctxsweep.backends.transformers_lm.backend import TransformersBackend
from ctxsweep.records import Series

one = Series(name="x", backend="transformers", model="tiny-mamba1", prefill_chunk="whole")
backend = TransformersBackend.load(one, Limits(32, 1, "cpu", threads=1, seed=0))
backend.prefill(np.arange(16)[None])
backend.decode()
print(backend.engine()["kernel_packages"])
import torch, transformers
config = transformers.FalconMambaConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=8
)
model = transformers.FalconMambaForCausalLM(config).eval()
try:
    model(torch.arange(16)[None])
    print("ran")
except RuntimeError as error:
    print(error)
"""


def test_kernels_of_an_installed_mamba_ssm_stay_out_of_a_cpu(tmp_path: Path) -> None:
    """The second half is the trap: without the backend, transformers calls them on a CPU."""
    interface = tmp_path / "mamba_ssm" / "ops" / "selective_scan_interface.py"
    interface.parent.mkdir(parents=True)
    interface.write_text(STUB)
    (tmp_path / "mamba_ssm" / "__init__.py").write_text(
        "from mamba_ssm.ops import selective_scan_interface\n"
    )
    (tmp_path / "mamba_ssm" / "ops" / "__init__.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{SHADOWED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["[]", "a GPU kernel was called on a CPU"], done.stderr
