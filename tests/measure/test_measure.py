"""What measures: against allocations, calls and counters whose figures are known."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from ctxsweep.backends.base import HeldMemory
from ctxsweep.measure import ceilings, environment
from ctxsweep.measure.clock import HostClock, make_clock
from ctxsweep.measure.memory import MemoryMeter, peak_bytes, reset_peak, resident_bytes, thin
from ctxsweep.measure.power import NvmlPowerMeter, make_power_meter, throttle_names
from ctxsweep.records import MemoryReading

MIB = 1 << 20


def test_the_clock_waits_for_the_device_before_and_after() -> None:
    order: list[str] = []
    timing = HostClock().time(lambda: order.append("call"), lambda: order.append("wait"))
    assert order == ["wait", "call", "wait"]
    assert timing.device_s is None and type(make_clock("cpu")) is HostClock


def test_the_clock_tells_sleep_from_work() -> None:
    clock = HostClock()
    asleep = clock.time(lambda: time.sleep(0.05), lambda: None)
    assert asleep.wall_s >= 0.05 > asleep.cpu_s * 2
    before = clock.now()
    busy = clock.time(lambda: sum(i * i for i in range(200_000)), lambda: None)
    assert busy.cpu_s > 0 and 0 < busy.wall_s <= clock.now() - before


class Cache:
    """Holds arrays, exactly."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def grow(self, size: int) -> None:
        self.arrays.append(np.ones(size, dtype=np.uint8))

    def memory(self) -> HeldMemory:
        used = sum(array.nbytes for array in self.arrays)
        return HeldMemory(weights_bytes=3, cache_used_bytes=used, cache_reserved_bytes=used)


def test_growth_of_the_cache_and_passing_need_are_told_apart() -> None:
    cache = Cache()
    meter = MemoryMeter(cache, "cpu")
    meter.before()
    cache.grow(64 * MIB)
    scratch = np.ones(96 * MIB, dtype=np.uint8)
    del scratch
    first = meter.reading("prefill", 512)
    assert first.cache_used_bytes == 64 * MIB and first.weights_bytes == 3
    assert first.activations_peak_bytes == pytest.approx(96 * MIB, abs=4 * MIB)
    meter.before()
    cache.grow(8 * MIB)
    second = meter.reading("decode", 513)
    assert second.activations_peak_bytes is not None and second.activations_peak_bytes < 4 * MIB
    # Peaks are those of the cell, not of the call.
    assert second.process_peak_bytes == first.process_peak_bytes
    meter.start_cell()
    third = meter.reading("decode", 514)
    assert third.process_peak_bytes and first.process_peak_bytes
    assert third.process_peak_bytes < first.process_peak_bytes - 64 * MIB


class Told:
    """Tells what it is given."""

    def __init__(self, held: HeldMemory) -> None:
        self.held = held

    def memory(self) -> HeldMemory:
        return self.held


def test_what_an_engine_does_not_tell_is_unknown_and_not_zero() -> None:
    engine = Told(HeldMemory(None, None, None))
    reading = MemoryMeter(engine, "cpu").reading("prefill", 512)
    assert reading.cache_used_bytes is None and reading.weights_bytes is None
    assert reading.process_bytes
    meter = MemoryMeter(engine, "cpu")
    engine.held = HeldMemory(None, 64 * MIB, None)
    assert meter.reading("prefill", 512).cache_used_bytes == 64 * MIB


def test_on_a_gpu_a_call_needs_what_it_does_not_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its allocator: of a pool reserved beforehand a call takes tokens and allocates nothing."""
    allocated = {"memory_allocated": 1000 * MIB, "max_memory_allocated": 1000 * MIB}
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda: None)
    for name in allocated:
        monkeypatch.setattr(f"torch.cuda.{name}", lambda name=name: allocated[name])
    engine = Told(HeldMemory(0, 0, 512 * MIB))
    meter = MemoryMeter(engine, "cuda")
    engine.held = HeldMemory(0, 64 * MIB, 512 * MIB)
    allocated["max_memory_allocated"] += 48 * MIB
    pooled = meter.reading("prefill", 512)
    assert (pooled.activations_peak_bytes, pooled.device_peak_bytes) == (48 * MIB, 1048 * MIB)
    meter.before()
    engine.held = HeldMemory(0, 128 * MIB, 576 * MIB)
    allocated["memory_allocated"] += 64 * MIB
    allocated["max_memory_allocated"] = allocated["memory_allocated"] + 48 * MIB
    assert meter.reading("prefill", 1024).activations_peak_bytes == 48 * MIB


def test_of_a_remote_engine_nothing_is_read_here() -> None:
    meter = MemoryMeter(Told(HeldMemory(None, 7, None)), "cuda", remote=True)
    meter.before()
    known = meter.reading("decode", 513).model_dump(exclude_none=True)
    assert known == {"phase": "decode", "position": 513, "cache_used_bytes": 7}


def test_the_resident_set_agrees_with_psutil_and_its_peak_can_be_reset() -> None:
    resident = resident_bytes()
    assert resident == pytest.approx(psutil.Process().memory_info().rss, abs=4 * MIB)
    block = np.ones(32 * MIB, dtype=np.uint8)
    del block
    high = peak_bytes()
    assert reset_peak()
    low = peak_bytes()
    assert high and low and high - low > 24 * MIB


def test_without_proc_there_is_no_figure_instead_of_a_wrong_one(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "none") is None
    assert peak_bytes(tmp_path / "none") is None
    assert not reset_peak(tmp_path / "none")


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 127, 128, 1000])
def test_thinning_keeps_first_and_last(count: int) -> None:
    readings = [
        MemoryReading(
            phase="prefill",
            position=i,
            weights_bytes=0,
            cache_used_bytes=0,
            cache_reserved_bytes=0,
        )
        for i in range(count)
    ]
    positions = [reading.position for reading in thin(readings, 64)]
    assert len(positions) == min(count, 64) and positions[0] == 0 and positions[-1] == count - 1
    assert positions == sorted(set(positions))


def test_the_environment_is_that_of_this_machine() -> None:
    found = environment.read_environment("cpu", threads=1)
    assert found.python == sys.version.split()[0]
    assert found.memory_bytes <= psutil.virtual_memory().total
    assert 1 <= found.physical_cores <= found.logical_cores
    assert found.versions["numpy"] == np.__version__
    assert found.gpu is None and found.threads == 1 and found.device == "cpu"
    assert 0 < environment.available_memory_bytes() <= environment.total_memory_bytes()


def test_commit_and_dirty_flag_are_those_of_the_source_tree(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        command = ("git", "-C", str(tmp_path), *identity, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / "environment.py"
    file.write_text("1")
    assert environment.read_commit(tmp_path) == (None, None)
    git("init", "-q")
    assert environment.read_commit(tmp_path) == (None, None)
    git("add", ".")
    git("commit", "-q", "-m", "m")
    assert environment.read_commit(tmp_path) == (git("rev-parse", "HEAD"), False)
    file.write_text("2")
    assert environment.read_commit(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_ceilings_are_measured_for_every_number_of_threads() -> None:
    found = ceilings.measure_ceilings("cpu", threads=2, budget_s=0.2)
    assert set(found.by_threads) == {"1", "2"}
    assert found.read_bytes_per_s == found.by_threads["2"]["read_bytes_per_s"]
    assert set(found.matmul_flops_per_s) == {"float32", "bfloat16", "float16"}
    # Slower than any machine that could run this, faster than any that exists.
    assert all(1e7 < rate < 1e17 for rate in found.matmul_flops_per_s.values())
    assert 1e8 < found.read_bytes_per_s < 1e14


def test_the_array_read_is_larger_than_the_cache_and_smaller_than_the_limit(tmp_path: Path) -> None:
    assert ceilings.read_array_bytes(32 * MIB, None) == 128 * MIB
    assert ceilings.read_array_bytes(0, None) == 64 * MIB
    assert ceilings.read_array_bytes(1 << 30, None) == 256 * MIB
    assert ceilings.read_array_bytes(32 * MIB, 512 * MIB) == 64 * MIB
    for index, size in enumerate(("32K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert ceilings.last_level_cache_bytes(tmp_path) == 32 * MIB
    assert ceilings.last_level_cache_bytes(tmp_path / "none") == 0


def test_the_best_of_several_repetitions_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    costs, now = iter([0.001, 3.0, 2.0, 4.0, 2.5, 1.0]), [0.0]

    def call() -> None:
        now[0] += next(costs)

    monkeypatch.setattr(ceilings.time, "perf_counter", lambda: now[0])
    # The first warms up and does not count; then at least three, and on until 11 s are spent.
    assert ceilings.best_time_s(call, lambda: None, 11.0) == pytest.approx(2.0)
    assert next(costs) == 1.0


class FakeNvml(SimpleNamespace):
    """A board that draws 200 W and counts it."""

    NVML_CLOCK_SM = 1
    nvmlClocksThrottleReasonGpuIdle = 1
    nvmlClocksThrottleReasonSwPowerCap = 4
    nvmlClocksThrottleReasonHwSlowdown = 8
    nvmlClocksThrottleReasonAll = 13

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return int(time.perf_counter() * 200_000)

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return 1500

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 5


def test_energy_and_power_come_from_the_boards_counter_by_phase() -> None:
    meter = NvmlPowerMeter(FakeNvml(), period_s=0.01)
    for phase, seconds in (("prefill", 0.3), ("decode", 0.1), ("prefill", 0.3)):
        with meter.phase(phase):
            time.sleep(seconds)
    power = meter.take("decode")
    assert not power.valid and len(power.reasons) == 1 and "decode" in power.reasons[0]
    assert power.prefill_power_w == pytest.approx(200, rel=0.05)
    assert power.prefill_energy_j is not None and power.decode_energy_j is not None
    assert 120 <= power.prefill_energy_j < 240 and 20 <= power.decode_energy_j < 80
    assert power.sm_clock_mhz == 1500 and power.throttle_reasons == ("SwPowerCap",)
    with meter.phase("decode"):
        time.sleep(0.6)
    assert meter.take().valid
    meter.close()


def test_names_of_throttling_leave_out_what_is_none() -> None:
    assert throttle_names(FakeNvml()) == {4: "SwPowerCap", 8: "HwSlowdown"}


def test_without_a_gpu_power_is_not_valid_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = make_power_meter("cpu")
    with meter.phase("prefill"):
        pass
    power = meter.take("prefill")
    assert not power.valid and power.reasons and power.prefill_energy_j is None
    broken: Any = None
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert "NVML cannot be loaded" in make_power_meter("cuda").take().reasons[0]
