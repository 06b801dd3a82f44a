"""The server backend against a scripted server: every way in which a stream can go or fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ctxsweep.backends.base import InvalidSeries, Limits, Unsupported
from ctxsweep.backends.openai_server import backend as openai_server
from ctxsweep.backends.openai_server import metrics as openai_metrics
from ctxsweep.backends.openai_server import stream as openai_stream
from ctxsweep.backends.openai_server.backend import OpenAIServer
from ctxsweep.backends.openai_server.connection import ServerError, message_of
from ctxsweep.execute.rig import RandomPrompts, Rig
from ctxsweep.measure.clock import make_clock
from ctxsweep.measure.memory import MemoryMeter
from ctxsweep.measure.power import NoPowerMeter
from ctxsweep.models import accounting
from ctxsweep.models.accounting import Storage
from ctxsweep.models.catalog import load_config
from ctxsweep.records import RopeScaling, Sample, Series
from ctxsweep.scenario import Procedure

TOKENS = 12
Write = Callable[[str], None]
Play = Callable[[dict[str, Any], Write], None]


def chunk(text: str = "a", finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


def plain(body: dict[str, Any], write: Write) -> None:
    """As OpenAI's own: no counts along the way, usage in a chunk of its own, a closing chunk."""
    for _ in range(body["max_tokens"]):
        write(chunk())
    write(chunk("", "length"))
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
    write(f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n")


class Script(ThreadingHTTPServer):
    """Answers with what a test puts in ``pages`` and lets ``play`` write the streams."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Any] = {"/v1/models": {"data": [{"id": "m", "owned_by": "test"}]}}
        self.play: Play = plain
        self.refuse: tuple[int, str] | None = None
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.drops = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.drops += 1


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.keys.append(self.headers["Authorization"])
        page = self.server.pages.get(self.path)
        text = page if isinstance(page, str) else json.dumps(page)
        self.answer(404 if page is None else 200, text)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.refuse:
            self.answer(*self.server.refuse)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.play(body, self.write)
        self.wfile.write(b"0\r\n\r\n")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def write(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


class Unwatched:
    def begin(self, cell: Any) -> None:
        pass

    def tick(self, position: int, last_decode_s: float | None) -> None:
        pass


def series(url: str, **options: Any) -> Series:
    settings = {"model": "tiny-gqa", "prefill_chunk": "whole", "options": {"url": url, **options}}
    return Series(name="s", backend="server", **settings)


@contextmanager
def loaded(script: Script, batch: int = 1, room: int = 8, **options: Any) -> Iterator[OpenAIServer]:
    limits = Limits(TOKENS + room, batch, "cpu", threads=1, seed=0)
    backend = OpenAIServer.load(series(script.url, **options), limits)
    try:
        yield backend
    finally:
        backend.close()


def prompt(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4096, (batch, TOKENS))


def test_a_request_asks_for_what_is_measured(script: Script) -> None:
    with loaded(script, batch=3, room=8) as backend:
        given = prompt(3)
        backend.begin(given)
        backend.prefill(given)
        for _ in range(8):  # the first token comes with the prefill, eight steps follow
            backend.decode()
        with pytest.raises(ServerError, match="ended the sequence after 9 generated tokens"):
            backend.decode()
        engine = json.loads(json.dumps(backend.engine()))
    assert len(engine["ttft_s"]) == 3 and engine["coalesced"] == 0
    assert engine["prefill_is"] == "ttft" and engine["remote"] and engine["server"] == "test"
    assert engine["cached_tokens"] is None and engine["other_requests"] is None
    for body in script.bodies:
        assert body["max_tokens"] == 9 and body["ignore_eos"] and body["temperature"] == 0
        assert body["stream"] and body["model"] == "m" and body["cache_prompt"] is False
        tail = body["prompt"][openai_server.FRESH_TOKENS :]
        assert tail in given[:, openai_server.FRESH_TOKENS :].tolist()


def test_tokens_of_one_delivery_share_its_time(script: Script) -> None:
    """A busy server catches up: four chunks at once, then a pause."""

    def bursts(body: dict[str, Any], write: Write) -> None:
        write(chunk())
        for _ in range(2):
            time.sleep(0.2)
            write(chunk() * 4)
        time.sleep(0.2)

    script.play = bursts
    with loaded(script, room=9) as backend:
        backend.prefill(prompt())
        steps = []
        for _ in range(8):
            backend.decode()
            steps.append(backend.call_s())
        assert backend.engine()["in_bursts"] == 6 and backend.engine()["coalesced"] == 0
    for first in (0, 4):
        assert max(steps[first : first + 4]) - min(steps[first : first + 4]) < 1e-6
        assert sum(steps[first : first + 4]) >= 0.19


def test_no_two_prompts_begin_alike(script: Script) -> None:
    with loaded(script) as backend:
        for _ in range(2):
            backend.prefill(prompt())
            backend.reset()
    first, second = (body["prompt"] for body in script.bodies)
    assert first[openai_server.FRESH_TOKENS :] == second[openai_server.FRESH_TOKENS :]
    assert first[: openai_server.FRESH_TOKENS] != second[: openai_server.FRESH_TOKENS]


def test_comments_keep_alives_and_silent_chunks_are_no_tokens(script: Script) -> None:
    def play(body: dict[str, Any], write: Write) -> None:
        write(": keep-alive\n\nevent: message\nid: 7\n")
        write(chunk() + "\n\n: ping\n\n" + chunk("") + chunk("", "length"))
        write("data: [DONE]\n\n")

    script.play = play
    with loaded(script) as backend:
        backend.prefill(prompt())
        backend.decode()
        with pytest.raises(ServerError, match="after 2 generated tokens"):
            backend.decode()


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks arrive at 1 s, 2 s, 3 s by the streams' clock."""
    seconds = count(1)
    clock = SimpleNamespace(perf_counter=lambda: float(next(seconds)))
    monkeypatch.setattr(openai_stream, "time", clock)


@pytest.mark.usefixtures("ticking")
def test_tokens_in_one_piece_share_its_time_and_are_counted(script: Script) -> None:
    def play(body: dict[str, Any], write: Write) -> None:
        for total in (1, 4, 5):
            write(chunk(usage={"prompt_tokens": TOKENS, "completion_tokens": total}))
        time.sleep(30)

    script.play = play
    with loaded(script) as backend:
        backend.prefill(prompt())
        steps = []
        for _ in range(4):
            backend.decode()
            steps.append(backend.call_s())
        assert backend.engine()["coalesced"] == 2
    assert steps == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0])


@pytest.mark.usefixtures("ticking")
def test_steps_are_the_streams_however_late_they_are_asked_for(script: Script) -> None:
    with loaded(script) as backend:
        backend.prefill(prompt())
        time.sleep(0.1)
        for _ in range(3):
            backend.decode()
            assert backend.call_s() == 1.0


@pytest.mark.usefixtures("ticking")
def test_samples_hold_the_streams_time_and_none_of_this_process(script: Script) -> None:
    with loaded(script) as backend:
        rig = Rig(
            backend=backend,
            series=series(script.url),
            batch_size=1,
            procedure=Procedure(max_cell_s=60.0),
            clock=make_clock("cpu"),
            memory=MemoryMeter(backend, "cpu", remote=True),
            power=NoPowerMeter("none"),
            prompts=RandomPrompts(backend.vocab_size, 1, seed=0),
            watcher=Unwatched(),
        )
        rig.climb(TOKENS, repeat=0)
        taken: list[Sample] = []
        rig.decode(taken, [], steps=3, repeat=0)
    assert [(s.wall_s, s.cpu_s, s.device_s) for s in taken] == [(1.0, None, None)] * 3


def test_what_llama_cpp_says_is_understood(script: Script) -> None:
    def play(body: dict[str, Any], write: Write) -> None:
        for n in (1, 2, 3):
            timings = {"cache_n": 5, "prompt_n": TOKENS - 5, "predicted_n": n, "prompt_ms": 7.5}
            write(chunk(timings=timings))
        write(chunk("", "length", timings=timings))

    script.pages["/props"] = {"default_generation_settings": {"n_ctx": 14}, "build_info": "b1"}
    script.play = play
    with loaded(script) as backend:
        backend.prefill(prompt())
        backend.decode()
        backend.decode()
        engine = backend.engine()
    assert engine["cached_tokens"] == 5 and engine["server_timings"][0]["prompt_ms"] == 7.5
    assert engine["server_version"] == "b1" and engine["max_model_len"] == 14
    assert script.bodies[0]["max_tokens"] == 2


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (lambda body, write: write(chunk()), "broke off after 1 generated tokens"),
        (lambda body, write: write("data: {\n\n"), "broke off after 0 generated tokens"),
        (lambda body, write: write("data: [1]\n\n"), "not a chunk of a completion"),
        (
            lambda body, write: write(
                'data: {"error": {"message": "engine died", "code": 500}}\n\n'
            ),
            "engine died",
        ),
        (lambda body, write: write(chunk() + chunk("b", "stop")), "ignore_eos"),
        (
            lambda body, write: write(chunk(usage={"prompt_tokens": 3, "completion_tokens": 1})),
            "counts 3 tokens of prompt where 12 were sent",
        ),
        (lambda body, write: time.sleep(30), "sent nothing for 2 s after 0 tokens"),
    ],
)
def test_a_stream_that_goes_wrong_says_how(script: Script, play: Play, words: str) -> None:
    script.play = play
    with loaded(script, timeout_s=2) as backend, pytest.raises(ServerError, match=words):
        backend.prefill(prompt())
        for _ in range(3):
            backend.decode()


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (400, '{"error": {"message": "longer than 8 tokens"}}', "HTTP 400: longer than 8 tokens"),
        (404, '{"detail": "Not Found"}', "HTTP 404: Not Found"),
        (503, '{"object": "error", "message": "Loading model"}', "HTTP 503: Loading model"),
        (502, "<html><body>Bad\nGateway</body></html>", "HTTP 502: Bad Gateway"),
        (401, "", "api_key_env"),
        (500, "x" * 5000, "x{400}$"),
    ],
)
def test_a_refusal_is_passed_on(script: Script, status: int, text: str, words: str) -> None:
    script.refuse = (status, text)
    with loaded(script) as backend, pytest.raises(ServerError, match=words):
        backend.prefill(prompt())


def test_messages_are_found_in_every_form() -> None:
    assert message_of('{"error": "flat"}') == "flat"
    assert message_of('{"message": {"detail": "deep"}}') == "deep"
    assert message_of('{"other": 1}') == "{'other': 1}"
    assert message_of("") == "(no message)"


def test_hanging_up_ends_the_stream_at_the_server(script: Script) -> None:
    def play(body: dict[str, Any], write: Write) -> None:
        for _ in range(10_000):
            write(chunk("a" * 100))
            time.sleep(0.001)

    script.play = play
    with loaded(script) as backend:
        backend.prefill(prompt())
        before = threading.active_count()
        backend.reset()
        for _ in range(1000):
            if script.drops:
                break
            time.sleep(0.01)
    assert script.drops == 1 and threading.active_count() < before


def test_a_round_begins_anew(script: Script) -> None:
    with loaded(script) as backend:
        with pytest.raises(RuntimeError, match="prefill first"):
            backend.decode()
        backend.prefill(prompt())
        with pytest.raises(ValueError, match="in one piece"):
            backend.prefill(prompt())
        backend.begin(prompt())
        with pytest.raises(ValueError, match="in one piece"):
            backend.prefill(prompt()[:, :4])
        with pytest.raises(ValueError, match="24 tokens of context were asked for"):
            backend.begin(np.tile(prompt(), 2))
        backend.reset()
        with pytest.raises(RuntimeError, match="prefill first"):
            backend.decode()
        for call in (backend.snapshot, lambda: backend.restore(None), backend.logits):
            with pytest.raises(Unsupported):
                call()


def test_metrics_are_the_difference_over_the_prompt(script: Script) -> None:
    def page(ttft: float, count: int, steps: float, hits: int) -> str:
        return (
            "# TYPE vllm:time_to_first_token_seconds histogram\n"
            f'vllm:time_to_first_token_seconds_bucket{{engine="0",le="0.1"}} {count}.0\n'
            f'vllm:time_to_first_token_seconds_count{{engine="0"}} {count}.0\n'
            f'vllm:time_to_first_token_seconds_sum{{engine="0"}} {ttft}\n'
            f'vllm:inter_token_latency_seconds_sum{{engine="0",name="a b"}} {steps}\n'
            f'vllm:inter_token_latency_seconds_count{{engine="0",name="a b"}} {10 * count}\n'
            f"vllm:prefix_cache_hits_total {hits}\n"
            'vllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting 0\n'
            "vllm:kv_cache_usage_perc 2.5e-1"
        )

    script.pages["/metrics"] = page(2.0, 4, 1.0, 100)
    with loaded(script) as backend:
        assert backend.engine()["server_metrics"] == {}
        backend.prefill(prompt())
        script.pages["/metrics"] = page(2.5, 5, 1.25, 132)
        engine = backend.engine()
        assert engine["cached_tokens"] == 32 and engine["other_requests"] == 0
        assert engine["server_metrics"] == {
            "ttft_s": 0.5,
            "ttft_count": 1,
            "itl_s": 0.025,
            "itl_count": 10,
            "kv_cache_usage": 0.25,
        }
        # With another's requests in between, hits are nobody's.
        script.pages["/metrics"] = page(3.0, 6, 1.25, 132)
        assert backend.engine()["cached_tokens"] is None


def test_a_server_at_work_is_waited_for_and_noted(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_server, "IDLE_S", 0.1)
    script.pages["/metrics"] = "sglang:num_running_reqs 2.0\nsglang:num_queue_reqs 1.0\n"
    with loaded(script) as backend:
        start = time.monotonic()
        backend.begin(prompt())
        assert time.monotonic() - start >= 0.1
        assert backend.engine()["other_requests"] == 3
    assert openai_metrics.requests({}) is None


def test_the_model_is_the_servers_only_one_or_the_one_named(script: Script) -> None:
    script.pages["/v1/models"] = {"data": [{"id": "a"}, {"id": "b", "root": "/models/b"}]}
    with pytest.raises(InvalidSeries, match="a, b") as caught, loaded(script):
        pass
    assert caught.value.key == "options.served_model"
    with pytest.raises(InvalidSeries, match="does not have 'c'"), loaded(script, served_model="c"):
        pass
    with loaded(script, served_model="b") as backend:
        assert backend.engine()["weights"] == "/models/b"
    script.pages["/v1/models"] = "<html></html>"
    with pytest.raises(ServerError, match="not a list of models"), loaded(script):
        pass


def test_the_key_goes_to_the_server_and_nowhere_else(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-secret")
    with loaded(script, api_key_env="SERVER_KEY") as backend:
        assert script.keys and set(script.keys) == {"Bearer sk-secret"}
        assert "sk-secret" not in json.dumps(backend.engine()) + repr(vars(backend))
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(Unsupported, match="SERVER_KEY is not set"):
        OpenAIServer.load(series(script.url, api_key_env="SERVER_KEY"), Limits(20, 1, "cpu", 1, 0))


def test_nobody_there_is_said_with_what_to_start() -> None:
    with Script() as gone:
        url = gone.url
    with pytest.raises(ServerError, match=f"no server answers at {url}.*engines.md"):
        OpenAIServer.load(series(f"{url}/v1/"), Limits(20, 1, "cpu", 1, 0))


@pytest.mark.parametrize(
    ("update", "key", "words"),
    [
        ({"options": {}}, "options.url", "missing"),
        ({"options": {"url": "localhost:8000"}}, "options.url", "is not one"),
        ({"options": {"url": "http://h:port"}}, "options.url", "is not one"),
        ({"options": {"url": "http://me:pw@h:1"}}, "options.url", "api_key_env"),
        ({"options": {"url": "http://h", "model": "m"}}, "options", "served_model"),
        ({"options": {"url": "http://h", "served_model": 3}}, "options.served_model", "name"),
        ({"options": {"url": "http://h", "timeout_s": 0}}, "options.timeout_s", "above 0"),
        ({"options": {"url": "http://h", "vocab_size": 1}}, "options.vocab_size", "tokens"),
        ({"prefill_chunk": 512}, "prefill_chunk", "prefill_chunk: whole"),
        ({"model": "tiny-gqq"}, "model", "tiny-gqa"),
        ({"rope": RopeScaling(rope_type="yarn", factor=2)}, "rope", "command line"),
        ({"window": 64, "sinks": 4}, "sinks", "backend native"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(update: Any, key: str, words: str) -> None:
    with pytest.raises(InvalidSeries, match=words) as caught:
        OpenAIServer.check(series("http://127.0.0.1:8000").model_copy(update=update))
    assert caught.value.key == key


def test_cost_follows_from_the_model_where_it_is_known() -> None:
    known = series("http://h")
    expected = accounting.cost(load_config("tiny-gqa"), Storage("float32"), 512, 2, 512)
    assert OpenAIServer.estimate(known, 512, 2) == expected
    foreign = known.model_copy(
        update={"model": "some/model", "options": {"url": "http://h", "vocab_size": 1000}}
    )
    OpenAIServer.check(foreign)
    assert OpenAIServer.estimate(foreign, 512, 2) is None
