"""A server that runs already, swept from outside: vLLM, SGLang, llama.cpp's, by their OpenAI API.

Prompts go to ``/v1/completions`` as token ids and come back as a stream, one request a sequence.
``prefill`` is timed from sending the requests to the first token of each: it is the time to the
first token as a caller sees it, queueing and the first sample included.

The series' model, dtype, kv_dtype, window and page_size describe what the server runs; only the
arithmetic of ``cost`` depends on them. Options:

- ``url``: as http://127.0.0.1:8000, with or without ``/v1``;
- ``served_model``: its name there; by default the only one that the server has;
- ``api_key_env``: the environment variable that holds the key, which is stored nowhere;
- ``timeout_s``: the longest silence (600);
- ``vocab_size``: where the series' model is neither known to ctxsweep nor a folder here.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

import numpy as np

from ctxsweep.backends.base import (
    Capabilities,
    HeldMemory,
    InvalidSeries,
    Limits,
    Logits,
    Tokens,
    Unsupported,
    refuse_sinks,
)
from ctxsweep.backends.openai_server import metrics as server_metrics
from ctxsweep.backends.openai_server.connection import Server, ServerError
from ctxsweep.backends.openai_server.options import (
    TIMEOUT_S,
    api_key,
    check_options,
    known_config,
    vocab_size,
)
from ctxsweep.backends.openai_server.stream import TokenStream
from ctxsweep.models import accounting
from ctxsweep.models.accounting import Storage
from ctxsweep.records import Cost, Series

FRESH_TOKENS = 8
"""First tokens of a prompt that no run repeats: a server and its prefix cache outlive a sweep."""
IDLE_S = 10.0
POLL_S = 0.02
VERSIONS = {"/version": "version", "/props": "build_info", "/get_server_info": "version"}
"""Pages that tell a version, and its key there: vLLM, llama.cpp, SGLang."""


class OpenAIServer:
    """A batch of streams of one server."""

    capabilities = Capabilities(chunked_prefill=False, whole_prompt=True, remote=True)

    def __init__(
        self, series: Series, limits: Limits, server: Server, card: dict[str, Any]
    ) -> None:
        self.vocab_size = vocab_size(series)
        self._series = series
        self._limits = limits
        self._server = server
        self._model = str(card["id"])
        self._identity = _identity(server, card)
        self._streams: list[TokenStream] = []
        self._forget()

    @classmethod
    def availability(cls) -> Unsupported | None:
        return None

    @classmethod
    def check(cls, series: Series) -> None:
        refuse_sinks(series)
        vocab_size(series)
        check_options(series.options)
        if series.prefill_chunk != "whole":
            raise InvalidSeries(
                "prefill_chunk",
                f"{series.prefill_chunk}: a server cuts prompts as it was started to; "
                "write 'prefill_chunk: whole'",
            )
        if series.rope is not None:
            raise InvalidSeries("rope", "is for the server's own command line; leave it out")

    @classmethod
    def estimate(cls, series: Series, context_tokens: int, batch_size: int) -> Cost | None:
        config = known_config(series)
        if config is None:
            return None
        storage = Storage(series.dtype, series.kv_dtype, series.page_size)
        return accounting.cost(config, storage, context_tokens, batch_size, context_tokens)

    @classmethod
    def load(cls, series: Series, limits: Limits) -> OpenAIServer:
        """Find server and model. Raises ``ServerError``, ``InvalidSeries``, ``Unsupported``."""
        cls.check(series)
        options = series.options
        url = options["url"].rstrip("/").removesuffix("/v1")
        timeout_s = float(options.get("timeout_s", TIMEOUT_S))
        server = Server(url, timeout_s, api_key(options.get("api_key_env")))
        return cls(series, limits, server, _model_card(server, options.get("served_model")))

    def begin(self, prompt: Tokens) -> None:
        """Wait until the server has nothing to do, and connect."""
        self._limits.check_room(prompt.shape[1])
        held = self._identity["max_model_len"]
        if held is not None and prompt.shape[1] >= held:
            raise ServerError(
                f"{self._server.url} holds {held} tokens a sequence, too few for a prompt of "
                f"{prompt.shape[1]} and a token more; start it with a larger --max-model-len, or "
                "sweep shorter contexts"
            )
        self.reset()
        self._metrics_before = self._when_idle()
        self._prompt_tokens = prompt.shape[1]
        self._streams = [TokenStream(self._server, self._body(row)) for row in _fresh(self, prompt)]

    def prefill(self, tokens: Tokens) -> None:
        if not self._streams:
            self.begin(tokens)
        if self._streams[0].started or tokens.shape[1] != self._prompt_tokens:
            raise ValueError("a server is given its prompt in one piece; reset first")
        sent = time.perf_counter()
        for stream in self._streams:
            stream.start()
        arrivals = [stream.next_token() for stream in self._streams]
        self._ttft_s = [arrival - sent for arrival in arrivals]
        self._last = max(arrivals)
        self._call_s = self._last - sent
        self._check_prompt()

    def decode(self) -> None:
        if not self._ttft_s:
            raise RuntimeError("decode needs a context: prefill first")
        now = max(stream.next_token() for stream in self._streams)
        self._call_s, self._last = now - self._last, now

    def reset(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams = []
        self._forget()

    def memory(self) -> HeldMemory:
        return HeldMemory(None, None, None)

    def cost(self, context_tokens: int) -> Cost | None:
        return self.estimate(self._series, context_tokens, self._limits.batch_size)

    def call_s(self) -> float:
        """From sending to the first tokens, or between the arrivals of two: however late a token
        is asked for, all steps together are the time of the stream.
        """
        return self._call_s

    def logits(self) -> Logits:
        raise Unsupported("a server shows no logits")

    def synchronize(self) -> None:
        pass

    def engine(self) -> dict[str, Any]:
        """Of the latest prompt: ``ttft_s`` of every sequence, how many tokens came ``coalesced`` in
        one piece with another or ``in_bursts`` right behind it, and ``server_metrics``: what the
        server itself measured.
        """
        after = server_metrics.parse(self._server.find("/metrics") or "")
        said = server_metrics.between(self._metrics_before, after) if self._streams else {}
        counted = said.pop("cached_tokens", None)
        if said.get("ttft_count") != len(self._streams):
            counted = None  # others' requests are among them
        cached = [s.cached_tokens for s in self._streams if s.cached_tokens is not None]
        return {
            **self._identity,
            "remote": True,
            "prefill_is": "ttft",
            "cached_tokens": sum(cached) if cached else counted,
            "ttft_s": [round(value, 6) for value in self._ttft_s],
            "coalesced": sum(stream.coalesced for stream in self._streams),
            "in_bursts": sum(stream.in_bursts for stream in self._streams),
            "other_requests": self._other_requests,
            "server_metrics": said,
            "server_timings": [stream.timings for stream in self._streams if stream.timings],
        }

    def snapshot(self) -> object:
        raise Unsupported("a server's state cannot be marked")

    def restore(self, mark: object) -> None:
        raise Unsupported("a server's state cannot be returned to")

    def close(self) -> None:
        self.reset()

    def _forget(self) -> None:
        self._metrics_before: server_metrics.Reading = {}
        self._other_requests: int | None = None
        self._prompt_tokens = 0
        self._ttft_s: list[float] = []
        self._last = self._call_s = 0.0

    def _when_idle(self) -> server_metrics.Reading:
        """Its metrics once it has no requests, dropped ones among them; others' are waited for in
        vain and noted.
        """
        deadline = time.monotonic() + IDLE_S
        while True:
            reading = server_metrics.parse(self._server.find("/metrics") or "")
            self._other_requests = server_metrics.requests(reading)
            if not self._other_requests or time.monotonic() > deadline:
                return reading
            time.sleep(POLL_S)

    def _body(self, row: list[int]) -> dict[str, Any]:
        most = self._limits.max_context_tokens + 1  # the last token sampled is never fed
        held = self._identity["max_model_len"]
        most = most if held is None else min(most, held)
        return {
            "model": self._model,
            "prompt": row,
            "max_tokens": max(1, most - len(row)),
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "cache_prompt": False,  # of llama.cpp, as the next; others pass over them
            "timings_per_token": True,
        }

    def _check_prompt(self) -> None:
        for stream in self._streams:
            if stream.prompt_tokens not in (None, self._prompt_tokens):
                raise ServerError(
                    f"{self._server.url} counts {stream.prompt_tokens} tokens of prompt where "
                    f"{self._prompt_tokens} were sent: it cuts prompts or adds to them"
                )


def _fresh(backend: OpenAIServer, prompt: Tokens) -> list[list[int]]:
    """The prompt's rows, their first tokens anew."""
    rows = np.array(prompt)
    first = np.random.default_rng(secrets.randbits(128))
    fresh = first.integers(0, backend.vocab_size, rows[:, :FRESH_TOKENS].shape)
    rows[:, :FRESH_TOKENS] = fresh
    return [[int(token) for token in row] for row in rows]


def _model_card(server: Server, wanted: str | None) -> dict[str, Any]:
    """What the server says of the model that is wanted, or of its only one."""
    try:
        cards = json.loads(server.get("/v1/models"))["data"]
        by_name = {str(card["id"]): dict(card) for card in cards}
    except (ValueError, TypeError, KeyError) as error:
        raise ServerError(f"{server.url}/v1/models is not a list of models") from error
    names = ", ".join(by_name) or "none"
    if wanted is None and len(by_name) == 1:
        return next(iter(by_name.values()))
    if wanted is None:
        raise InvalidSeries("options.served_model", f"name one of the server's models: {names}")
    if wanted not in by_name:
        raise InvalidSeries(
            "options.served_model", f"the server does not have '{wanted}'; it has {names}"
        )
    return by_name[wanted]


def _max_model_len(server: Server, card: dict[str, Any]) -> int | None:
    """Tokens that the server holds in a sequence, where it tells."""
    known = card.get("max_model_len")
    if known is None:  # llama.cpp
        known = server.find_json("/props").get("default_generation_settings", {}).get("n_ctx")
    return known if isinstance(known, int) else None


def _identity(server: Server, card: dict[str, Any]) -> dict[str, Any]:
    pages = ((server.find_json(page), key) for page, key in VERSIONS.items())
    return {
        "url": server.url,
        "server": card.get("owned_by"),
        "server_version": next((page[key] for page, key in pages if key in page), None),
        "served_model": card["id"],
        "max_model_len": _max_model_len(server, card),
        "weights": str(card.get("root") or card["id"]),
    }
