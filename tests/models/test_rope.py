"""Stretched rotary positions: against transformers, by hand, and what must hold for all of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ctxsweep.models import rope
from ctxsweep.models.rope import RULES, BadRope, Plain, resolve, turning, yarn_ramp
from ctxsweep.models.rope_words import read_rope, transformers_words, write_rope
from ctxsweep.records import RopeScaling

CONFIGS = 200
THEIRS = ("linear", "dynamic", "yarn", "longrope", "llama3")
TRAINED = 4096
HEAD = Plain(64, 10000.0)


def scaling(
    kind: str, factor: float = 4.0, trained: int | None = TRAINED, **more: Any
) -> RopeScaling:
    if kind == "longrope" and "short_factor" not in more:
        more |= {"short_factor": (1.0,) * 32, "long_factor": tuple(np.linspace(1, 8, 32))}
    return RopeScaling(
        rope_type=kind, factor=factor, original_max_position_embeddings=trained, **more
    )


def random_case(seed: int) -> tuple[RopeScaling, Plain, int, int]:
    """A scaling of a type that transformers has, head dim, and a length."""
    rng = np.random.default_rng(seed)
    kind = THEIRS[seed % len(THEIRS)]
    head_dim = int(rng.choice([32, 64, 80, 96, 128, 256]))
    partial = float(rng.choice([1.0, 1.0, 0.5, 0.25]))
    plain = Plain(int(head_dim * partial), float(rng.choice([1e4, 1e5, 5e5, 1e6])), head_dim)
    trained = int(2 ** rng.uniform(8, 15))
    more: dict[str, Any] = {}
    if kind == "longrope":
        pairs = plain.rotary_dim // 2
        more = {
            k: tuple(rng.uniform(1, 30, pairs).tolist()) for k in ("short_factor", "long_factor")
        }
    if kind == "llama3":
        low = rng.uniform(0.5, 3)
        more = {"low_freq_factor": low, "high_freq_factor": low + rng.uniform(0.5, 8)}
    if kind == "yarn":
        more = {"beta_fast": rng.uniform(8, 64), "beta_slow": rng.uniform(0.5, 4)}
        more |= {"truncate": False} if rng.random() < 0.5 else {}
        more |= {"mscale": 0.8, "mscale_all_dim": 1.2} if rng.random() < 0.3 else {}
    if kind in ("yarn", "longrope") and rng.random() < 0.3:
        more["attention_factor"] = float(rng.uniform(0.8, 1.5))
    one = scaling(kind, float(rng.uniform(1, 40)), trained, **more)
    return one, plain, head_dim, int(trained * rng.uniform(0.5, 8))


@pytest.mark.parametrize("seed", range(CONFIGS))
def test_frequencies_are_those_of_transformers(seed: int) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    one, plain, head_dim, length = random_case(seed)
    written = write_rope(one, plain, one.original_max_position_embeddings)
    config = transformers.LlamaConfig(
        head_dim=head_dim, hidden_size=head_dim * 2, num_attention_heads=2, **written
    )
    theirs, factor = ROPE_INIT_FUNCTIONS[one.rope_type](config, device="cpu", seq_len=length)
    ours = turning(one, plain, None, length)
    assert np.abs(ours.inv_freq - theirs.double().numpy()).max() <= 1e-6
    assert ours.attention_factor == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize("seed", range(0, CONFIGS, 7))
def test_what_is_written_is_read_back(seed: int) -> None:
    one, plain, head_dim, _ = random_case(seed)
    trained = one.original_max_position_embeddings
    fields, read_trained = read_rope(write_rope(one, plain, 4 * trained), head_dim, 1.0)
    # A llama3 file's own length is that of the training with the scaling.
    assert read_trained == (4 * trained if one.rope_type == "llama3" else trained)
    again = resolve(fields["rope"], trained)
    back = Plain(fields.get("rotary_dim", head_dim), fields["rope_theta"])
    for length in (trained // 2, trained * 3):
        wanted, got = turning(one, plain, None, length), turning(again, back, None, length)
        assert np.allclose(wanted.inv_freq, got.inv_freq, rtol=1e-12)
        assert wanted.attention_factor == pytest.approx(got.attention_factor)


def test_ntk_aware_by_hand() -> None:
    # d = 4, θ = 10000, s = 4: base 10000 · 4^(4/2) = 160000, so f = (1, 160000^(−1/2)) = (1, 1/400)
    found = turning(scaling("ntk", 4.0), Plain(4, 10000.0), TRAINED, 1)
    assert found.inv_freq == pytest.approx([1.0, 0.0025])
    assert found.attention_factor == 1.0
    # The slowest pair turns exactly s times slower, whatever d is.
    slowest = turning(scaling("ntk", 4.0), HEAD, TRAINED, 1).inv_freq[-1]
    assert slowest == pytest.approx(HEAD.inv_freq[-1] / 4)


def test_by_parts_by_hand() -> None:
    # d = 8, θ = 10000, L0 = 4096: pair i turns 4096 · 10000^(−i/4) / 2π times = 652, 65, 6.5, 0.65.
    # 32 turns lie at pair 1.309, 1 turn at 2.814: bounds 1 and 3, so the ramp is 0, 0, 1/2, 1.
    plain = Plain(8, 10000.0)
    assert yarn_ramp(scaling("yarn"), plain) == pytest.approx([0, 0, 0.5, 1])
    found = turning(scaling("ntk_by_parts", 4.0), plain, TRAINED, 1)
    assert found.inv_freq == pytest.approx([1.0, 0.1, 0.01 * (0.5 + 0.5 / 4), 0.001 / 4])
    assert found.attention_factor == 1.0
    # YaRN turns the same and sharpens attention: 0.1 · ln 4 + 1 = 1.138629…
    yarn = turning(scaling("yarn", 4.0), plain, TRAINED, 1)
    assert yarn.inv_freq == pytest.approx(found.inv_freq)
    assert yarn.attention_factor == pytest.approx(1.1386294361)


def test_dynamic_is_ntk_at_the_length() -> None:
    # s = 2 at L = 2·L0: 2·2 − 1 = 3.
    at_twice = turning(scaling("dynamic", 2.0), HEAD, TRAINED, 2 * TRAINED)
    assert at_twice.inv_freq == pytest.approx(
        turning(scaling("ntk", 3.0), HEAD, TRAINED, 1).inv_freq
    )
    within = turning(scaling("dynamic", 2.0), HEAD, TRAINED, TRAINED - 1)
    assert within.inv_freq == pytest.approx(HEAD.inv_freq)


kinds = st.sampled_from(sorted(RULES))
plains = st.builds(
    Plain, st.sampled_from([8, 32, 64, 80, 128]), st.sampled_from([1e4, 1e5, 5e5, 1e6])
)
lengths = st.integers(256, 1 << 20)


def of(kind: str, plain: Plain, factor: float, trained: int) -> RopeScaling:
    more = {}
    if kind == "longrope":
        ones = (1.0,) * (plain.rotary_dim // 2)
        more = {"short_factor": ones, "long_factor": ones}
    return scaling(kind, factor, trained, **more)


@given(kinds, plains, lengths)
def test_a_factor_of_1_changes_nothing(kind: str, plain: Plain, trained: int) -> None:
    found = turning(of(kind, plain, 1.0, trained), plain, None, trained)
    assert found.inv_freq == pytest.approx(plain.inv_freq, rel=1e-12)
    assert found.attention_factor == 1.0


@given(kinds, plains, st.floats(1, 64), lengths, st.floats(0.1, 64))
def test_wavelengths_grow_with_the_pair_and_never_shrink(
    kind: str, plain: Plain, factor: float, trained: int, times: float
) -> None:
    found = turning(of(kind, plain, factor, trained), plain, None, int(trained * times))
    assert (np.diff(found.inv_freq) < 0).all()
    assert (found.inv_freq <= plain.inv_freq * (1 + 1e-12)).all()
    if kind not in ("dynamic", "longrope"):
        assert (found.inv_freq >= plain.inv_freq / factor * (1 - 1e-12)).all()


@given(plains, lengths, st.booleans())
def test_the_ramp_is_continuous_and_monotone(plain: Plain, trained: int, truncate: bool) -> None:
    one = scaling("yarn", 4.0, trained, truncate=truncate)
    ramp = yarn_ramp(one, plain)
    assert (ramp >= 0).all() and (ramp <= 1).all() and (np.diff(ramp) >= 0).all()
    # No step is steeper than the line between the pairs that turn 32 times and once.
    width = plain.rotary_dim * math.log(32) / (2 * math.log(plain.theta))
    assert np.diff(ramp).max(initial=0) <= 1 / width + 1e-9


@given(plains, st.floats(1, 32), st.floats(1e-6, 1e-3))
def test_a_little_more_factor_is_a_little_more_stretching(
    plain: Plain, factor: float, more: float
) -> None:
    assume(factor * (1 + more) <= 64)
    for kind in ("linear", "ntk", "ntk_by_parts", "yarn", "llama3"):
        first = turning(of(kind, plain, factor, TRAINED), plain, None, 1)
        then = turning(of(kind, plain, factor * (1 + more), TRAINED), plain, None, 1)
        assert np.abs(first.inv_freq / then.inv_freq - 1).max() <= 2 * more
        assert then.attention_factor >= first.attention_factor


@settings(max_examples=20)
@given(st.integers(1, 1 << 20))
def test_auto_is_the_target_over_the_trained_context(target: int) -> None:
    one = RopeScaling(rope_type="yarn", factor="auto", target_tokens=target)
    assert resolve(one, TRAINED).factor == max(1.0, target / TRAINED)


@pytest.mark.parametrize(
    ("one", "trained", "key"),
    [
        (RopeScaling(rope_type="yarn", factor=2), None, "original_max_position_embeddings"),
        (RopeScaling(rope_type="linear", factor="auto", target_tokens=8), None, "original_max"),
        (RopeScaling(rope_type="linear", factor="auto"), 8, "target_tokens"),
        (RopeScaling(rope_type="linear", factor=2, beta_fast=2), 8, "beta_fast"),
        (scaling("yarn", beta_fast=1.0, beta_slow=32.0), 8, "beta_fast"),
        (RopeScaling(rope_type="linear", factor=2, target_tokens=8), 8, "target_tokens"),
        (scaling("llama3", low_freq_factor=4.0), 8, "low_freq_factor"),
        (scaling("longrope", short_factor=(1.0,), long_factor=(1.0,) * 32), 8, "short_factor"),
    ],
)
def test_what_cannot_be_is_named(one: RopeScaling, trained: int | None, key: str) -> None:
    with pytest.raises(BadRope) as caught:
        turning(one, HEAD, trained, 16)
    assert caught.value.key.startswith(key)


def test_plain_positions_need_nothing() -> None:
    assert turning(None, HEAD, None, 1).inv_freq == pytest.approx(HEAD.inv_freq)
    assert not rope.depends_on_length(None)


@pytest.mark.parametrize("kind", ["ntk", "ntk_by_parts"])
def test_what_transformers_lacks_is_written_in_its_words(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    words = transformers_words(scaling(kind), HEAD)
    config = transformers.LlamaConfig(
        head_dim=64, hidden_size=128, num_attention_heads=2, rope_parameters=words
    )
    theirs = LlamaRotaryEmbedding(config)
    ours = turning(scaling(kind), HEAD, None, 1)
    assert np.abs(ours.inv_freq - theirs.inv_freq.double().numpy()).max() <= 1e-6
    assert theirs.attention_scaling == ours.attention_factor
