"""Bytes counted in the interpreter: exact, for kernels whose every access is known."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
import triton
import triton.language as tl

from ctxsweep_kernels.launch import Launch
from ctxsweep_kernels.static.case import Case, Trace
from ctxsweep_kernels.static.traffic import Touched, count, count_cases

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="traffic is counted in the interpreter"
)


@triton.jit
def copy(source, target, counter, length, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < length
    tl.store(target + places, tl.load(source + places, mask=inside), mask=inside)
    tl.atomic_add(counter, 1)


@triton.jit
def multiply(a, b, c, N: tl.constexpr, TIMES: tl.constexpr):
    rows = tl.arange(0, N)
    places = rows[:, None] * N + rows[None, :]
    total = tl.zeros([N, N], tl.float32)
    for _ in range(TIMES):
        total += tl.dot(tl.load(a + places), tl.load(b + places))
    tl.store(c + places, total)


@triton.jit
def copy_by_descriptor(source, target, rows, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    given = tl.make_tensor_descriptor(source, [rows, WIDTH], [WIDTH, 1], [BLOCK, WIDTH])
    taken = tl.make_tensor_descriptor(target, [rows, WIDTH], [WIDTH, 1], [BLOCK, WIDTH])
    start = tl.program_id(0) * BLOCK
    taken.store([start, 0], given.load([start, 0]))


def copy_trace(minimum: dict[str, int]) -> Trace:
    source = torch.arange(1000, dtype=torch.float16)
    arguments = {
        "source": source,
        "target": torch.empty_like(source),
        "counter": torch.zeros(1, dtype=torch.int32),
        "length": 700,
        "BLOCK": 256,
    }
    return Trace([Launch(copy, (4,), arguments)], minimum)


def test_masked_lanes_move_nothing():
    trace = copy_trace({"source": 1400, "target": 1400})
    traffic = count(trace)
    assert traffic.tensors["source"] == Touched(1400, 0, 1400, 0)
    assert traffic.tensors["target"] == Touched(0, 1400, 0, 1400)
    assert traffic.tensors["counter"] == Touched(16, 16, 4, 4)
    assert traffic.programs == 4
    assert traffic.ratio == (2800 + 32) / 2800
    assert traffic.unique_ratio == (2800 + 8) / 2800
    arguments = trace.launches[0].arguments
    assert torch.equal(arguments["target"][:700], arguments["source"][:700])
    assert arguments["counter"].item() == 4


def test_what_is_read_twice_moves_twice_and_dots_are_counted():
    a, b, c = (torch.ones(16, 16) for _ in range(3))
    launch = Launch(multiply, (1,), {"a": a, "b": b, "c": c, "N": 16, "TIMES": 3})
    traffic = count(Trace([launch, launch], {"a": 1024, "b": 1024, "c": 1024}, dots=3))
    assert traffic.dots == 6 and traffic.minimum_dots == 3
    assert traffic.tensors["a"] == Touched(6 * 1024, 0, 1024, 0)
    assert traffic.tensors["c"] == Touched(0, 2 * 1024, 0, 1024)
    assert traffic.unique_ratio == 1.0


def test_descriptors_count_what_lies_inside():
    source = torch.arange(10 * 16, dtype=torch.float32).view(10, 16)
    arguments = {
        "source": source,
        "target": torch.empty_like(source),
        "rows": 10,
        "BLOCK": 8,
        "WIDTH": 16,
    }
    traffic = count(Trace([Launch(copy_by_descriptor, (2,), arguments)], {"source": 640}))
    assert traffic.tensors["source"] == Touched(640, 0, 640, 0)
    assert traffic.tensors["target"] == Touched(0, 640, 0, 640)


def test_views_of_one_storage_are_one_tensor():
    pool = torch.arange(512, dtype=torch.float32)
    arguments = {
        "source": pool[:256],
        "target": pool[256:],
        "counter": torch.zeros(1, dtype=torch.int32),
        "length": 256,
        "BLOCK": 256,
    }
    traffic = count(Trace([Launch(copy, (1,), arguments)], {"source": 2048}))
    assert traffic.tensors["source"] == Touched(1024, 1024, 1024, 1024)


def test_a_minimum_of_an_unknown_tensor_is_refused():
    with pytest.raises(ValueError, match="no launch takes a tensor named sauce"):
        count(copy_trace({"sauce": 1}))


def test_one_failing_trace_is_a_row_and_not_the_end():
    def case(name, trace):
        return Case(name, lambda arch: [], (), lambda launch: None, trace)

    cases = [
        case("bad", lambda: 1 / 0),
        case("none", None),
        case("good", lambda: copy_trace({"source": 1400})),
    ]
    bad, good = count_cases(cases)
    assert (bad.case, bad.error) == ("bad", "ZeroDivisionError: division by zero")
    assert (good.case, good.error) == ("good", "")
