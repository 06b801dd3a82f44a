"""The sentences and figures of a prediction, for the terminal, Markdown and the page."""

from __future__ import annotations

from ctxsweep.planning.answers import (
    Crossing,
    Limit,
    Part,
    Predicted,
    PredictedCell,
    PredictedModel,
    Quantity,
    Reach,
)
from ctxsweep.report.units import (
    BYTES,
    BYTES_PER_S,
    FLOPS,
    JOULES,
    PLAIN,
    SECONDS,
    TOKENS,
    WATTS,
)

QUANTITIES: dict[Quantity, str] = {
    "decode_s": "Least time per generated token",
    "prefill_s": "Least time to read the context (prefill)",
    "total_bytes": "Memory on each device",
}
SHORT: dict[Quantity, str] = {
    "decode_s": "time per token",
    "prefill_s": "prefill",
    "total_bytes": "memory",
}
HEADS = ("cache", "total", "prefill", "per token", "tok/s", "limited by")
LIMITS: dict[Limit, str] = {
    "arithmetic": "compute",
    "memory bandwidth": "memory",
    "interconnect": "links",
}
MOST_NAMED = 2
PARTS: dict[Part, str] = {
    "weights": "the weights",
    "activations": "weights and activations",
    "states": "weights, activations and states",
    "cache": "weights, activations and the first token's cache",
}
"""What is held up to and with a part, in the order in which memory fills."""
BOUNDS = "least times (roofline bounds); real engines take longer"


def headline(found: Predicted) -> str:
    """What this is of, and that it is bounds."""
    names = ", ".join(model.name for model in found.models[:MOST_NAMED])
    if len(found.models) > MOST_NAMED:
        names = f"{len(found.models)} models"
    return f"{names} on {places(found)}: {BOUNDS}"


def places(found: Predicted) -> str:
    """The device, and how many."""
    name = device_name(found)
    return name if found.tensor_parallel == 1 else f"{found.tensor_parallel} × {name}"


def device_name(found: Predicted) -> str:
    """The name of one device."""
    return "this machine" if found.device.measured else found.device.name


def assumptions(found: Predicted) -> tuple[str, ...]:
    """The device's figures with their source, and the settings."""
    device = found.device
    figures = [
        BYTES.text(device.memory_bytes),
        BYTES_PER_S.text(device.read_bytes_per_s),
        FLOPS.text(found.flops_per_s),
    ]
    if device.board_power_w is not None:
        figures.append(WATTS.text(device.board_power_w))
    each = "each " if found.tensor_parallel > 1 else ""
    batches = ", ".join(str(batch) for batch in found.batch_sizes)
    calls = TOKENS.text(found.prefill_chunk)
    states = ""
    if any(model.state_bytes for model in found.models):
        states = f"states {found.state_dtype}, "
    return (
        f"Device: {each}{', '.join(figures)} ({device.source}).",
        f"Weights {found.weight_dtype}, cache {found.kv_dtype}, {states}batch {batches}; prefill "
        f"in calls of {calls} tokens.",
    )


def weights_line(found: Predicted, model: PredictedModel) -> str:
    """What does not change with the context."""
    each = " on each device" if found.tensor_parallel > 1 else ""
    cells = found.cells_of(model.name)
    called = max((cell.prefill_cache_bytes for cell in cells), default=0)
    behind = f", a prefill call behind the window up to {BYTES.text(called)}" if called else ""
    return (
        f"Memory{each}: weights {BYTES.text(model.weights_bytes)}, activations about "
        f"{_activations(found, model)}{behind}, kept back {BYTES.text(found.reserve_bytes)} "
        f"({found.reserve_share:.0%})."
    )


def _activations(found: Predicted, model: PredictedModel) -> str:
    """Of every batch, if they differ."""
    held = {cell.batch_size: cell.activations_bytes for cell in found.cells_of(model.name)}
    texts = {batch: BYTES.text(size) for batch, size in held.items()}
    if len(set(texts.values())) <= 1:
        return BYTES.text(next(iter(held.values()), model.activations_bytes))
    return ", ".join(f"{text} (batch {batch})" for batch, text in texts.items())


def row(cell: PredictedCell) -> tuple[str, ...]:
    """A cell as texts: context, batch, then as in ``HEADS``; the limits of prefill and decode."""
    return (
        TOKENS.text(cell.context_tokens),
        str(cell.batch_size),
        BYTES.text(cell.cache_bytes),
        BYTES.text(cell.total_bytes) + ("" if cell.fits else " ✕"),
        SECONDS.text(cell.prefill_s),
        SECONDS.text(cell.decode_s),
        rate(cell.tokens_per_s),
        f"{LIMITS[cell.prefill_limited_by]}/{LIMITS[cell.decode_limited_by]}",
    )


def rate(tokens_per_s: float) -> str:
    """Tokens per second, without decimals that a bound does not bear."""
    return PLAIN.text(float(f"{tokens_per_s:.3g}"))


def value(cell: PredictedCell, quantity: Quantity) -> str:
    """One figure of a cell, short enough to stand beside seven others."""
    if quantity == "total_bytes":
        return BYTES.text(cell.total_bytes).replace("iB", "").replace(" ", "")
    seconds = cell.decode_s if quantity == "decode_s" else cell.prefill_s
    return SECONDS.text(seconds).replace(" ", "")


def reach_lines(found: Predicted, model: PredictedModel) -> list[str]:
    """The longest context that fits, a line per batch, and what ends it."""
    return [_reach(found, model, reach) for reach in model.reaches]


def _reach(found: Predicted, model: PredictedModel, reach: Reach) -> str:
    batch = f" (batch {reach.batch_size})" if len(model.reaches) > 1 or reach.batch_size > 1 else ""
    if reach.context_tokens == 0 and reach.ended_by in PARTS:
        held = BYTES.text(reach.needed_bytes or 0)
        free = BYTES.text(found.device.memory_bytes - found.reserve_bytes)
        what = next(words for part, words in PARTS.items() if part == reach.ended_by)
        if not model.state_bytes:
            what = what.replace(", activations and states", " and activations")
        return f"Does not fit{batch}: {what} take {held} of {free}."
    if reach.context_tokens is None:
        return f"Any context fits{batch}: {_constant(model)}."
    if reach.ended_by == "search":
        return f"{TOKENS.text(reach.context_tokens)} tokens fit{batch}, and perhaps more."
    end = f"Longest context that fits{batch}: {TOKENS.text(reach.context_tokens)} tokens"
    if reach.ended_by == "positions":
        return f"{end}, where its table of positions ends."
    several = " and sequence" if reach.batch_size > 1 else ""
    each = f"{BYTES.text(model.cache_bytes_per_token)} of cache a token{several}"
    known = model.stretched_tokens or model.trained_tokens
    if known is not None and reach.context_tokens > known:
        return f"{end} ({each}); {_training(model)}."
    return f"{end} ({each})."


def _training(model: PredictedModel) -> str:
    known = (("trained", model.trained_tokens), ("stretched", model.stretched_tokens))
    return ", ".join(f"{word} to {TOKENS.text(count)}" for word, count in known if count)


def _constant(model: PredictedModel) -> str:
    if model.window_tokens is not None:
        return f"its window keeps {TOKENS.text(model.window_tokens)} tokens"
    return f"its state is {BYTES.text(model.state_bytes)} at every context"


def limits_line(found: Predicted) -> str:
    """What limits prefill and decode, with the words of the column beside."""
    if not found.cells:
        return ""
    prefill = _used([cell.prefill_limited_by for cell in found.cells])
    decode = _used([cell.decode_limited_by for cell in found.cells])
    return f"Prefill is limited by {prefill}, decode by {decode}."


def _used(limits: list[Limit]) -> str:
    return " or ".join(f"{limit} ({word})" for limit, word in LIMITS.items() if limit in limits)


def energy_line(found: Predicted) -> str:
    """Energy per token at both ends of the first batch; empty for several models, or without a
    figure of the power."""
    cells = [cell for cell in found.cells if cell.energy_j_per_token is not None]
    if not cells or len(found.models) > 1:
        return ""
    first, last = cells[0], found.cells_of(cells[0].model, cells[0].batch_size)[-1]
    low, high = (JOULES.text(cell.energy_j_per_token or 0.0) for cell in (first, last))
    where = f"{low} at {TOKENS.text(first.context_tokens)}"
    if last is not first:
        where += f", {high} at {TOKENS.text(last.context_tokens)}"
    batch = (
        f" (batch {first.batch_size})" if len(found.batch_sizes) > 1 or first.batch_size > 1 else ""
    )
    return f"Energy of a token{batch} at full board power over the least time: {where}."


def crossing_lines(found: Predicted) -> list[str]:
    """Every crossing by quantity and context, and which models need the same; of two models also
    where there is none, and whether they nowhere both fit."""
    several = len(found.models) > 2
    order = list(QUANTITIES)
    shown = [one for one in found.crossings if one.context_tokens is not None or not several]
    shown = [one for one in shown if not one.equal]
    shown.sort(key=lambda one: (order.index(one.quantity), one.context_tokens or 0))
    lines = [_crossing(found, one) for one in shown] + _equal(found)
    pairs = {(one.batch_size, *sorted((one.below, one.above))) for one in found.crossings}
    if len(found.models) == 2:
        held = {batch for batch, *_ in pairs}
        apart = [batch for batch in found.batch_sizes if batch not in held]
        lines += [f"Nowhere do both fit{_of_batch(found, batch)}." for batch in apart]
    elif several and pairs:
        low, high = TOKENS.text(found.contexts[0]), TOKENS.text(found.contexts[-1])
        rest = "All other pairs" if lines else "All pairs"
        lines.append(f"{rest} keep their order from {low} to {high} tokens, as far as both fit.")
    elif several:
        lines.append("No two of them fit at once anywhere.")
    return lines


def _crossing(found: Predicted, one: Crossing) -> str:
    what = f"{SHORT[one.quantity].capitalize()}{_of_batch(found, one.batch_size)}: {one.below}"
    if one.context_tokens is None:
        return f"{what} needs less {_range(found, one)}."
    return f"{what} needs less up to {TOKENS.text(one.context_tokens)} tokens, {one.above} beyond."


def _range(found: Predicted, one: Crossing) -> str:
    """The contexts that were compared; why they end earlier than was asked for."""
    low, high = TOKENS.text(one.from_tokens), TOKENS.text(one.to_tokens)
    where = (
        f"from {low} to {high} tokens" if one.to_tokens > one.from_tokens else f"at {low} tokens"
    )
    return where if one.to_tokens == found.contexts[-1] else f"{where}, as far as both fit"


def _equal(found: Predicted) -> list[str]:
    """A line for every pair that needs the same, with all that it needs the same of."""
    pairs: dict[tuple[str, str, int], list[Crossing]] = {}
    for one in found.crossings:
        if one.equal:
            pairs.setdefault((one.below, one.above, one.batch_size), []).append(one)
    return [
        f"{', '.join(SHORT[one.quantity] for one in ones).capitalize()}"
        f"{_of_batch(found, batch)}: {first} and {second} need the same {_range(found, ones[0])}."
        for (first, second, batch), ones in pairs.items()
    ]


def _of_batch(found: Predicted, batch: int) -> str:
    return f", batch {batch}" if len(found.batch_sizes) > 1 else ""


def all_remarks(found: Predicted) -> list[str]:
    """Each remark once, with the models that it is of unless it is of all."""
    names: dict[str, list[str]] = {}
    for model in found.models:
        for remark in model.remarks:
            names.setdefault(remark, []).append(model.name)
    everyone = len(found.models)
    return [
        remark if len(of) == everyone else f"{', '.join(of)}: {remark}"
        for remark, of in names.items()
    ]


def notes(found: Predicted) -> list[str]:
    """What to know beside the figures: what limits, energy, remarks."""
    said = [limits_line(found), energy_line(found), *all_remarks(found)]
    return [line for line in said if line]
