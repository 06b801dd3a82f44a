"""What a server says of itself on its ``/metrics`` page (Prometheus text format 0.0.4).

The names are those of vLLM and SGLang; counters of several engines or ranks are added up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)", re.MULTILINE)

TTFT = ("vllm:time_to_first_token_seconds", "sglang:time_to_first_token_seconds")
ITL = (
    "vllm:inter_token_latency_seconds",
    "vllm:time_per_output_token_seconds",  # in older versions
    "sglang:inter_token_latency_seconds",
)
CACHED = ("vllm:prefix_cache_hits_total", "sglang:cached_tokens_total")
PREEMPTIONS = ("vllm:num_preemptions_total",)
REQUESTS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
)
CACHE_USAGE = ("vllm:kv_cache_usage_perc", "sglang:token_usage", "llamacpp:kv_cache_usage_ratio")

Reading = Mapping[str, float]


def parse(text: str) -> Reading:
    """Every metric by name, its label sets added up."""
    values: dict[str, float] = {}
    for name, value in LINE.findall(text):
        values[name] = values.get(name, 0.0) + float(value)
    return values


def requests(reading: Reading) -> int | None:
    """Requests running and waiting; None where the page does not say."""
    found = [reading[name] for name in REQUESTS if name in reading]
    return int(sum(found)) if found else None


def between(before: Reading, after: Reading) -> dict[str, Any]:
    """What happened between two readings: mean times, counts, and the cache's usage at the end."""
    known = {
        "ttft_s": _mean(before, after, TTFT),
        "ttft_count": _delta(before, after, [f"{name}_count" for name in TTFT]),
        "itl_s": _mean(before, after, ITL),
        "itl_count": _delta(before, after, [f"{name}_count" for name in ITL]),
        "cached_tokens": _delta(before, after, CACHED),
        "preemptions": _delta(before, after, PREEMPTIONS),
        "kv_cache_usage": next((after[name] for name in CACHE_USAGE if name in after), None),
    }
    return {name: value for name, value in known.items() if value is not None}


def _delta(
    before: Reading, after: Reading, names: tuple[str, ...] | list[str]
) -> int | float | None:
    name = next((name for name in names if name in after), None)
    if name is None:
        return None
    grown = after[name] - before.get(name, 0.0)
    return int(grown) if grown.is_integer() else grown


def _mean(before: Reading, after: Reading, names: tuple[str, ...]) -> float | None:
    count = _delta(before, after, [f"{name}_count" for name in names])
    total = _delta(before, after, [f"{name}_sum" for name in names])
    return total / count if count and total is not None else None
