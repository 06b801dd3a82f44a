"""What one layer of each recurrent mixer demands, by arithmetic on its configuration.

FLOPs are products and sums of the form that runs: the chunked form in prefill, the recurrence
in decode. Norms, activations, exponentials and masks are left out. Per token they are the same
at every context: that is what makes these models linear. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ctxsweep.models import accounting_rwkv as rwkv
from ctxsweep.models.config import Mamba, ModelConfig, Retention
from ctxsweep.records import DType

# Tokens per chunk in prefill: the defaults of the ops.
SSD_CHUNK = 64
RETENTION_CHUNK = 64

PerLayer = Callable[[ModelConfig, int], int]


@dataclass(frozen=True)
class MixerCost:
    """One layer's costs: functions of (config, layer index); FLOPs are per token.

    ``linears``: weights of the matrices that a token is multiplied with; all others are vectors and
    convolutions. RWKV's channel mix is a part of its linears, FLOPs and state, and apart in the
    parameters.
    """

    parameters: PerLayer
    linears: PerLayer
    prefill_flops: PerLayer
    decode_flops: PerLayer
    # of one sequence: (values of the model's dtype, values of the recurrent dtype)
    state_values: Callable[[ModelConfig], tuple[int, int]]


def mixer_parameters(config: ModelConfig, kind: str, layer: int) -> int:
    """Parameters of one layer's mixer."""
    return RECURRENT[kind].parameters(config, layer)


def mixer_linears(config: ModelConfig, kind: str, layer: int) -> int:
    """Weights of one layer's matrices; of RWKV with those of its channel mix."""
    return RECURRENT[kind].linears(config, layer)


def ffn_parameters(config: ModelConfig) -> int:
    """Parameters of one layer of RWKV's channel mix."""
    if config.rwkv6 is not None:  # mixes of keys and receptances
        return rwkv.rwkv6_channel_mix_linears(config) + 2 * config.hidden_size
    return rwkv.rwkv7_channel_mix_linears(config) + config.hidden_size


def state_bytes(
    config: ModelConfig, kind: str, dtype: DType, recurrent_dtype: DType = "float32"
) -> int:
    """Bytes of one sequence's state in one layer.

    The models here hold the recurrent part in float32, whatever ``dtype`` is; other engines may
    hold it in ``recurrent_dtype``.
    """
    narrow, recurrent = RECURRENT[kind].state_values(config)
    return narrow * _bytes_of(dtype) + recurrent * _bytes_of(recurrent_dtype)


def _bytes_of(dtype: DType) -> int:
    return 4 if dtype == "float32" else 2


def flops(config: ModelConfig, kind: str, tokens: int, calls: int, layer: int) -> float:
    """FLOPs of one layer over ``tokens`` of a sequence, spread over so many calls.

    Calls of one token are decode steps. ``layer`` matters where it is 0: RWKV-7's first
    layer has no values to mix in.
    """
    cost = RECURRENT[kind]
    per_token = cost.decode_flops if tokens == calls else cost.prefill_flops
    return float(tokens * per_token(config, layer))


def _mamba(config: ModelConfig) -> tuple[Mamba, int, int]:
    """The section, hidden and inner width."""
    assert config.mamba is not None
    return config.mamba, config.hidden_size, config.hidden_size * config.mamba.expand


# Mamba-1 ------------------------------------------------------------------------------------


def _mamba1_linears(config: ModelConfig, layer: int) -> int:
    mamba, hidden, inner = _mamba(config)
    rank = config.dt_rank
    return 3 * hidden * inner + inner * (rank + 2 * mamba.state_size) + rank * inner


def _mamba1_parameters(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    per_channel = mamba.conv_kernel + mamba.state_size + 3  # + biases of conv and dt, D
    rank = config.dt_rank
    norms = rank + 2 * mamba.state_size if mamba.inner_norms else 0
    return _mamba1_linears(config, layer) + inner * per_channel + norms


def _mamba1_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    scan = 6 * inner * mamba.state_size  # dt A, (dt u) B, two of the recurrence, two of h C
    return 2 * _mamba1_linears(config, layer) + 2 * mamba.conv_kernel * inner + scan


def _mamba1_state(config: ModelConfig) -> tuple[int, int]:
    mamba, _, inner = _mamba(config)
    return (mamba.conv_kernel - 1) * inner, inner * mamba.state_size


# Mamba-2 ------------------------------------------------------------------------------------


def _mamba2_widths(config: ModelConfig) -> tuple[int, int]:
    """Heads, channels of the convolution."""
    mamba, _, inner = _mamba(config)
    return inner // mamba.head_dim, inner + 2 * mamba.groups * mamba.state_size


def _mamba2_linears(config: ModelConfig, layer: int) -> int:
    _, hidden, inner = _mamba(config)
    heads, conv = _mamba2_widths(config)
    return hidden * (inner + conv + heads) + inner * hidden


def _mamba2_parameters(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    heads, conv = _mamba2_widths(config)
    vectors = conv * (mamba.conv_kernel + 1) + 3 * heads + inner
    return _mamba2_linears(config, layer) + vectors


def _mamba2_shared_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, _ = _mamba(config)
    _, conv = _mamba2_widths(config)
    return 2 * _mamba2_linears(config, layer) + 2 * mamba.conv_kernel * conv


def _mamba2_prefill_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    inside = 2 * SSD_CHUNK * (mamba.groups * mamba.state_size + inner)
    return _mamba2_shared_flops(config, layer) + inside + 4 * inner * mamba.state_size


def _mamba2_decode_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    return _mamba2_shared_flops(config, layer) + 5 * inner * mamba.state_size


def _mamba2_state(config: ModelConfig) -> tuple[int, int]:
    mamba, _, inner = _mamba(config)
    _, conv = _mamba2_widths(config)
    return (mamba.conv_kernel - 1) * conv, inner * mamba.state_size


# Retention ----------------------------------------------------------------------------------


def _retention(config: ModelConfig) -> tuple[Retention, int, int]:
    """The section, hidden and value width."""
    assert config.retention is not None
    return config.retention, config.hidden_size, config.hidden_size * config.retention.value_expand


def _retention_linears(config: ModelConfig, layer: int) -> int:
    _, hidden, value = _retention(config)
    return hidden * (2 * hidden + 3 * value)


def _retention_parameters(config: ModelConfig, layer: int) -> int:
    _, _, value = _retention(config)
    return _retention_linears(config, layer) + 2 * value


def _retention_prefill_flops(config: ModelConfig, layer: int) -> int:
    section, hidden, value = _retention(config)
    inside = 2 * RETENTION_CHUNK * (hidden + value)
    return 2 * _retention_linears(config, layer) + inside + 4 * hidden * value // section.heads


def _retention_decode_flops(config: ModelConfig, layer: int) -> int:
    section, hidden, value = _retention(config)
    return 2 * _retention_linears(config, layer) + 5 * hidden * value // section.heads


def _retention_state(config: ModelConfig) -> tuple[int, int]:
    section, hidden, value = _retention(config)
    return 0, hidden * value // section.heads


RECURRENT: Mapping[str, MixerCost] = MappingProxyType(
    {
        "mamba1": MixerCost(
            _mamba1_parameters, _mamba1_linears, _mamba1_flops, _mamba1_flops, _mamba1_state
        ),
        "mamba2": MixerCost(
            _mamba2_parameters,
            _mamba2_linears,
            _mamba2_prefill_flops,
            _mamba2_decode_flops,
            _mamba2_state,
        ),
        "rwkv6": MixerCost(
            rwkv.rwkv6_parameters,
            rwkv.rwkv6_linears,
            rwkv.rwkv6_prefill_flops,
            rwkv.rwkv6_decode_flops,
            rwkv.rwkv6_state,
        ),
        "rwkv7": MixerCost(
            rwkv.rwkv7_parameters,
            rwkv.rwkv7_linears,
            rwkv.rwkv7_prefill_flops,
            rwkv.rwkv7_decode_flops,
            rwkv.rwkv7_state,
        ),
        "retention": MixerCost(
            _retention_parameters,
            _retention_linears,
            _retention_prefill_flops,
            _retention_decode_flops,
            _retention_state,
        ),
    }
)
