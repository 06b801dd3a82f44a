"""One streamed completion: when each of its tokens came.

Server-sent events (WHATWG HTML, section 9.2) with a chunk of JSON each. A thread reads them, so
that every token has its time of arrival, whatever the caller does in between.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from queue import Empty, SimpleQueue
from typing import Any

from ctxsweep.backends.openai_server.connection import (
    MOST_ERROR_BYTES,
    Server,
    ServerError,
    message_of,
    refusal,
)

PATH = "/v1/completions"
BURST_S = 2e-4
"""No server makes two tokens of a sequence in this time: such came in one delivery."""
BURST_WAIT_S = 2e-3


class TokenStream:
    """A completion of one sequence. Connected at once; the request is sent by ``start``.

    ``prompt_tokens`` and ``cached_tokens`` are what the server says of the prompt, or None;
    ``coalesced`` counts tokens that came in one chunk with the one before, ``in_bursts`` those of
    chunks that were delivered right behind another, as by a busy server that catches up; both
    share the time since the delivery before. ``timings`` is what llama.cpp's server says of its
    own times.
    """

    def __init__(self, server: Server, body: dict[str, Any]) -> None:
        self.prompt_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.coalesced = 0
        self.in_bursts = 0
        self.timings: dict[str, Any] = {}
        self._server = server
        self._body = json.dumps(body, separators=(",", ":")).encode()
        self._connection = server.connect()
        self._socket = self._connection.sock
        self._arrivals: SimpleQueue[float | ServerError] = SimpleQueue()
        self._ahead: deque[float | ServerError] = deque()
        self._shared: deque[float] = deque()
        self._handed: float | None = None
        self._received = 0
        self._last_arrival = 0.0
        self._finish_reason: str | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Send the request and read on from now."""
        self._thread = threading.Thread(target=self._run, name="token-stream", daemon=True)
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether the request was sent."""
        return self._thread is not None

    def next_token(self) -> float:
        """When the next token came, by ``time.perf_counter``. Waits; raises ``ServerError``."""
        if not self._shared:
            self._shared.extend(self._delivery())
        self._handed = self._shared.popleft()
        return self._handed

    def _delivery(self) -> list[float]:
        """The arrivals of the tokens that came in one delivery, each with its share of the time.

        The first token stands alone: what it waited for is the prompt.
        """
        first = self._arrival(None)
        if isinstance(first, ServerError):
            self._ahead.append(first)
            raise first
        if self._handed is None:
            return [first]
        count, last = 1, first
        while (following := self._arrival(BURST_WAIT_S)) is not None:
            if isinstance(following, ServerError) or following - last > BURST_S:
                self._ahead.append(following)
                break
            count, last = count + 1, following
        self.in_bursts += count - 1
        step = (last - self._handed) / count
        return [self._handed + step * (i + 1) for i in range(count)]

    def _arrival(self, timeout_s: float | None) -> float | ServerError | None:
        """The next arrival or what ended the stream; None if nothing came in time."""
        if self._ahead:
            return self._ahead.popleft()
        try:
            return self._arrivals.get(timeout=timeout_s)
        except Empty:
            return None

    def close(self) -> None:
        """Hang up: servers drop a sequence whose reader is gone."""
        # Of the plain socket: that of TLS would pull its state from under the reader.
        with suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        try:
            for event in self._events():
                self._take(event, time.perf_counter())
            self._arrivals.put(self._ended())
        except ServerError as error:
            self._arrivals.put(error)
        except TimeoutError:
            self._arrivals.put(
                ServerError(
                    f"{self._server.url} sent nothing for {self._server.timeout_s:g} s after "
                    f"{self._received} tokens; raise options.timeout_s if it may take longer"
                )
            )
        except (OSError, HTTPException, ValueError) as error:
            text = str(error) or type(error).__name__
            self._arrivals.put(self._broken_off(text))

    def _events(self) -> Iterator[dict[str, Any]]:
        """The chunks as they come; comments, keep-alives and other fields are passed over."""
        path = self._server.path(PATH)
        self._connection.request("POST", path, self._body, self._server.headers)
        response = self._connection.getresponse()
        if response.status != 200:
            where = f"{self._server.url}{PATH}"
            raise refusal(where, response.status, response.read(MOST_ERROR_BYTES))
        for data in _data(response):
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if not isinstance(event, dict):
                raise ValueError(f"not a chunk of a completion: {data[:80]!r}")
            yield event
        if self._finish_reason is None:
            raise self._broken_off("the stream ended in the middle")

    def _take(self, event: dict[str, Any], now: float) -> None:
        if event.get("error"):
            raise ServerError(f"{self._server.url}: {message_of(json.dumps(event))}")
        usage, timings = event.get("usage") or {}, event.get("timings") or {}
        self._note_prompt(usage, timings)
        choice = next(iter(event.get("choices") or ()), None)
        total = usage.get("completion_tokens", timings.get("predicted_n"))
        if total is not None:
            new = total - self._received
        else:  # a last chunk without text closes the sequence and is no token
            new = int(choice is not None and bool(choice.get("text") or not _finish(choice)))
        if choice is None:
            self.coalesced += max(0, new)  # those that no chunk has shown
            return
        self._finish_reason = _finish(choice) or self._finish_reason
        self._received += new
        self.coalesced += max(0, new - 1)
        since = self._last_arrival if self._received > new else now
        for i in range(1, new + 1):  # the time of a piece is shared by the tokens in it
            self._arrivals.put(since + (now - since) * i / new)
        self._last_arrival = now

    def _note_prompt(self, usage: dict[str, Any], timings: dict[str, Any]) -> None:
        self.timings = timings or self.timings
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        cached = timings.get("cache_n") if cached is None else cached
        self.cached_tokens = self.cached_tokens if cached is None else cached
        prompt = usage.get("prompt_tokens")
        if prompt is None and "prompt_n" in timings:
            prompt = timings["prompt_n"] + timings.get("cache_n", 0)
        self.prompt_tokens = self.prompt_tokens if prompt is None else prompt

    def _ended(self) -> ServerError:
        why = {
            "length": "the most that the request or the server's context length allows",
            "stop": "an end-of-sequence token, though the request says ignore_eos",
        }.get(self._finish_reason or "", f"finish_reason {self._finish_reason}")
        return ServerError(
            f"{self._server.url} ended the sequence after {self._received} generated tokens: {why}"
        )

    def _broken_off(self, text: str) -> ServerError:
        return ServerError(
            f"{self._server.url} broke off after {self._received} generated tokens ({text}); "
            "has it stopped? Its log may say why"
        )


def _finish(choice: dict[str, Any]) -> str | None:
    return choice.get("finish_reason")


def _data(response: HTTPResponse) -> Iterator[bytes]:
    """The data fields of the events; every server writes one line an event."""
    while line := response.readline():
        name, _, value = line.strip().partition(b":")
        if name == b"data":
            yield value.strip()
