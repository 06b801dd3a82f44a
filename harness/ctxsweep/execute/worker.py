"""The child process: one job on stdin, one loaded backend, messages as JSON lines on stdout.

Started as ``python -m ctxsweep.execute.worker``. What engines print goes to stderr, and so to the
run's log; only messages reach the parent. It dies with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TextIO

from ctxsweep.backends.base import Backend, InvalidSeries, Limits, Unsupported, resolve_backend
from ctxsweep.execute.job import Begin, Failed, Job, Loaded, Measured, Message, Tick
from ctxsweep.execute.probe import read_probe
from ctxsweep.execute.procedure import independent, ladder
from ctxsweep.execute.rig import RandomPrompts, Rig
from ctxsweep.execute.scored import scored
from ctxsweep.measure.clock import make_clock
from ctxsweep.measure.environment import read_environment
from ctxsweep.measure.memory import MemoryMeter, resident_bytes
from ctxsweep.measure.power import NoPowerMeter, make_power_meter
from ctxsweep.records import Ceilings, Cell, Probe, Record, Status

TICK_S = 1.0
PR_SET_PDEATHSIG = 1
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "bad_alloc")


class Channel:
    """Messages to the parent; also the watcher of the procedures."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last_tick = 0.0
        self.key: str | None = None
        self._context_tokens = 0

    def send(self, message: Message) -> None:
        """One line, at once."""
        self._stream.write(message.model_dump_json() + "\n")
        self._stream.flush()

    def begin(self, cell: Cell) -> None:
        self.key, self._context_tokens = cell.key, cell.context_tokens
        self.send(Begin(key=cell.key))

    def tick(self, position: int, last_decode_s: float | None) -> None:
        """About once a second, and whenever a prefill has reached the cell's context."""
        now = time.monotonic()
        arrived = last_decode_s is None and position == self._context_tokens
        if arrived or now - self._last_tick >= TICK_S:
            self._last_tick = now
            self.send(Tick(position=position, last_decode_s=last_decode_s))


def take_stdout() -> TextIO:
    """The pipe to the parent; from here on whatever prints to stdout writes to stderr."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies (prctl(2)); elsewhere do nothing."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(memory_bytes: int) -> None:
    """Let this process grow to ``memory_bytes`` resident, by ``RLIMIT_DATA`` (getrlimit(2)).

    The limit is on private writable mappings. What is mapped by now but not resident (stacks of
    threads, arenas) is granted on top, so that the figure means what a person expects of it.
    Raises ``MemoryError`` if the process is larger already.
    """
    resident = resident_bytes() or 0
    if resident >= memory_bytes:
        raise MemoryError(
            f"the process takes {resident} bytes before anything is loaded, "
            f"the limit is {memory_bytes}"
        )
    with open("/proc/self/status") as status:
        mapped = next(int(row.split()[1]) * 1024 for row in status if row.startswith("VmData:"))
    limit = mapped + memory_bytes - resident
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an engine's exception means that memory, of host or device, was refused."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(t in text for t in OUT_OF_MEMORY)


def run(job: Job, channel: Channel) -> None:
    """Load, measure, send; every failure ends in one ``Failed`` message."""
    try:
        _measure(job, channel)
    except (Unsupported, InvalidSeries) as error:
        channel.send(Failed(status=Status.UNSUPPORTED, detail=str(error), key=None))
    except Exception as error:  # an engine may raise anything: all of it is data
        traceback.print_exc()
        status = Status.OOM if is_out_of_memory(error) else Status.ERROR
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        channel.send(Failed(status=status, detail=text[:2000], key=channel.key))


def _measure(job: Job, channel: Channel) -> None:
    series = job.cells[0].series
    adapter = resolve_backend(series.backend)
    adapter.check(series)
    missing = adapter.availability()
    if missing is not None:
        raise missing
    ceilings = _prepare(job)
    backend = _load(job, adapter, channel)
    remote = backend.capabilities.remote
    if remote:
        ceilings = None  # of this process, which does none of the work
    probe = _probe(job, backend)
    environment = read_environment(job.device, job.threads)
    channel.send(Loaded(environment=environment, ceilings=ceilings))
    elsewhere = NoPowerMeter("another process does the work")
    power = elsewhere if remote else make_power_meter(job.device)
    rig = Rig(
        backend=backend,
        series=series,
        batch_size=job.cells[0].batch_size,
        procedure=job.procedure,
        clock=make_clock(job.device),
        memory=MemoryMeter(backend, job.device, remote),
        power=power,
        prompts=RandomPrompts(backend.vocab_size, job.cells[0].batch_size, job.cells[0].seed),
        watcher=channel,
    )
    # Collections at random moments would land in some samples and not in others. What is loaded by
    # now stays, so that those between cells need not look through it.
    gc.collect()
    gc.freeze()
    gc.disable()
    procedure = _procedure(backend, job)
    for record in procedure(rig, job.cells, job.budgets):
        engine = {**record.engine, "procedure": procedure.__name__}
        known = {
            "environment": environment,
            "ceilings": ceilings,
            "probe": probe,
            "engine": engine,
        }
        channel.send(Measured(record=record.model_copy(update=known)))
        gc.collect()
    power.close()
    backend.close()


def _procedure(backend: Backend, job: Job) -> Callable[..., Iterator[Record]]:
    if job.cells[0].quality is not None:
        return scored
    return ladder if can_climb(backend, job) else independent


def can_climb(backend: Backend, job: Job) -> bool:
    """Whether the ladder that is asked for can be had; if not, cells are measured afresh.

    A climb needs a state to return to, and prefill in parts that go on after it: a whole prefill
    has no rungs, and an engine that takes its prompt beforehand prefills once a round.
    """
    can = backend.capabilities
    able = can.snapshot and can.chunked_prefill and not can.whole_prompt
    whole = job.cells[0].series.prefill_chunk == "whole"
    return job.cells[0].procedure == "ladder" and able and not whole


def _prepare(job: Job) -> Ceilings | None:
    """Measure the ceilings while the machine is quiet, then bound this process."""
    ceilings = None
    if job.measure_ceilings:
        from ctxsweep.measure.ceilings import measure_ceilings

        ceilings = measure_ceilings(job.device, job.threads, job.memory_bytes)
    if job.memory_bytes is not None:
        if job.device.startswith("cuda"):
            import torch

            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, job.memory_bytes / total))
        elif sys.platform == "linux":
            limit_memory(job.memory_bytes)
    return ceilings


def _load(job: Job, adapter: type[Backend], channel: Channel) -> Backend:
    """Load for the longest context; if memory is refused, say whether the shortest would fit."""
    contexts = sorted(job.cells, key=lambda cell: cell.context_tokens)

    def load(cell: Cell) -> Backend:
        limits = Limits(
            max_context_tokens=_most_tokens(job, cell),
            batch_size=cell.batch_size,
            device=job.device,
            threads=job.threads,
            seed=cell.seed,
        )
        return adapter.load(cell.series, limits)

    try:
        return load(contexts[-1])
    except Exception as error:
        if not is_out_of_memory(error) or len(contexts) == 1:
            raise
        refused = error
    gc.collect()
    load(contexts[0]).close()
    channel.key = contexts[-1].key
    raise refused


def _most_tokens(job: Job, cell: Cell) -> int:
    """Tokens of the longest round with this cell: its own, or the warm-up."""
    warm_up = job.procedure.warmup_tokens + job.procedure.min_samples
    return max(cell.context_tokens + cell.generate_tokens, warm_up)


def _probe(job: Job, backend: Backend) -> Probe | None:
    largest = max(job.cells, key=lambda cell: cell.context_tokens)
    most = _most_tokens(job, largest) - 1  # some engines hold a token more than they were given
    return read_probe(backend, largest.series, largest.batch_size, most, largest.seed)


def main() -> None:
    """Read the job, take stdout, run."""
    die_with_parent()
    stream = take_stdout()
    # The parent ends its child; a Ctrl-C in the terminal is for the parent alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = Job.model_validate_json(sys.stdin.read())
    with contextlib.suppress(BrokenPipeError):
        run(job, Channel(stream))


if __name__ == "__main__":
    main()
