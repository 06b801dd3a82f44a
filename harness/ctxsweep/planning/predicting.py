"""Predictions of one or several models over contexts and batches, and where they cross."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise

from ctxsweep.models import accounting
from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning import footprint as memory
from ctxsweep.planning.answers import (
    Crossing,
    Ended,
    Predicted,
    PredictedCell,
    PredictedModel,
    Quantity,
    Reach,
)
from ctxsweep.planning.deployment import Deployment
from ctxsweep.planning.devices import Device
from ctxsweep.planning.remarks import remarks, stretched_reach
from ctxsweep.planning.roofline import predict, rates
from ctxsweep.scenario_units import MAX_CONTEXT_TOKENS

QUANTITIES: tuple[Quantity, ...] = ("decode_s", "prefill_s", "total_bytes")
STEPS_PER_OCTAVE = 4


def predict_all(
    configs: Sequence[ModelConfig],
    deployment: Deployment,
    device: Device,
    contexts: Sequence[int],
    batch_sizes: Sequence[int],
) -> Predicted:
    """Every model at every context and batch; ``deployment``'s own batch is not used.

    A model with a table of positions has no cells beyond it.

    Raises:
        BadDeployment: a model cannot be split over so many devices.
    """
    wanted = [deployment.model_copy(update={"batch_size": batch}) for batch in batch_sizes]
    return Predicted(
        device=device,
        weight_dtype=deployment.weight_dtype,
        kv_dtype=_cache_dtype(deployment),
        state_dtype=deployment.recurrent_dtype,
        tensor_parallel=deployment.tensor_parallel,
        prefill_chunk=deployment.prefill_chunk,
        page_size=deployment.page_size,
        reserve_share=deployment.reserve_share,
        reserve_bytes=memory.reserve_bytes(deployment, device.memory_bytes),
        flops_per_s=rates(deployment, device)[0],
        contexts=tuple(contexts),
        batch_sizes=tuple(batch_sizes),
        models=tuple(_model(config, wanted, device, contexts) for config in configs),
        cells=tuple(
            predicted_cell(config, one, device, context)
            for config in configs
            for one in wanted
            for context in contexts
            if context <= (memory.last_position(config) or context)
        ),
        crossings=tuple(
            crossing
            for one in wanted
            for pair in combinations([_curve(config, one, device) for config in configs], 2)
            for crossing in _crossings(*pair, contexts, one.batch_size)
        ),
    )


def predicted_cell(
    config: ModelConfig, deployment: Deployment, device: Device, context_tokens: int
) -> PredictedCell:
    """``roofline.predict`` in plain figures."""
    found = predict(config, deployment, device, context_tokens)
    return PredictedCell(
        model=config.name,
        context_tokens=context_tokens,
        batch_size=deployment.batch_size,
        **found.footprint.model_dump(),
        total_bytes=found.footprint.total_bytes,
        fits=found.fits,
        prefill_s=found.prefill.seconds,
        prefill_limited_by=found.prefill.limited_by,
        prefill_parts_s=found.prefill.parts,
        decode_s=found.decode.seconds,
        decode_limited_by=found.decode.limited_by,
        decode_parts_s=found.decode.parts,
        tokens_per_s=found.tokens_per_s,
        prefill_energy_j=found.prefill_energy_j,
        energy_j_per_token=found.energy_j_per_token,
    )


def _cache_dtype(deployment: Deployment) -> str:
    return deployment.activation_dtype if deployment.kv_dtype == "auto" else deployment.kv_dtype


def _model(
    config: ModelConfig, wanted: Sequence[Deployment], device: Device, contexts: Sequence[int]
) -> PredictedModel:
    one = wanted[0].model_copy(update={"batch_size": 1})
    ways = one.tensor_parallel
    growth = accounting.cache_bytes_per_token(config, one.storage, 1)
    return PredictedModel(
        name=config.name,
        parameters=sum(parameters(config).values()),
        weights_bytes=memory.weights_bytes(config, one),
        activations_bytes=memory.activations_bytes(config, wanted[-1]),
        cache_bytes_per_token=growth * memory.kv_share(config, ways),
        state_bytes=memory.cache_bytes(config, one, 0),
        window_tokens=config.attention.span if config.attention else None,
        trained_tokens=config.trained_context,
        stretched_tokens=stretched_reach(config),
        reaches=tuple(_reach(config, each, device) for each in wanted),
        remarks=remarks(config, one, device, contexts),
    )


def _reach(config: ModelConfig, deployment: Deployment, device: Device) -> Reach:
    longest = memory.longest_context(config, deployment, device.memory_bytes)
    batch = deployment.batch_size
    if full := memory.what_is_too_large(config, deployment, device.memory_bytes):
        part, needed = full
        return Reach(batch_size=batch, context_tokens=0, ended_by=part, needed_bytes=needed)
    if memory.unbounded(config, deployment, longest):
        return Reach(batch_size=batch, context_tokens=None, ended_by="nothing")
    ended_by: Ended = "positions" if longest == memory.last_position(config) else "cache"
    if longest == MAX_CONTEXT_TOKENS:
        ended_by = "search"
    return Reach(batch_size=batch, context_tokens=longest, ended_by=ended_by)


@dataclass(frozen=True)
class _Curve:
    """A model's cells by context, each computed once; ``last``: where its positions end."""

    model: str
    at: Callable[[int], PredictedCell]
    last: int | None


def _curve(config: ModelConfig, deployment: Deployment, device: Device) -> _Curve:
    @cache
    def at(context_tokens: int) -> PredictedCell:
        return predicted_cell(config, deployment, device, context_tokens)

    return _Curve(config.name, at, memory.last_position(config))


def _crossings(
    first: _Curve, second: _Curve, contexts: Sequence[int], batch_size: int
) -> Iterator[Crossing]:
    """Per quantity every place where the cheaper one changes, or that none does, as far as both
    fit. Nothing if they nowhere do."""
    last = min(curve.last or max(contexts) for curve in (first, second))
    end = _last_fitting(first, second, min(contexts), min(last, max(contexts)))
    if end is None:
        return
    grid = _between(min(contexts), end)
    base = {"batch_size": batch_size, "from_tokens": grid[0], "to_tokens": grid[-1]}

    def made(quantity: Quantity, order: bool | None, at: int | None) -> Crossing:
        """``order``: whether the first is the dearer before; None: they are equal throughout."""
        below, above = (second, first) if order else (first, second)
        return Crossing(
            quantity=quantity,
            below=below.model,
            above=above.model,
            context_tokens=at,
            equal=order is None,
            **base,
        )

    for quantity in QUANTITIES:

        def gap(context: int, quantity: Quantity = quantity) -> float:
            dear, cheap = (getattr(curve.at(context), quantity) for curve in (first, second))
            return float(dear - cheap)

        signs = [(n, gap(n) > 0) for n in grid if gap(n)]
        changes = [(a, b) for a, b in pairwise(signs) if a[1] != b[1]]
        for (low, dearer), (high, _) in changes:
            while high - low > 1:
                middle = (low + high) // 2
                same = (gap(middle) > 0) == dearer
                low, high = (middle, high) if same else (low, middle)
            yield made(quantity, dearer, high)
        if not changes:
            yield made(quantity, signs[0][1] if signs else None, None)


def _last_fitting(first: _Curve, second: _Curve, low: int, high: int) -> int | None:
    """The longest context from ``low`` to ``high`` at which both fit; None: there is none."""

    def fit(context: int) -> bool:
        return first.at(context).fits and second.at(context).fits

    if low > high or not fit(low):
        return None
    if fit(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit(middle) else (low, middle)
    return low


def _between(low: int, high: int) -> list[int]:
    """Contexts from ``low`` to ``high``, a few to every doubling."""
    grid, step = [low], 2 ** (1 / STEPS_PER_OCTAVE)
    while grid[-1] * step < high:
        grid.append(max(grid[-1] + 1, round(grid[-1] * step)))
    return [*grid, high] if high > low else grid
