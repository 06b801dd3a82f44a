"""Paged decode in Triton against a float64 softmax over the same cache.

Pages that are not written hold NaN and pages past a window are -1, so that reading what must not
be read shows. The reference error is that of a softmax in float32 whose products take operands as
narrow as the tensor cores' are.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ctxsweep_kernels.paged_cache import PagedKV, bytes_per_token
from ctxsweep_kernels.paged_cache.reference import gather_row
from ctxsweep_kernels.paged_cache.storage import STORAGE_DTYPES
from ctxsweep_kernels.paged_decode import paged_decode_attention
from ctxsweep_kernels.paged_decode.plan import (
    WAVE_EFFICIENCY,
    plan_decode,
    product_dtypes,
    split_count,
)
from ctxsweep_kernels.paged_prefill.reference import paged_attention_reference
from ctxsweep_kernels.rope_append import rope_append
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.testing import (
    RAGGED_LENGTHS,
    assert_within,
    budget,
    poison,
    poisoned_cache,
    scattered_table,
)
from ctxsweep_kernels.testing.recurrences import poisoned_memory

SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 65},
    "sinks": {"window": 64, "sinks": 70},
    "alibi": {"alibi_slopes": SLOPES},
    "softcap": {"softcap": 2.0, "scale": 0.7},
    "negative": {"scale": -0.3},
    "all": {"window": 100, "sinks": 5, "alibi_slopes": SLOPES, "softcap": 3.0},
}
Where = tuple[PagedKV, torch.Tensor, torch.Tensor]


def filled(
    lengths: list[int],
    cache_dtype: torch.dtype,
    given: torch.dtype = torch.float32,
    kv_heads: int = 2,
    head_dim: int = 64,
    page_size: int = 64,
    spare: int = 0,
) -> Where:
    """A cache on the CPU, its table (`spare` columns of -1 at the end) and the rows' lengths."""
    pages = 2 + sum(-(-n // page_size) for n in lengths)
    cache = poisoned_cache(kv_heads, pages, page_size, head_dim, cache_dtype)
    table = scattered_table(lengths, page_size, pages, seed=sum(lengths))
    table = torch.nn.functional.pad(table, (0, spare), value=-1)
    generator = torch.Generator().manual_seed(sum(lengths) + head_dim)
    for row, length in enumerate(lengths):
        kv = torch.randn(2, 1, kv_heads, length, head_dim, generator=generator).to(given)
        where = cache, table[row : row + 1], torch.tensor([0])
        rope_append(kv[0], kv[0], kv[1], *where, impl="torch")
    return cache, table, torch.tensor(lengths)


def forget(where: Where, tokens: int, window: int, sinks: int = 0) -> None:
    """-1 for every page that neither the window nor the sinks reach."""
    cache, table, lengths = where
    for row, length in enumerate(lengths.tolist()):
        outside = torch.ones(table.shape[1], dtype=torch.bool)
        outside[: -(-sinks // cache.page_size)] = False
        outside[max(0, length - tokens - window + 1) // cache.page_size :] = False
        table[row, outside] = -1


def draw(batch: int, heads: int, tokens: int, dim: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(heads * tokens)
    return torch.randn(batch, heads, tokens, dim, generator=generator).to(dtype)


def narrow_reference(q: torch.Tensor, where: Where, **options: Any) -> torch.Tensor:
    """The softmax in float32, its matrix operands rounded as the tensor cores' are
    (queries exactly: the kernel scales bfloat16 ones by a power of 2 where it takes float16)."""
    cache, table, lengths = where
    _, pv = product_dtypes(q.dtype, cache.dtype)
    group, tokens = q.shape[1] // cache.kv_heads, q.shape[2]
    rule = make_rule(
        q,
        cache.kv_heads,
        window=options.get("window"),
        sinks=options.get("sinks", 0),
        scale=options.get("scale"),
        alibi_slopes=options.get("alibi_slopes"),
        softcap=options.get("softcap"),
    )
    rows = []
    for row, length in enumerate(lengths.tolist()):
        k, v = gather_row(cache, table[row], length, torch.float32)
        queries, keys = torch.arange(length - tokens, length), torch.arange(length)
        seen = rule.visible(queries, keys)
        k, v = k[:, None], v[:, None].nan_to_num()
        grouped = q[row].float().unflatten(0, (-1, group))
        scores = (grouped @ k.transpose(-1, -2)) * rule.scale
        if rule.softcap is not None:
            scores = rule.softcap * (scores / rule.softcap).tanh()
        alibi = rule.alibi(keys - queries[:, None])
        scores = scores if alibi is None else scores + alibi
        p = (scores.masked_fill(~seen, float("-inf"))).softmax(-1)
        # Rounded where the largest is 1, as in the kernel.
        largest = p.amax(-1, keepdim=True)
        out = ((p / largest).to(pv).float() @ v) * largest
        rows.append(out.flatten(0, 1))
    return torch.stack(rows).to(q.dtype)


def allowed(q: torch.Tensor, where: Where, **options: Any) -> tuple[torch.Tensor, float]:
    """The exact output, and what may be lost."""
    exact = paged_attention_reference(q, *where, **options)
    bound = budget(exact, narrow_reference(q, where, **options), q.dtype)
    # The interpreter truncates a bfloat16 instead of rounding it.
    return exact, bound * (2 if q.dtype == torch.bfloat16 else 1)


def on(device: torch.device, q: torch.Tensor, where: Where) -> tuple[torch.Tensor, Where]:
    cache, table, lengths = where
    scales = None if cache.scales is None else cache.scales.to(device)
    moved = PagedKV(cache.pages.to(device), scales)
    return q.to(device), (moved, table.to(device), lengths.to(device))


def check(device: torch.device, q: torch.Tensor, where: Where, **options: Any) -> torch.Tensor:
    exact, bound = allowed(q, where, **options)
    q, where = on(device, q, where)
    if "alibi_slopes" in options:
        options["alibi_slopes"] = options["alibi_slopes"].to(device)
    with poisoned_memory():
        out = paged_decode_attention(q, *where, impl="triton", **options)
    assert out.dtype == q.dtype
    assert_within(out.cpu(), exact, bound)
    return out


@pytest.mark.parametrize("cache_dtype", STORAGE_DTYPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(device: torch.device, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    where = filled([300], cache_dtype, dtype, spare=3)
    check(device, draw(1, 4, 1, 64, dtype), where)
    forget(where, 3, 100)
    check(device, draw(1, 4, 3, 64, dtype), where, window=100)


@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 0, 1000000])
@pytest.mark.parametrize("length", RAGGED_LENGTHS)
def test_lengths_and_windows(device: torch.device, length: int, window: int | None) -> None:
    window = length if window == 0 else window
    where = filled([length], torch.float16, torch.float16, kv_heads=1)
    if window is not None:
        forget(where, min(length, 2), window)
    check(device, draw(1, 2, min(length, 2), 64, torch.float16), where, window=window)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float8_e4m3fn, torch.int8], ids=str)
def test_options(device: torch.device, options: dict, cache_dtype: torch.dtype) -> None:
    dtype = torch.float32 if cache_dtype == torch.float32 else torch.bfloat16
    where = filled([500], cache_dtype, dtype)
    if "window" in options:
        forget(where, 4, options["window"], options.get("sinks", 0))
    check(device, draw(1, 4, 4, 64, dtype), where, **options)


@pytest.mark.parametrize("kv_heads, group", [(3, 1), (2, 4), (1, 5), (1, 16), (1, 71)])
@pytest.mark.parametrize(
    "page_size, head_dim", [(16, 96), (128, 128), (256, 64), (24, 8), (64, 256)]
)
def test_groups_pages_and_head_sizes(
    device: torch.device, kv_heads: int, group: int, page_size: int, head_dim: int
) -> None:
    where = filled([330], torch.float16, torch.float16, kv_heads, head_dim, page_size)
    q = draw(1, kv_heads * group, 1, head_dim, torch.float16)
    check(device, q, where)
    forget(where, 1, 100, 3)
    check(device, q, where, window=100, sinks=3)


@pytest.mark.parametrize("tokens", [1, 2, 5, 8])
def test_ragged_batch_is_its_rows(device: torch.device, tokens: int) -> None:
    where = filled([1000, 8, 64, 500], torch.float8_e4m3fn, torch.bfloat16)
    q = draw(4, 8, tokens, 64, torch.bfloat16)
    whole = check(device, q, where, window=300)
    for row in range(4):
        part = where[0], where[1][row : row + 1], where[2][row : row + 1]
        _, bound = allowed(q[row : row + 1], part, window=300)
        alone = check(device, q[row : row + 1], part, window=300)
        assert (whole[row].double() - alone[0].double()).abs().max() <= 2 * bound


def test_one_call_with_several_tokens_is_as_many_calls(device: torch.device) -> None:
    where = filled([500], torch.float16, torch.float16)
    q = draw(1, 4, 8, 64, torch.float16)
    _, bound = allowed(q, where, window=70, sinks=2)
    together = check(device, q, where, window=70, sinks=2)
    for t in range(8):
        part = where[0], where[1], torch.tensor([500 - 7 + t])
        alone = check(device, q[:, :, t : t + 1], part, window=70, sinks=2)
        assert (together[:, :, t : t + 1].double() - alone.double()).abs().max() <= 2 * bound


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("cache_dtype", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_every_architecture_has_the_same_result(
    device: torch.device, arch: str, cache_dtype: torch.dtype
) -> None:
    where = filled([260], cache_dtype, torch.bfloat16)
    q = draw(1, 4, 1, 64, torch.bfloat16)
    exact, bound = allowed(q, where)
    q, where = on(device, q, where)
    out = poison(torch.empty_like(q))
    rule = make_rule(q, 2, window=None, sinks=0, scale=None, alibi_slopes=None, softcap=None)
    for launch in plan_decode(q, *where, out, rule, arch):
        launch.run()
    assert_within(out.cpu(), exact, bound)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("side", [0, 1], ids=["key", "value"])
def test_a_stored_nan_shows_if_it_is_seen(device: torch.device, arch: str, side: int) -> None:
    if arch == "sm_90" and device.type == "cpu":
        pytest.skip("needs a CUDA device: the interpreter takes an e4m3 NaN for 480")
    cache, table, lengths = filled([200], torch.float8_e4m3fn, torch.bfloat16)
    hidden, seen = 100, 150
    for position in (hidden, seen):
        cache.pages[side, :, table[0, position // 64].long(), position % 64, 5] = float("nan")
    q, where = on(device, draw(1, 4, 1, 64, torch.bfloat16), (cache, table, lengths))
    for window, shows in ((60, True), (40, False)):
        out = torch.zeros_like(q)
        rule = make_rule(q, 2, window=window, sinks=0, scale=None, alibi_slopes=None, softcap=None)
        for launch in plan_decode(q, *where, out, rule, arch):
            launch.run()
        assert bool(out.isnan().any()) == shows


def test_queries_of_any_size(device: torch.device) -> None:
    where = filled([100], torch.float8_e5m2, torch.bfloat16)
    q = draw(1, 4, 1, 64, torch.bfloat16)
    for size in (1e30, 1e-30):
        scaled = q * size
        check(device, scaled, where, scale=0.125 / size)


@pytest.mark.parametrize("sms", [1, 132], ids=["whole", "split"])
@pytest.mark.parametrize("options", [{}, {"window": 700, "sinks": 3}], ids=["plain", "window"])
def test_a_row_without_keys_gets_zeros(device: torch.device, sms: int, options: dict) -> None:
    cache, table, lengths = filled([1000, 0], torch.float16, torch.float16)
    q = draw(2, 4, 2, 64, torch.float16)
    q, where = on(device, q, (cache, table, lengths))
    given = {"window": None, "sinks": 0, "scale": None, "alibi_slopes": None, "softcap": None}
    rule = make_rule(q, 2, **given | options)
    with poisoned_memory():
        out = poison(torch.empty_like(q))
        launches = plan_decode(q, *where, out, rule, "sm_90", sms)
        for launch in launches:
            launch.run()
    assert (launches[0].arguments["SPLITS"] == 1) == (sms == 1)
    assert (out[1] == 0).all() and out[0].isfinite().all()


def test_strided_arguments(device: torch.device) -> None:
    cache, table, lengths = filled([200, 100], torch.float16, torch.float16)
    q = draw(3, 2, 4, 128, torch.float16).permute(1, 2, 0, 3)[..., ::2]
    table, lengths = table.repeat_interleave(2, 1)[:, ::2], lengths.repeat_interleave(2)[::2]
    check(device, q, (cache, table, lengths))


def test_heads_that_triton_cannot_take_say_so(device: torch.device) -> None:
    where = filled([20], torch.float32, head_dim=7)
    q, where = on(device, draw(1, 2, 1, 7, torch.float32), where)
    with pytest.raises(ValueError, match=r"head size must divide by 8.*impl='torch'"):
        paged_decode_attention(q, *where, impl="triton")


@pytest.mark.parametrize("programs", [1, 8, 32, 64, 300])
@pytest.mark.parametrize("tiles", [1, 64, 512, 2048])
def test_splits_fill_the_multiprocessors(programs: int, tiles: int) -> None:
    splits = split_count(programs, tiles, 4, 264)
    assert 1 <= splits <= max(1, tiles // 4)
    if programs * tiles >= 264 * 64:
        waves = -(-programs * splits // 264)
        busy = programs * tiles / (waves * 264 * -(-tiles // splits))
        assert busy >= WAVE_EFFICIENCY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("batch", [1, 4, 32])
def test_partial_results_are_small(dtype: torch.dtype, batch: int) -> None:
    length, kv_heads, group, dim, page = 32768, 8, 4, 128, 64
    q = torch.empty(batch, kv_heads * group, 1, dim, dtype=torch.bfloat16, device="meta")
    cache = PagedKV.allocate(kv_heads, batch * length // page, page, dim, dtype, "meta")
    table = torch.empty(batch, length // page, dtype=torch.int32, device="meta")
    lengths = torch.empty(batch, dtype=torch.int64, device="meta")
    rule = make_rule(q, kv_heads, window=None, sinks=0, scale=None, alibi_slopes=None, softcap=None)
    launches = plan_decode(q, cache, table, lengths, torch.empty_like(q), rule, "sm_90")
    merged = 0
    if len(launches) == 2:
        merged = sum(launches[1].arguments[n].nbytes for n in ("partial_ptr", "lse_ptr"))
    cache_bytes = batch * length * bytes_per_token(kv_heads, dim, dtype)
    assert merged + table.nbytes <= 0.02 * cache_bytes
