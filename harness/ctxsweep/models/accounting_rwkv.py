"""What one layer of RWKV-6 and RWKV-7 demands: time mix and channel mix.

The terms of ``accounting_recurrent``, which is where they are asked for. Never imports torch.
"""

from __future__ import annotations

from ctxsweep.models.config import ModelConfig, Rwkv6, Rwkv7

# Tokens per chunk in prefill: the defaults of the ops.
WKV6_CHUNK = 64
WKV7_CHUNK = 32


# RWKV-6: time mix and channel mix -----------------------------------------------------------


def _rwkv6(config: ModelConfig) -> Rwkv6:
    assert config.rwkv6 is not None
    return config.rwkv6


def _rwkv6_time_mix_linears(config: ModelConfig) -> int:
    section, hidden = _rwkv6(config), config.hidden_size
    ranks = 5 * section.mix_rank + section.decay_rank
    return 5 * hidden * hidden + 2 * hidden * ranks


def rwkv6_channel_mix_linears(config: ModelConfig) -> int:
    """Weights of the channel mix's matrices."""
    return config.hidden_size * (config.hidden_size + 2 * config.channel_mix_size)


def rwkv6_parameters(config: ModelConfig, layer: int) -> int:
    """Of the time mix."""
    # 6 mixes, bias of decay, bonus, norm's weight and bias
    return _rwkv6_time_mix_linears(config) + 10 * config.hidden_size


def rwkv6_linears(config: ModelConfig, layer: int) -> int:
    """Weights of both mixes' matrices."""
    return _rwkv6_time_mix_linears(config) + rwkv6_channel_mix_linears(config)


def rwkv6_prefill_flops(config: ModelConfig, layer: int) -> int:
    """Of a token, in chunks."""
    # queries × earlier keys of the chunk, the whole square × values, r S and the new S
    inside = WKV6_CHUNK - 1 + 2 * WKV6_CHUNK
    state = 4 * _rwkv6(config).head_dim
    return 2 * rwkv6_linears(config, layer) + config.hidden_size * (inside + state)


def rwkv6_decode_flops(config: ModelConfig, layer: int) -> int:
    """Of a token, step by step."""
    state = config.hidden_size * _rwkv6(config).head_dim
    return 2 * rwkv6_linears(config, layer) + 5 * state  # r S, decay, outer product


def rwkv6_state(config: ModelConfig) -> tuple[int, int]:
    """Of one sequence: values of the model's dtype, and of the recurrent one."""
    return 2 * config.hidden_size, config.hidden_size * _rwkv6(config).head_dim


# RWKV-7: time mix and channel mix -----------------------------------------------------------


def _rwkv7(config: ModelConfig) -> Rwkv7:
    assert config.rwkv7 is not None
    return config.rwkv7


def _rwkv7_time_mix_linears(config: ModelConfig, layer: int) -> int:
    section, hidden = _rwkv7(config), config.hidden_size
    ranks = section.decay_rank + section.rate_rank + section.gate_rank
    ranks += section.value_rank if layer else 0
    return 4 * hidden * hidden + 2 * hidden * ranks


def rwkv7_channel_mix_linears(config: ModelConfig) -> int:
    """Weights of the channel mix's matrices."""
    return 2 * config.hidden_size * config.channel_mix_size


def rwkv7_parameters(config: ModelConfig, layer: int) -> int:
    """Of the time mix."""
    # 6 mixes, biases of decay, rate and (above layer 0) value, 3 scales, norm's weight and bias
    vectors = 6 + (3 if layer else 2) + 3 + 2
    return _rwkv7_time_mix_linears(config, layer) + vectors * config.hidden_size


def rwkv7_linears(config: ModelConfig, layer: int) -> int:
    """Weights of both mixes' matrices."""
    return _rwkv7_time_mix_linears(config, layer) + rwkv7_channel_mix_linears(config)


def rwkv7_prefill_flops(config: ModelConfig, layer: int) -> int:
    """Of a token, in chunks."""
    dim = _rwkv7(config).head_dim
    pairs = WKV7_CHUNK * (8 + 2 + 1 + 4)  # queries × keys, then values: of keys, solve, of outputs
    return 2 * rwkv7_linears(config, layer) + config.hidden_size * (pairs + 8 * dim)


def rwkv7_decode_flops(config: ModelConfig, layer: int) -> int:
    """Of a token, step by step."""
    state = config.hidden_size * _rwkv7(config).head_dim
    return 2 * rwkv7_linears(config, layer) + 9 * state  # S a, decay, two outer products, S r


def rwkv7_state(config: ModelConfig) -> tuple[int, int]:
    """Of one sequence: values of the model's dtype, and of the recurrent one."""
    return 2 * config.hidden_size, config.hidden_size * _rwkv7(config).head_dim
