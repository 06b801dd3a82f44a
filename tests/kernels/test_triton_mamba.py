"""The Mamba family in Triton: on the GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ctxsweep_kernels.causal_conv import causal_conv1d
from ctxsweep_kernels.causal_conv.reference import causal_conv1d_reference
from ctxsweep_kernels.dispatch import UnsupportedImplementation
from ctxsweep_kernels.selective_scan import selective_scan
from ctxsweep_kernels.selective_scan.reference import selective_scan_reference
from ctxsweep_kernels.selective_state_update import selective_state_update
from ctxsweep_kernels.selective_state_update.reference import selective_state_update_reference
from ctxsweep_kernels.ssd import ssd_chunk_scan
from ctxsweep_kernels.ssd.reference import ssd_chunk_scan_reference
from ctxsweep_kernels.testing import RAGGED_LENGTHS, assert_within, budget
from ctxsweep_kernels.testing.recurrences import (
    Inputs,
    Recurrence,
    check_batch,
    check_oracle,
    check_split,
    check_strided,
    poisoned_memory,
)

pytestmark = pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
NARROW = (torch.float16, torch.bfloat16)


def triton_op(op: Any, **options: Any) -> Any:
    return functools.partial(op, impl="triton", **options)


SSD = Recurrence(triton_op(ssd_chunk_scan), ssd_chunk_scan_reference, ("x", "dt", "B", "C"))
SCAN = Recurrence(triton_op(selective_scan), selective_scan_reference, ("u", "dt", "B", "C"))
CONV = Recurrence(
    triton_op(causal_conv1d, activation="silu"),
    functools.partial(causal_conv1d_reference, activation="silu"),
    ("x",),
)


@pytest.fixture
def make(device: torch.device) -> Any:
    """Random inputs, on the device that the kernels run on, from a seed of their own."""

    def build(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> Inputs:
        generator = torch.Generator().manual_seed(5)
        drawn = {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}
        if "dt" in drawn:
            drawn["dt"] = drawn["dt"].sigmoid() * 0.2 + 1e-3
            drawn["A"] = -drawn["A"].abs() * 4 - 0.1
        kept = ("state", "A", "D")
        return {n: t.to(device, torch.float32 if n in kept else dtype) for n, t in drawn.items()}

    return build


def ssd_shapes(
    tokens: int, batch: int = 1, heads: int = 2, groups: int = 1, P: int = 16, N: int = 16
) -> dict[str, tuple[int, ...]]:
    return {
        "x": (batch, tokens, heads, P),
        "dt": (batch, tokens, heads),
        "A": (heads,),
        "B": (batch, tokens, groups, N),
        "C": (batch, tokens, groups, N),
        "state": (batch, heads, P, N),
        "D": (heads,),
    }


def scan_shapes(
    tokens: int, batch: int = 1, channels: int = 24, N: int = 16
) -> dict[str, tuple[int, ...]]:
    return {
        "u": (batch, tokens, channels),
        "dt": (batch, tokens, channels),
        "A": (channels, N),
        "B": (batch, tokens, N),
        "C": (batch, tokens, N),
        "state": (batch, channels, N),
        "D": (channels,),
    }


def conv_shapes(
    tokens: int, batch: int = 1, channels: int = 24, taps: int = 4
) -> dict[str, tuple[int, ...]]:
    return {
        "x": (batch, tokens, channels),
        "weight": (channels, taps),
        "bias": (channels,),
        "state": (batch, taps - 1, channels),
    }


ALL = [(SSD, ssd_shapes), (SCAN, scan_shapes), (CONV, conv_shapes)]
EACH = pytest.mark.parametrize(("recurrence", "shapes"), ALL, ids=["ssd", "scan", "conv"])


@EACH
@pytest.mark.parametrize("tokens", RAGGED_LENGTHS)
def test_every_length_matches_the_token_loop(recurrence, shapes, tokens: int, make) -> None:
    check_oracle(recurrence, make(shapes(tokens)))


@EACH
def test_pieces_with_the_state_carried_are_the_whole(recurrence, shapes, make) -> None:
    check_split(recurrence, make(shapes(100)), [1, 2, 34, 99])


@EACH
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_batch_is_its_rows(recurrence, shapes, tokens: int, make) -> None:
    check_batch(recurrence, make(shapes(tokens, batch=2)))


@EACH
@pytest.mark.parametrize("tokens", [1, 40])
def test_views_with_strides(recurrence, shapes, tokens: int, make) -> None:
    check_strided(recurrence, make(shapes(tokens)))


@EACH
def test_without_the_optional_argument(recurrence, shapes, make) -> None:
    inputs = make(shapes(20))
    if recurrence is CONV:
        del inputs["bias"]
        without = {"bias": None}
        recurrence = Recurrence(
            functools.partial(recurrence.op, **without),
            functools.partial(recurrence.reference, **without),
            recurrence.sequences,
        )
    else:
        del inputs["D"]
    check_oracle(recurrence, inputs)


@pytest.mark.parametrize(
    "sizes",
    [
        {"P": 1, "N": 1, "heads": 1},
        {"P": 80, "N": 20, "heads": 1},
        {"heads": 6, "groups": 3, "P": 5},
        {"heads": 1, "P": 16, "N": 256},
    ],
    ids=str,
)
def test_ssd_of_odd_sizes(sizes: dict[str, int], make) -> None:
    check_oracle(SSD, make(ssd_shapes(40, **sizes)))


@pytest.mark.parametrize("rate", [1e-7, 1e4])
def test_ssd_decays_from_almost_none_to_instant(rate: float, make) -> None:
    inputs = make(ssd_shapes(150))
    check_oracle(SSD, inputs | {"A": -rate * (torch.rand_like(inputs["A"]) + 0.5)})


@pytest.mark.parametrize("sizes", [{"channels": 1, "N": 1}, {"channels": 90, "N": 5}], ids=str)
def test_selective_scan_of_odd_sizes(sizes: dict[str, int], make) -> None:
    check_oracle(SCAN, make(scan_shapes(20, **sizes)))


@pytest.mark.parametrize("tokens", [1, 2, 70])
@pytest.mark.parametrize("taps", [2, 7])
def test_convolution_of_any_taps(taps: int, tokens: int, make) -> None:
    check_oracle(CONV, make(conv_shapes(tokens, taps=taps, channels=300)))


def test_channels_past_32_bit_offsets(make) -> None:
    """Most of the memory is never touched, and so never there on a CPU."""
    shapes = {"x": (1, 4, 3), "weight": (3, 2), "bias": (3,), "state": (1, 1, 3)}
    given = make(shapes, torch.float16)
    step = 2**30 + 16
    far = torch.empty(2 * step + 4, dtype=torch.float16, device=given["x"].device)
    apart = far.as_strided((1, 4, 3), (0, 1, step)).copy_(given["x"])
    near, _ = causal_conv1d(**given, impl="triton")
    assert torch.equal(causal_conv1d(**given | {"x": apart}, impl="triton")[0], near)


def test_convolution_of_one_tap_needs_no_state(make) -> None:
    inputs = make(conv_shapes(40, taps=1))
    y, state = CONV.op(**inputs)
    torch.testing.assert_close(y, CONV.reference(**inputs)[0])
    assert state.shape == (1, 0, 24)


def rounded_ssd(inputs: Inputs, dtype: torch.dtype, chunk: int) -> tuple[torch.Tensor, ...]:
    """The chunked form in float32 whose matrix products take operands of `dtype`."""

    def operand(t: torch.Tensor) -> torch.Tensor:
        return t.to(dtype).float()

    x, dt, B, C = (inputs[n].float() for n in ("x", "dt", "B", "C"))
    per_group = x.shape[2] // B.shape[2]
    B, C = (t.repeat_interleave(per_group, 2) for t in (B, C))
    h, outputs = inputs["state"], []
    for now in (slice(i, i + chunk) for i in range(0, x.shape[1], chunk)):
        step = dt[:, now].movedim(1, -1)
        a = (step * inputs["A"][:, None]).cumsum(-1)
        decay = (a[..., :, None] - a[..., None, :]).tril().exp().tril()
        scores = torch.einsum("bihn,bjhn->bhij", C[:, now], B[:, now])
        mix = operand(scores * decay * step[..., None, :])
        y = torch.einsum("bhij,bjhp->bihp", mix, x[:, now])
        past = torch.einsum("bihn,bhpn->bihp", C[:, now], operand(h))
        outputs.append(y + past * a.exp().movedim(1, -1)[..., None])
        weight = (step * (a[..., -1:] - a).exp()).movedim(-1, 1)[..., None]
        added = torch.einsum("bihp,bihn->bhpn", operand(x[:, now] * weight), B[:, now])
        h = h * a[..., -1].exp()[..., None, None] + added
    return torch.cat(outputs, 1) + inputs["D"][:, None] * x, h


def hold(result: Any, exact: Any, plain: Any, truncated: bool) -> None:
    """The budget of `testing`; stores that truncate have twice the rounding band."""
    for got, true, reference in zip(result, exact, plain, strict=True):
        allowed = budget(true, reference.to(got.dtype), got.dtype)
        assert_within(got, true, 2 * allowed if truncated else allowed)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("tokens", [63, 200])
def test_ssd_of_narrow_inputs(tokens: int, dtype: torch.dtype, make) -> None:
    inputs = make(ssd_shapes(tokens, heads=4, groups=2), dtype)
    exact = ssd_chunk_scan_reference(**{n: t.double() for n, t in inputs.items()})
    with poisoned_memory():
        y, state = SSD.op(**inputs)
    assert y.dtype == dtype and state.dtype == torch.float32
    hold((y, state), exact, rounded_ssd(inputs, dtype, 128), dtype == torch.bfloat16)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(("recurrence", "shapes"), ALL[1:], ids=["scan", "conv"])
def test_narrow_inputs_are_summed_in_float32(recurrence, shapes, dtype: torch.dtype, make) -> None:
    inputs = make(shapes(40)) if recurrence is CONV else make(shapes(40), dtype)
    inputs = recurrence.narrowed(inputs, dtype)
    exact = recurrence.reference(**{n: t.double() for n, t in inputs.items()})
    plain = recurrence.reference(**{n: t.float() for n, t in inputs.items()})
    with poisoned_memory():
        result = recurrence.op(**inputs)
    assert result[0].dtype == dtype
    hold(result, exact, plain, dtype == torch.bfloat16)


def step_shapes(mamba: int, **sizes: int) -> dict[str, tuple[int, ...]]:
    """One token of a sequence: the same arguments without the time."""
    shapes = scan_shapes(1, **sizes) if mamba == 1 else ssd_shapes(1, **sizes)
    return {
        "x" if n == "u" else n: s if n in ("state", "A", "D") else s[:1] + s[2:]
        for n, s in shapes.items()
    }


STEPS = [
    step_shapes(1, batch=2),
    step_shapes(1, channels=300, N=5),
    step_shapes(1, channels=1, N=1),
    step_shapes(2, batch=2, heads=4, groups=2),
    step_shapes(2, P=64, N=128),
    step_shapes(2, P=5, N=19),
]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("state_dtype", [torch.float32, *NARROW])
@pytest.mark.parametrize("shapes", STEPS, ids=lambda s: "x".join(map(str, s["state"])))
def test_one_step_changes_the_state_in_place(
    shapes, state_dtype: torch.dtype, skip: bool, make
) -> None:
    inputs = make(shapes)
    inputs["state"] = inputs["state"].to(state_dtype)
    if not skip:
        del inputs["D"]
    exact = selective_state_update_reference(**{n: t.double() for n, t in inputs.items()})
    plain = selective_state_update_reference(**{n: t.float() for n, t in inputs.items()})
    with poisoned_memory():
        y, state = selective_state_update(**inputs, impl="triton")
    assert state is inputs["state"] and state.dtype == state_dtype
    hold((y, state), exact, plain, state_dtype == torch.bfloat16)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("shapes", [STEPS[0], STEPS[4]], ids=["mamba1", "mamba2"])
def test_one_step_of_narrow_inputs_in_any_strides(shapes, dtype: torch.dtype, make) -> None:
    inputs = make(shapes, dtype)
    exact = selective_state_update_reference(**{n: t.double() for n, t in inputs.items()})
    plain = selective_state_update_reference(**{n: t.float() for n, t in inputs.items()})
    spread = {
        n: t if n == "state" else t.repeat_interleave(2, -1)[..., ::2] for n, t in inputs.items()
    }
    result = selective_state_update(**spread, impl="triton")
    hold(result, exact, plain, dtype == torch.bfloat16)


def test_what_the_kernels_cannot_take_is_said(make) -> None:
    inputs = make(ssd_shapes(4))
    with pytest.raises(UnsupportedImplementation, match=r"state is torch\.float64"):
        SSD.op(**inputs | {"state": inputs["state"].double()})
    with pytest.raises(UnsupportedImplementation, match="N = 300 and it takes at most 256"):
        SSD.op(**make(ssd_shapes(4, N=300)))
    with pytest.raises(UnsupportedImplementation, match="17 taps"):
        CONV.op(**make(conv_shapes(4, taps=17)))
