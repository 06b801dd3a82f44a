"""Power and energy of an NVIDIA GPU by phase, through NVML on a thread of its own.

Energy is the difference of the board's own counter (millijoules, Volta and later), power its mean
over the phase. A phase shorter than ``MIN_WINDOW_S`` is not valid: the counter is updated only
every few tens of milliseconds. On a machine without NVML every reading says so and is not valid.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ctxsweep.records import Power

Phase = Literal["prefill", "decode"]
PERIOD_S = 0.05
MIN_WINDOW_S = 0.5
NOT_THROTTLING = {"GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks", "None", "All"}


class PowerMeter(Protocol):
    """Accumulates by phase until it is taken."""

    def phase(self, phase: Phase) -> Any:
        """Context manager around what counts to a phase."""

    def take(self, *forget: Phase) -> Power:
        """What was used since each phase was last forgotten; forget those named."""

    def close(self) -> None:
        """Stop reading."""


class NoPowerMeter:
    """Says why there is no figure."""

    def __init__(self, reason: str) -> None:
        self._power = Power(valid=False, reasons=(reason,))

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        yield

    def take(self, *forget: Phase) -> Power:
        return self._power

    def close(self) -> None:
        pass


@dataclass
class _Window:
    """What one phase used so far."""

    seconds: float = 0.0
    energy_j: float = 0.0
    clocks_mhz: list[float] = field(default_factory=list)
    throttle: set[str] = field(default_factory=set)


class NvmlPowerMeter:
    """Reads GPU ``index``; ``nvml`` is the pynvml module, already initialised."""

    def __init__(self, nvml: Any, index: int = 0, period_s: float = PERIOD_S) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._energy_j()
        self._windows: dict[Phase, _Window] = {"prefill": _Window(), "decode": _Window()}
        self._current: _Window | None = None
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._period_s = period_s
        self._thread = threading.Thread(target=self._watch, name="nvml", daemon=True)
        self._thread.start()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        window = self._windows[phase]
        start_s, start_j = time.perf_counter(), self._energy_j()
        with self._guard:
            self._current = window
        try:
            yield
        finally:
            with self._guard:
                self._current = None
            window.energy_j += self._energy_j() - start_j
            window.seconds += time.perf_counter() - start_s

    def take(self, *forget: Phase) -> Power:
        with self._guard:
            windows = dict(self._windows)
            for phase in forget:
                self._windows[phase] = _Window()
        prefill, decode = windows["prefill"], windows["decode"]
        reasons = tuple(
            f"{name}: {window.seconds:.2f} s is too short a window, {MIN_WINDOW_S} s are needed"
            for name, window in windows.items()
            if window.seconds < MIN_WINDOW_S
        )
        clocks = sorted(prefill.clocks_mhz + decode.clocks_mhz)
        return Power(
            valid=not reasons,
            reasons=reasons,
            prefill_power_w=_mean_w(prefill),
            decode_power_w=_mean_w(decode),
            prefill_energy_j=prefill.energy_j,
            decode_energy_j=decode.energy_j,
            sm_clock_mhz=clocks[len(clocks) // 2] if clocks else None,
            throttle_reasons=tuple(sorted(prefill.throttle | decode.throttle)),
        )

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _energy_j(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def _watch(self) -> None:
        nvml = self._nvml
        names = throttle_names(nvml)
        while not self._stop.wait(self._period_s):
            clock = float(nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM))
            mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(self._handle)
            with self._guard:
                if self._current is not None:
                    self._current.clocks_mhz.append(clock)
                    self._current.throttle.update(n for bit, n in names.items() if mask & bit)


def throttle_names(nvml: Any) -> dict[int, str]:
    """Bit to name of the reasons for which a clock is held down, from the module's constants."""
    prefix = "nvmlClocksThrottleReason"
    found = {name[len(prefix) :]: getattr(nvml, name) for name in dir(nvml) if prefix in name}
    return {
        bit: name
        for name, bit in found.items()
        if isinstance(bit, int) and name not in NOT_THROTTLING
    }


def make_power_meter(device: str) -> PowerMeter:
    """NVML on ``cuda``; elsewhere, or where it cannot be read, a meter that says why not."""
    if not device.startswith("cuda"):
        return NoPowerMeter("power is read on NVIDIA GPUs only")
    try:
        import pynvml

        pynvml.nvmlInit()
        return NvmlPowerMeter(pynvml)
    except (ImportError, OSError) as error:
        return NoPowerMeter(f"NVML cannot be loaded: {error}")
    except pynvml.NVMLError as error:
        return NoPowerMeter(f"NVML does not answer: {error}")


def _mean_w(window: _Window) -> float | None:
    return window.energy_j / window.seconds if window.seconds else None
