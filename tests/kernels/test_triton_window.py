"""The Triton path of sliding_window_attention against a dense float64 softmax, and its tiles."""

from __future__ import annotations

import pytest
import torch

from ctxsweep_kernels.dispatch import UnsupportedImplementation, interpreting
from ctxsweep_kernels.score_rule import make_rule
from ctxsweep_kernels.sliding_window import sliding_window_attention
from ctxsweep_kernels.sliding_window.plan import plan_window, tiles_visited
from ctxsweep_kernels.sliding_window.reference import (
    attention_reference,
    ragged_reference,
    rounded_weights_reference,
)
from ctxsweep_kernels.sliding_window.stretches import key_stretches
from ctxsweep_kernels.testing import RAGGED_LENGTHS, assert_within, budget, rounding_band
from ctxsweep_kernels.testing.recurrences import poisoned_memory, spread

# A soft cap saturates through exp2; rows past the end are 0 / 0, and are not stored.
pytestmark = pytest.mark.filterwarnings(
    "ignore:(overflow|invalid value) encountered", "ignore:All-NaN slice"
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SLOPES = torch.tensor([0.5, 0.01])
OPTIONS = {
    "plain": {},
    "sinks": {"sinks": 5},
    "alibi": {"alibi_slopes": SLOPES},
    "softcap": {"softcap": 2.0, "scale": 0.7},
    "all": {"sinks": 150, "alibi_slopes": SLOPES, "softcap": 3.0},
}


def inputs(
    length: int,
    dtype: torch.dtype,
    heads: int = 2,
    kv_heads: int = 1,
    batch: int = 1,
    dim: int = 64,
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    return tuple(
        torch.randn(batch, h, length, dim, generator=generator).to(dtype)
        for h in (heads, kv_heads, kv_heads)
    )


def attention(*tensors: torch.Tensor, device: torch.device, **options: object) -> torch.Tensor:
    on_device = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()
    }
    with poisoned_memory():
        q, k, v = (x.to(device) for x in tensors)
        return sliding_window_attention(q, k, v, impl="triton", **on_device).cpu()


def check(*tensors: torch.Tensor, device: torch.device, **options: object) -> None:
    out = attention(*tensors, device=device, **options)
    dtype = tensors[0].dtype
    assert out.dtype == dtype and out.shape == tensors[0].shape
    for row in range(out.shape[0]):
        rows = [x[row] for x in tensors]
        exact = attention_reference(*(x.double() for x in rows), **options)
        plain = rounded_weights_reference(*rows, **options)
        assert_within(out[row], exact, allowance(exact, plain, dtype))


def allowance(exact: torch.Tensor, plain: torch.Tensor, dtype: torch.dtype) -> float:
    """The budget; the interpreter truncates bfloat16, which doubles the rounding band."""
    allowed = budget(exact, plain, dtype)
    if dtype == torch.bfloat16 and interpreting():
        allowed += 2 * float(rounding_band(exact, dtype))
    return allowed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("window", [None, 1, 7, 64, 65, 300, "N", "N + 1"])
def test_windows_and_lengths(
    dtype: torch.dtype, window: int | str | None, device: torch.device
) -> None:
    for length in RAGGED_LENGTHS:
        tokens = {"N": length, "N + 1": length + 1}.get(window, window)
        check(*inputs(length, dtype, heads=1, dim=16), window=tokens, device=device)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("window", [None, 3, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_options(options: dict, window: int | None, dtype: torch.dtype, device) -> None:
    check(*inputs(420, dtype, dim=16), window=window, device=device, **options)


@pytest.mark.parametrize("dim", [16, 40, 64, 96, 128, 256])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_head_dims(dim: int, dtype: torch.dtype, device: torch.device) -> None:
    check(*inputs(300, dtype, heads=1, dim=dim), window=130, device=device)


@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 1), (16, 2), (16, 1)])
def test_groups_and_batch(heads: int, kv_heads: int, device: torch.device) -> None:
    q, k, v = inputs(70, torch.float16, heads, kv_heads, batch=2, dim=16)
    check(q, k, v, window=64, device=device)
    both = attention(q, k, v, window=64, device=device)
    alone = attention(q[1:], k[1:], v[1:], window=64, device=device)
    assert torch.equal(both[1:], alone)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["rows first", "unaligned", "expanded"])
def test_strides(layout: str, dtype: torch.dtype, device: torch.device) -> None:
    q, k, v = inputs(200, dtype, batch=2)
    if layout == "rows first":
        tensors = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    elif layout == "unaligned":
        tensors = [torch.nn.functional.pad(x, (1, 2))[..., 1:-2] for x in (q, k, v)]
    else:
        tensors = [q, k[:1].expand_as(k), v[:1].expand_as(v)]
    assert all(x.stride(3) == 1 for x in tensors)
    check(*tensors, window=70, device=device)


def test_rows_past_32_bit_offsets(device: torch.device) -> None:
    """Most of the memory is never touched, and so never there on a CPU."""
    n, step = 258, 2**23 - 1  # in elements; the last row lies past 2^31
    tensors = inputs(n, torch.float16, heads=1, dim=16)
    expected = attention(*tensors, window=70, device=device)
    far = torch.empty(n * step, dtype=torch.float16, device=device)
    q, k, v = (far[i * 16 :].as_strided((1, 1, n, 16), (0, 0, step, 1)) for i in range(3))
    for x, values in zip((q, k, v), tensors, strict=True):
        x.copy_(values)
    out = sliding_window_attention(q, k, v, window=70, impl="triton").cpu()
    assert_within(out, expected.double(), 2 * float(rounding_band(expected, torch.float16)))


def test_rows_that_are_not_dense_are_copied(device: torch.device) -> None:
    tensors = inputs(100, torch.float32)
    expected = attention(*tensors, device=device)
    assert torch.equal(attention(*map(spread, tensors), device=device), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 64}, {"window": 70, "sinks": 3}], ids=str)
@pytest.mark.parametrize("edges", [[0, 300], [0, 1, 64, 64, 200, 330], [0, 0, 129, 130]], ids=str)
def test_ragged_batches(edges: list, options: dict, dtype: torch.dtype, device) -> None:
    q, k, v = inputs(edges[-1], dtype)
    bounds = torch.tensor(edges, dtype=torch.int32)
    out = attention(q, k, v, cu_seqlens=bounds, device=device, **options)
    exact = ragged_reference(q[0].double(), k[0].double(), v[0].double(), edges, **options)
    plain = ragged_reference(q[0], k[0], v[0], edges, rounded_weights_reference, **options)
    assert_within(out[0], exact, allowance(exact, plain, dtype))


def test_ragged_sequences_cannot_feel_each_other(device: torch.device) -> None:
    edges = torch.tensor([0, 100, 230], dtype=torch.int64)
    q, k, v = inputs(230, torch.float32)
    whole = attention(q, k, v, cu_seqlens=edges, device=device)
    for x in (q, k, v):
        x[:, :, 100:] = float("nan")
    assert torch.equal(
        attention(q, k, v, cu_seqlens=edges, device=device)[:, :, :100], whole[:, :, :100]
    )


def visible_tiles(
    n: int, window: int | None, queries: int, keys: int, sinks: int
) -> list[torch.Tensor]:
    """Per block of queries: for each tile of keys, how many of its pairs are seen, `[tiles]`."""
    rule = make_rule(
        torch.empty(1, 1, n, 16, device="meta"),
        1, window=window, sinks=sinks, scale=None, alibi_slopes=None, softcap=None,
    )  # fmt: skip
    seen = rule.visible(torch.arange(n), torch.arange(n))
    seen = torch.nn.functional.pad(seen, (0, -n % keys))
    return [
        seen[a : a + queries].unflatten(1, (-1, keys)).sum((0, 2)) for a in range(0, n, queries)
    ]


GEOMETRIES = [(128, 128), (128, 64), (64, 128), (64, 32), (16, 64)]
WINDOWS = [None, 1, 2, 31, 64, 65, 127, 128, 129, 191, 200, 254, 255, 256, 300, 640, 641, 10000]


@pytest.mark.parametrize("queries, keys", GEOMETRIES)
@pytest.mark.parametrize("sinks", [0, 1, 64, 150])
def test_tiles_are_the_exact_minimum(queries: int, keys: int, sinks: int) -> None:
    """No tile without a visible pair; no mask but where a pair is hidden; 2 edge tiles at most."""
    for n in (1, 63, 64, 128, 129, 500, 640, 641):
        for window in WINDOWS:
            kept = sinks if window is not None else 0
            blocks = visible_tiles(n, window, queries, keys, kept)
            minimum = [int((counts > 0).sum()) for counts in blocks]
            assert tiles_visited(n, window, queries, keys, kept) == minimum, (n, window)
            for block, counts in enumerate(blocks):
                first = block * queries
                rows = min(queries, n - first)
                _, low, inside, diagonal, end = key_stretches.fn(
                    first, first + rows, window or 0, kept, window is not None, keys
                )
                assert all(counts[inside:diagonal] == rows * keys), (n, window)
                if queries <= keys:
                    assert inside - low <= 2 and end - diagonal <= 2, (n, window)


@pytest.mark.parametrize("window, sinks", [(None, 0), (100, 0), (256, 4), (300, 150), (1, 0)])
def test_the_kernel_runs_over_these_tiles(window, sinks, monkeypatch, device) -> None:
    if device.type == "cuda":
        pytest.skip("tiles are counted in the interpreter")
    from triton.runtime.interpreter import interpreter_builder

    products = []
    multiply = interpreter_builder.create_dot

    def counting(*arguments):
        products.append(1)
        return multiply(*arguments)

    q, k, v = inputs(1000, torch.float16, heads=1)
    rule = make_rule(q, 1, window=window, sinks=sinks, scale=None, alibi_slopes=None, softcap=None)
    (launch,) = plan_window(q, k, v, rule, torch.empty_like(q), "sm_90")
    monkeypatch.setattr(interpreter_builder, "create_dot", counting)
    launch.run()
    block, keys = launch.arguments["BM"], launch.arguments["BN"]
    assert len(products) == 2 * sum(tiles_visited(1000, window, block, keys, rule.sinks))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"q": torch.ones(1, 2, 8, 8), "k": torch.ones(1, 1, 8, 8)}, "head sizes 16 to 256, got 8"),
        ({"scale": -1.0}, "positive scales"),
    ],
    ids=["head size", "scale"],
)
def test_what_the_kernel_cannot_take(change: dict, message: str, device: torch.device) -> None:
    q, k, _ = inputs(8, torch.float32, dim=16)
    arguments = {"q": q, "k": k} | change
    tensors = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in arguments.items()}
    tensors["v"] = tensors["k"]
    with pytest.raises(UnsupportedImplementation, match=message):
        sliding_window_attention(**tensors, impl="triton")
