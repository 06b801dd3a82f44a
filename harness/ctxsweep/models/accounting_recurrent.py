"""What one layer of each recurrent mixer demands, by arithmetic on its configuration.

FLOPs are products and sums of the form that runs: the chunked form in prefill, the recurrence
in decode. Norms, activations, exponentials and masks are left out. Per token they are the same
at every context: that is what makes these models linear. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ctxsweep.models.config import Mamba, ModelConfig, Retention, Rwkv6, Rwkv7
from ctxsweep.records import DType

# Tokens per chunk in prefill: the defaults of the ops.
SSD_CHUNK = 64
WKV6_CHUNK = 64
WKV7_CHUNK = 32
RETENTION_CHUNK = 64

PerLayer = Callable[[ModelConfig, int], int]


@dataclass(frozen=True)
class MixerCost:
    """One layer's costs: functions of (config, layer index); FLOPs are per token.

    RWKV's channel mix is a part of its FLOPs and state, and apart in the parameters.
    """

    parameters: PerLayer
    prefill_flops: PerLayer
    decode_flops: PerLayer
    # of one sequence: (values of the model's dtype, values of the recurrent dtype)
    state_values: Callable[[ModelConfig], tuple[int, int]]


def mixer_parameters(config: ModelConfig, kind: str, layer: int) -> int:
    """Parameters of one layer's mixer."""
    return RECURRENT[kind].parameters(config, layer)


def ffn_parameters(config: ModelConfig) -> int:
    """Parameters of one layer of RWKV's channel mix."""
    if config.rwkv6 is not None:  # mixes of keys and receptances
        return _rwkv6_channel_mix_linears(config) + 2 * config.hidden_size
    return _channel_mix_linears(config) + config.hidden_size


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


def _mamba1_linears(config: ModelConfig) -> int:
    mamba, hidden, inner = _mamba(config)
    rank = config.dt_rank
    return 3 * hidden * inner + inner * (rank + 2 * mamba.state_size) + rank * inner


def _mamba1_parameters(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    per_channel = mamba.conv_kernel + mamba.state_size + 3  # + biases of conv and dt, D
    rank = config.dt_rank
    norms = rank + 2 * mamba.state_size if mamba.inner_norms else 0
    return _mamba1_linears(config) + inner * per_channel + norms


def _mamba1_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    scan = 6 * inner * mamba.state_size  # dt A, (dt u) B, two of the recurrence, two of h C
    return 2 * _mamba1_linears(config) + 2 * mamba.conv_kernel * inner + scan


def _mamba1_state(config: ModelConfig) -> tuple[int, int]:
    mamba, _, inner = _mamba(config)
    return (mamba.conv_kernel - 1) * inner, inner * mamba.state_size


# Mamba-2 ------------------------------------------------------------------------------------


def _mamba2_widths(config: ModelConfig) -> tuple[int, int, int]:
    """Heads, channels of the convolution, weights of the two projections."""
    mamba, hidden, inner = _mamba(config)
    heads, conv = inner // mamba.head_dim, inner + 2 * mamba.groups * mamba.state_size
    return heads, conv, hidden * (inner + conv + heads) + inner * hidden


def _mamba2_parameters(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    heads, conv, linears = _mamba2_widths(config)
    return linears + conv * (mamba.conv_kernel + 1) + 3 * heads + inner


def _mamba2_shared_flops(config: ModelConfig) -> int:
    mamba, _, _ = _mamba(config)
    _, conv, linears = _mamba2_widths(config)
    return 2 * linears + 2 * mamba.conv_kernel * conv


def _mamba2_prefill_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    inside = 2 * SSD_CHUNK * (mamba.groups * mamba.state_size + inner)
    return _mamba2_shared_flops(config) + inside + 4 * inner * mamba.state_size


def _mamba2_decode_flops(config: ModelConfig, layer: int) -> int:
    mamba, _, inner = _mamba(config)
    return _mamba2_shared_flops(config) + 5 * inner * mamba.state_size


def _mamba2_state(config: ModelConfig) -> tuple[int, int]:
    mamba, _, inner = _mamba(config)
    _, conv, _ = _mamba2_widths(config)
    return (mamba.conv_kernel - 1) * conv, inner * mamba.state_size


# RWKV-6: time mix and channel mix -----------------------------------------------------------


def _rwkv6(config: ModelConfig) -> Rwkv6:
    assert config.rwkv6 is not None
    return config.rwkv6


def _rwkv6_linears(config: ModelConfig) -> int:
    section, hidden = _rwkv6(config), config.hidden_size
    ranks = 5 * section.mix_rank + section.decay_rank
    return 5 * hidden * hidden + 2 * hidden * ranks


def _rwkv6_channel_mix_linears(config: ModelConfig) -> int:
    return config.hidden_size * (config.hidden_size + 2 * config.channel_mix_size)


def _rwkv6_parameters(config: ModelConfig, layer: int) -> int:
    # 6 mixes, bias of decay, bonus, norm's weight and bias
    return _rwkv6_linears(config) + 10 * config.hidden_size


def _rwkv6_shared_flops(config: ModelConfig) -> int:
    return 2 * (_rwkv6_linears(config) + _rwkv6_channel_mix_linears(config))


def _rwkv6_prefill_flops(config: ModelConfig, layer: int) -> int:
    # queries × earlier keys of the chunk, the whole square × values, r S and the new S
    inside = WKV6_CHUNK - 1 + 2 * WKV6_CHUNK
    state = 4 * _rwkv6(config).head_dim
    return _rwkv6_shared_flops(config) + config.hidden_size * (inside + state)


def _rwkv6_decode_flops(config: ModelConfig, layer: int) -> int:
    state = config.hidden_size * _rwkv6(config).head_dim
    return _rwkv6_shared_flops(config) + 5 * state  # r S, decay, outer product


def _rwkv6_state(config: ModelConfig) -> tuple[int, int]:
    return 2 * config.hidden_size, config.hidden_size * _rwkv6(config).head_dim


# RWKV-7: time mix and channel mix -----------------------------------------------------------


def _rwkv7(config: ModelConfig) -> Rwkv7:
    assert config.rwkv7 is not None
    return config.rwkv7


def _rwkv7_linears(config: ModelConfig, layer: int) -> int:
    section, hidden = _rwkv7(config), config.hidden_size
    ranks = section.decay_rank + section.rate_rank + section.gate_rank
    ranks += section.value_rank if layer else 0
    return 4 * hidden * hidden + 2 * hidden * ranks


def _channel_mix_linears(config: ModelConfig) -> int:
    return 2 * config.hidden_size * config.channel_mix_size


def _rwkv7_parameters(config: ModelConfig, layer: int) -> int:
    # 6 mixes, biases of decay, rate and (above layer 0) value, 3 scales, norm's weight and bias
    vectors = 6 + (3 if layer else 2) + 3 + 2
    return _rwkv7_linears(config, layer) + vectors * config.hidden_size


def _rwkv7_shared_flops(config: ModelConfig, layer: int) -> int:
    return 2 * (_rwkv7_linears(config, layer) + _channel_mix_linears(config))


def _rwkv7_prefill_flops(config: ModelConfig, layer: int) -> int:
    dim = _rwkv7(config).head_dim
    pairs = WKV7_CHUNK * (8 + 2 + 1 + 4)  # queries × keys, then values: of keys, solve, of outputs
    return _rwkv7_shared_flops(config, layer) + config.hidden_size * (pairs + 8 * dim)


def _rwkv7_decode_flops(config: ModelConfig, layer: int) -> int:
    state = config.hidden_size * _rwkv7(config).head_dim
    return _rwkv7_shared_flops(config, layer) + 9 * state  # S a, decay, two outer products, S r


def _rwkv7_state(config: ModelConfig) -> tuple[int, int]:
    return 2 * config.hidden_size, config.hidden_size * _rwkv7(config).head_dim


# Retention ----------------------------------------------------------------------------------


def _retention(config: ModelConfig) -> tuple[Retention, int, int]:
    """The section, hidden and value width."""
    assert config.retention is not None
    return config.retention, config.hidden_size, config.hidden_size * config.retention.value_expand


def _retention_linears(config: ModelConfig) -> int:
    _, hidden, value = _retention(config)
    return hidden * (2 * hidden + 3 * value)


def _retention_parameters(config: ModelConfig, layer: int) -> int:
    _, _, value = _retention(config)
    return _retention_linears(config) + 2 * value


def _retention_prefill_flops(config: ModelConfig, layer: int) -> int:
    section, hidden, value = _retention(config)
    inside = 2 * RETENTION_CHUNK * (hidden + value)
    return 2 * _retention_linears(config) + inside + 4 * hidden * value // section.heads


def _retention_decode_flops(config: ModelConfig, layer: int) -> int:
    section, hidden, value = _retention(config)
    return 2 * _retention_linears(config) + 5 * hidden * value // section.heads


def _retention_state(config: ModelConfig) -> tuple[int, int]:
    section, hidden, value = _retention(config)
    return 0, hidden * value // section.heads


RECURRENT: Mapping[str, MixerCost] = MappingProxyType(
    {
        "mamba1": MixerCost(_mamba1_parameters, _mamba1_flops, _mamba1_flops, _mamba1_state),
        "mamba2": MixerCost(
            _mamba2_parameters, _mamba2_prefill_flops, _mamba2_decode_flops, _mamba2_state
        ),
        "rwkv6": MixerCost(
            _rwkv6_parameters, _rwkv6_prefill_flops, _rwkv6_decode_flops, _rwkv6_state
        ),
        "rwkv7": MixerCost(
            _rwkv7_parameters, _rwkv7_prefill_flops, _rwkv7_decode_flops, _rwkv7_state
        ),
        "retention": MixerCost(
            _retention_parameters,
            _retention_prefill_flops,
            _retention_decode_flops,
            _retention_state,
        ),
    }
)
