"""Which models fit into an amount of memory, in which types, at which context and batch."""

from __future__ import annotations

from collections.abc import Sequence

from ctxsweep.models.accounting_parameters import parameters
from ctxsweep.models.config import ModelConfig
from ctxsweep.planning.answers import Fit, FitRow, FitTable
from ctxsweep.planning.deployment import BadDeployment, Deployment, WeightDType, check
from ctxsweep.planning.devices import Device
from ctxsweep.planning.footprint import MAX_BATCH, largest_batch, longest_context, unbounded
from ctxsweep.planning.remarks import stretched_reach
from ctxsweep.planning.roofline import decode_bound


def fit_table(
    configs: Sequence[ModelConfig],
    memory_bytes: int,
    deployment: Deployment,
    weight_dtypes: Sequence[WeightDType],
    context_tokens: int,
    device: Device | None = None,
) -> FitTable:
    """Every model in every type on devices of ``memory_bytes``, the largest models first.

    The longest context is for ``deployment``'s batch. With a device the least time of a token at
    ``context_tokens`` stands beside, of the widest type that fits.
    """
    rows = [
        _row(config, memory_bytes, deployment, weight_dtypes, context_tokens, device)
        for config in configs
    ]
    return FitTable(
        memory_bytes=memory_bytes,
        devices=deployment.tensor_parallel,
        device=None if device is None else device.name,
        kv_dtype=deployment.kv_dtype,
        state_dtype=deployment.state_dtype,
        reserve_share=deployment.reserve_share,
        weight_dtypes=tuple(weight_dtypes),
        batch_size=deployment.batch_size,
        context_tokens=context_tokens,
        rows=tuple(sorted(rows, key=lambda row: (-row.parameters, row.model))),
    )


def _row(
    config: ModelConfig,
    memory_bytes: int,
    deployment: Deployment,
    weight_dtypes: Sequence[WeightDType],
    context_tokens: int,
    device: Device | None,
) -> FitRow:
    fits, problem = [], ""
    try:
        check(config, deployment)
        fits = [
            _fit(config, memory_bytes, deployment, dtype, context_tokens, device)
            for dtype in weight_dtypes
        ]
    except BadDeployment as error:
        problem = str(error)
    return FitRow(
        model=config.name,
        parameters=sum(parameters(config).values()),
        trained_tokens=config.trained_context,
        stretched_tokens=stretched_reach(config),
        fits=tuple(fits),
        problem=problem,
    )


def _fit(
    config: ModelConfig,
    memory_bytes: int,
    deployment: Deployment,
    dtype: WeightDType,
    context_tokens: int,
    device: Device | None,
) -> Fit:
    one = deployment.model_copy(update={"weight_dtype": dtype})
    longest = longest_context(config, one, memory_bytes)
    batch = 0
    if longest >= context_tokens or deployment.batch_size > 1:
        single = one.model_copy(update={"batch_size": 1})
        if longest_context(config, single, memory_bytes) >= context_tokens:
            batch = largest_batch(config, one, memory_bytes, context_tokens)
    seconds = None
    if device is not None and longest >= context_tokens:
        seconds = decode_bound(config, one, device, context_tokens).seconds
    return Fit(
        weight_dtype=dtype,
        longest_context=None if unbounded(config, one, longest) else longest,
        largest_batch=batch,
        larger_not_sought=batch == MAX_BATCH,
        decode_s=seconds,
    )
