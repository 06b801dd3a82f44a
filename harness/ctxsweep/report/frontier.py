"""How far each series goes within the limits: words for the terminal, the page and the chart."""

from __future__ import annotations

from ctxsweep.analysis.frontier_summary import (
    FrontierLine,
    FrontierProbe,
    FrontierSummary,
    Quantity,
    Reason,
)
from ctxsweep.analysis.summary import Summary
from ctxsweep.report.rows import interval_text
from ctxsweep.report.table import Table
from ctxsweep.report.units import BYTES, SECONDS, TOKENS, unit_of

REASONS: dict[Reason, str] = {
    "memory": "out of memory",
    "decode": "decode too slow",
    "prefill": "prefill too slow",
    "positions": "its positions end",
    "time": "budget spent",
    "load": "did not start",
    "unsupported": "not supported",
    "error": "error",
}
TITLES: dict[Quantity, str] = {"context_tokens": "Longest context", "batch_size": "Largest batch"}
NEXT: dict[Reason, str] = {
    "memory": "raise frontier.within.memory, or narrow the cache: kv_dtype, window",
    "decode": "raise frontier.within.decode, or take a model that reads less per token",
    "prefill": "raise frontier.within.prefill",
    "positions": "take a model with rotary positions",
    "time": "raise budgets.cell_s: this is no limit of the model",
    "load": "raise budgets.load_s: this is no limit of the model",
    "unsupported": "see why: this is no limit of memory or time",
    "error": "see why: this is no limit of memory or time",
}


CONTENDED = 0.25
"""Share of contended samples from which a time is doubted."""


def limits_text(found: FrontierSummary) -> str:
    """``400 MiB, 20 ms a token and 4 s of prefill``."""
    memory = found.memory_bytes
    parts = ["the free memory" if memory is None else BYTES.text(memory)]
    parts += [f"{SECONDS.text(found.decode_s)} a token"] if found.decode_s else []
    parts += [f"{SECONDS.text(found.prefill_s)} of prefill"] if found.prefill_s else []
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def value_text(quantity: Quantity, value: int) -> str:
    """An exact number of tokens or of sequences: ``18K``, ``1,000``."""
    whole = quantity == "context_tokens" and value % 1024 == 0
    return f"{value // 1024:,}K" if whole else f"{value:,}"


def at_text(line: FrontierLine) -> str:
    """What was held: ``batch 4`` or ``at 8K``."""
    return f"batch {line.at}" if line.quantity == "context_tokens" else f"at {TOKENS.text(line.at)}"


def line_names(found: FrontierSummary, quantity: Quantity) -> dict[tuple[str, int], str]:
    """A name per line: the series, and what was held where there are several of it."""
    lines = [line for line in found.lines if line.quantity == quantity]
    several = len({line.at for line in lines}) > 1
    return {
        (line.series, line.at): f"{line.series} {at_text(line)}" if several else line.series
        for line in lines
    }


def finding(line: FrontierLine) -> str:
    """What was found: ``18K runs; 20K: out of memory``, ``at least 64K runs``, …"""
    passes = _runs(line.quantity, line.passes.value) if line.passes else ""
    ends = [_ended(line.quantity, probe) for probe in (line.silent, line.fails) if probe]
    if not line.complete:
        return "; ".join([f"{passes or 'nothing known'} so far", *ends])
    if line.silent:
        return "; ".join([f"at least {passes}" if passes else "not known", *ends])
    if line.stopped_by == "positions":
        return f"{passes}, there {REASONS['positions']}"
    if not ends:
        return f"at least {passes}"
    failed = ", ".join((ends[0], *doubts(line)))
    return f"{passes}; {failed}" if passes else f"not even {failed}"


def _ended(quantity: Quantity, probe: FrontierProbe) -> str:
    """``19K: out of memory``."""
    reason = probe.outcome.reason
    return f"{value_text(quantity, probe.value)}: {REASONS[reason] if reason else 'runs'}"


def doubts(line: FrontierLine) -> list[str]:
    """What makes a limit of time less than certain: noise around it, or other work beside it."""
    if line.stopped_by not in ("decode", "prefill"):
        return []
    shares = [probe.contended_share or 0 for probe in (line.passes, line.fails) if probe]
    busy = max(shares, default=0) > CONTENDED
    return ["within the noise"] * line.close + ["the machine was busy"] * busy


def _runs(quantity: Quantity, value: int) -> str:
    many = quantity == "batch_size" and value > 1
    return f"{value_text(quantity, value)} {'run' if many else 'runs'}"


def frontier_answer(found: FrontierSummary) -> str:
    """A sentence per quantity: ``Longest context within …: a 18K, b at least 64K.``"""
    return " ".join(
        f"{heading}: {', '.join(f'{name} {_short(line)}' for name, line in lines)}."
        for heading, lines in headlines(found)
    )


def _short(line: FrontierLine) -> str:
    """The value, as far as it is one: what a try that says nothing leaves open stays open."""
    text = value_text(line.quantity, line.passes.value) if line.passes else ""
    open_end = line.silent is not None or not line.complete
    if open_end:
        why = f" ({REASONS[line.stopped_by]})" if line.complete and line.stopped_by else ""
        return f"at least {text}{why}" if text else f"not known{why}"
    if not text:
        return "none"
    return text if line.stopped_by else f"at least {text}"


def tries_text(line: FrontierLine) -> str:
    """``6 tries``."""
    return tries_count(line.tries)


def tries_count(tries: int) -> str:
    """``1 try``, ``6 tries``."""
    return "1 try" if tries == 1 else f"{tries} tries"


def headlines(found: FrontierSummary) -> list[tuple[str, list[tuple[str, FrontierLine]]]]:
    """A heading for each quantity that was sought, and its lines with their names."""
    result = []
    for quantity, title in TITLES.items():
        names = line_names(found, quantity)
        lines = [line for line in found.lines if line.quantity == quantity]
        if lines:
            held = {line.at for line in lines}
            at = f" ({at_text(lines[0])})" if len(held) == 1 else ""
            heading = f"{title} within {limits_text(found)}{at}"
            result.append((heading, [(names[one.series, one.at], one) for one in lines]))
    return result


def frontier_tables(summary: Summary) -> list[Table]:
    """One table per quantity: both sides of every limit, with what was measured there."""
    found = summary.frontier
    if found is None:
        return []
    heads = ("Series", "Runs", "Does not", "Why", "Measured there", "Tries", "What would help")
    note = (
        "Found by bisection: the limit lies at what runs or above it, and below what does not. "
        "Every try is a cell of its own in a process of its own; times count by their median."
    )
    return [
        Table(
            f"frontier-{lines[0][1].quantity.partition('_')[0]}",
            heading,
            heads,
            [_row(name, line) for name, line in lines],
            (note,),
            first=True,
        )
        for heading, lines in headlines(found)
    ]


def _row(name: str, line: FrontierLine) -> tuple[str, ...]:
    passes = value_text(line.quantity, line.passes.value) if line.passes else "nothing"
    missing = "not known" if line.silent else "–" if line.stopped_by else "not reached"
    fails = value_text(line.quantity, line.fails.value) if line.fails else missing
    is_open = line.silent is not None or line.stopped_by is None
    return (
        name,
        f"≥ {passes}" if line.passes and is_open else passes,
        fails,
        _why(line),
        _measured(line),
        f"{line.tries} of at most {line.most_tries}",
        _help(line),
    )


def _why(line: FrontierLine) -> str:
    if line.stopped_by is None:
        return "–"
    why = ", ".join((REASONS[line.stopped_by], *doubts(line)))
    at = f" at {value_text(line.quantity, line.silent.value)}" if line.silent else ""
    detail = detail_of(line)
    return f"{why}{at}: {detail}" if detail else f"{why}{at}"


def detail_of(line: FrontierLine) -> str:
    """In one line, what the engine said at the try that ended the search; empty if it ran."""
    end = line.silent or line.fails
    return end.outcome.detail.partition("\n")[0] if end else ""


def _measured(line: FrontierLine) -> str:
    """The time that decides on both sides, or else what the larger one held."""
    if line.stopped_by in ("decode", "prefill"):
        metric = "itl_s" if line.stopped_by == "decode" else "prefill_s"
        texts = [_figure(probe, metric) for probe in (line.passes, line.fails)]
        return " → ".join(text for text in texts if text) or "–"
    peak = _figure(line.passes, "device_peak_bytes") or _figure(line.passes, "process_peak_bytes")
    return f"peak {peak}" if peak else "–"


def _figure(probe: FrontierProbe | None, metric: str) -> str:
    estimate = probe.metrics.get(metric) if probe else None
    if estimate is None:
        return ""
    unit = unit_of(metric)
    has_interval = estimate.low is not None and estimate.low != estimate.high
    text = unit.text(estimate.value)
    return f"{text} ({interval_text(estimate, unit)})" if has_interval else text


def _help(line: FrontierLine) -> str:
    if not line.complete:
        return "the search was interrupted: --resume goes on with it"
    if line.stopped_by is not None:
        return NEXT[line.stopped_by]
    where = "context" if line.quantity == "context_tokens" else "batch"
    return f"to go on, raise frontier.{where}.up_to"
