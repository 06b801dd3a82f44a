"""The two procedures: how the cells of one series and batch size are measured.

Both are generators: a record leaves the moment its cell is done, and is on disk before the next
cell begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ctxsweep.execute.rig import Rig, Stop
from ctxsweep.measure.memory import thin
from ctxsweep.records import Cell, MemoryReading, Record, Sample, Status
from ctxsweep.scenario import Budgets
from ctxsweep.store import utc_now

MAX_PREFILL_READINGS = 64


class PrefixCacheHit(RuntimeError):
    """The engine answered from a prefix cache: what was timed is not a prefill."""


def independent(rig: Rig, cells: Sequence[Cell], budgets: Budgets) -> Iterator[Record]:
    """Every cell prefills afresh, ``repeats`` times or until its time is spent, in order given.

    ``stopped_by`` says why decode stopped; ``max_cell_s`` is shared by the cell's repeats.
    """
    begun = rig.clock.now()
    warmups = rig.warm_up()
    for cell in cells:
        rig.watcher.begin(cell)
        left_s = min(budgets.cell_s, budgets.series_s - (rig.clock.now() - begun))
        predicted_s = rig.predict_s(0, cell.context_tokens)
        if predicted_s > left_s:
            yield over_budget(cell, predicted_s, left_s)
            continue
        yield _measure_afresh(rig, cell, left_s, warmups)
        warmups = ()


def _measure_afresh(rig: Rig, cell: Cell, left_s: float, warmups: tuple[Sample, ...]) -> Record:
    at, start = utc_now(), rig.clock.now()
    prefill: list[Sample] = []
    decode: list[Sample] = []
    memory: list[MemoryReading] = []
    stop: Stop | None = None
    rig.memory.start_cell()
    for repeat in range(rig.procedure.repeats):
        spent_s = rig.clock.now() - start
        if repeat and spent_s * (repeat + 1) / repeat > left_s:
            stop = stop or "time"
            break
        rig.restart(repeat)
        with rig.power.phase("prefill"):
            samples, readings = rig.climb(cell.context_tokens, repeat)
        prefill += samples
        # The readings of the first repeat tell the growth; the others would repeat them.
        memory += [] if repeat else thin(readings, MAX_PREFILL_READINGS)
        if stop != "time":
            with rig.power.phase("decode"):
                stop = rig.decode(decode, [] if repeat else memory, cell.generate_tokens, repeat)
    return ok_record(
        rig,
        cell,
        samples=tuple(prefill + decode),
        warmups=warmups,
        memory=tuple(memory),
        stopped_by=stop or "count",
        power=rig.power.take("prefill", "decode"),
        started_at=at,
        elapsed_s=rig.clock.now() - start,
    )


def ladder(rig: Rig, cells: Sequence[Cell], budgets: Budgets) -> Iterator[Record]:
    """One climb to the longest context with decode timed at every rung, after a few short climbs.

    ``climb_s`` of a record counts from the start of the first short climb to the arrival at the
    rung: all climbs so far, readings, marking and restoring the state, handing over the records of
    lower rungs. Only warm-up and the decode runs are left out. ``elapsed_s`` is what the rung took
    since the one before, decode included (the first one bears warm-up and the short climbs).
    """
    return _Ladder(rig, cells, budgets).measure()


class _Ladder:
    """The bookkeeping of one climb."""

    def __init__(self, rig: Rig, cells: Sequence[Cell], budgets: Budgets) -> None:
        self.rig = rig
        self.cells = sorted(cells, key=lambda cell: cell.context_tokens)
        self.budgets = budgets
        self.short: list[list[Sample]] = []
        self.decode_s = 0.0

    def measure(self) -> Iterator[Record]:
        rig, now = self.rig, self.rig.clock.now
        begun = rung_start = now()
        at = utc_now()
        rig.watcher.begin(self.cells[0])
        warmups = rig.warm_up()
        climb_start = now()
        self._climb_short()
        repeat = len(self.short)
        rig.restart(repeat)
        rig.memory.start_cell()
        climb: list[Sample] = []
        readings: list[MemoryReading] = []
        for index, cell in enumerate(self.cells):
            rig.watcher.begin(cell)
            left_s = min(self.budgets.cell_s, self.budgets.series_s - (now() - begun))
            if rig.predict_s(rig.position, cell.context_tokens) > left_s:
                yield from self._over_budget(self.cells[index:], left_s)
                return
            with rig.power.phase("prefill"):
                samples, read = rig.climb(cell.context_tokens, repeat)
            climb += samples
            readings += read
            mark = rig.backend.snapshot()
            climb_s = now() - climb_start - self.decode_s
            decode, decode_readings, stop = self._decode(cell, mark)
            yield ok_record(
                rig,
                cell,
                samples=(*self._reached(cell), *climb, *decode),
                warmups=warmups,
                memory=(*thin(readings, MAX_PREFILL_READINGS), *decode_readings),
                stopped_by=stop,
                power=rig.power.take("decode"),
                climb_s=climb_s,
                started_at=at,
                elapsed_s=now() - rung_start,
            )
            at, rung_start, warmups = utc_now(), now(), ()

    def _decode(self, cell: Cell, mark: object) -> tuple[list[Sample], list[MemoryReading], Stop]:
        """Runs of ``generate_tokens`` from the mark until quiet; ends back at the mark."""
        rig, start = self.rig, self.rig.clock.now()
        taken: list[Sample] = []
        readings: list[MemoryReading] = []
        stop: Stop | None = None
        for run in range(rig.procedure.repeats):
            with rig.power.phase("decode"):
                stop = rig.decode(taken, [] if run else readings, cell.generate_tokens, run)
            self.decode_s += rig.clock.now() - start
            rig.backend.restore(mark)
            start = rig.clock.now()
            if stop:
                break
        return taken, readings, stop or "count"

    def _climb_short(self) -> None:
        """Climb again to low rungs, so that they have repeats, within a share of the longest climb.

        The first goes to the lowest rung and says what the others may cost. They come first
        because a record is final once it is written.
        """
        rig, share = self.rig, self.rig.procedure.extra_climb_share
        lowest, longest = self.cells[0].context_tokens, self.cells[-1].context_tokens
        if lowest > share * longest:
            return
        spent_s, extra = 0.0, rig.procedure.repeats - 1
        for repeat in range(extra):
            budget_s = share * rig.predict_s(0, longest) - spent_s
            each_s = budget_s / (extra - repeat)
            within = [c for c in self.cells if rig.predict_s(0, c.context_tokens) <= each_s]
            if repeat and not within:
                continue
            cell = within[-1] if repeat else self.cells[0]
            rig.watcher.begin(cell)
            start = rig.clock.now()
            self.short.append(self._climb_to(cell, len(self.short)))
            spent_s += rig.clock.now() - start

    def _climb_to(self, top: Cell, repeat: int) -> list[Sample]:
        """One short climb, in the same chunks as the long one: they end at every rung."""
        self.rig.restart(repeat)
        samples = []
        for cell in self.cells:
            if cell.context_tokens <= top.context_tokens:
                samples += self.rig.climb(cell.context_tokens, repeat)[0]
        return samples

    def _reached(self, cell: Cell) -> Iterator[Sample]:
        """Chunks up to the cell's context of the short climbs that came so far."""
        for climb in self.short:
            if climb[-1].position + climb[-1].tokens >= cell.context_tokens:
                yield from (s for s in climb if s.position + s.tokens <= cell.context_tokens)

    def _over_budget(self, cells: Sequence[Cell], left_s: float) -> Iterator[Record]:
        for cell in cells:
            seconds = self.rig.predict_s(self.rig.position, cell.context_tokens)
            yield over_budget(cell, seconds, left_s)


def over_budget(cell: Cell, predicted_s: float, left_s: float) -> Record:
    """A cell that was not begun because it would take too long."""
    return Record(
        cell=cell,
        status=Status.OVER_BUDGET,
        detail=f"predicted {predicted_s:.3g} s, {max(0.0, left_s):.3g} s are left; "
        "raise budgets.cell_s or budgets.series_s",
        predicted_s=predicted_s,
        started_at=utc_now(),
    )


def ok_record(rig: Rig, cell: Cell, **measured: Any) -> Record:
    """The record of a cell that was measured, with what the engine says of itself now.

    Raises ``PrefixCacheHit``.
    """
    engine = rig.backend.engine()
    if engine.get("cached_tokens"):
        raise PrefixCacheHit(
            f"cached_tokens = {engine['cached_tokens']}: the engine answered from a prefix cache; "
            "switch it off for this series"
        )
    cost = rig.backend.cost(cell.context_tokens)
    return Record(cell=cell, status=Status.OK, cost=cost, engine=engine, **measured)
