"""A worker process seen from its parent: start it, hear it, end it, say what killed it."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ctxsweep.execute.build import Build, BuildUnavailable
from ctxsweep.execute.job import Begin, Failed, Job, Message
from ctxsweep.records import Status

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
NEAR_LIMIT = 0.9
TAIL_BYTES = 2000
MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


class Child:
    """A worker process, its pipe and its part of the log; of this installation or of ``build``.

    Raises ``BuildUnavailable`` if the build does not understand the job.
    """

    def __init__(self, job: Job, log_path: Path, build: Build | None = None) -> None:
        self._build = build
        self._words = build.understand(job) if build else None
        interpreter = build.interpreter if build else (sys.executable,)
        self._log_path = log_path
        with log_path.open("ab") as log:
            self._log_start = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                (*interpreter, "-m", "ctxsweep.execute.worker"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=child_environment(job.threads) | (build.variables if build else {}),
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._pipe = self._process.stdout.fileno()
        self._buffer = b""
        self._oom_kills = _oom_kills()
        self.peak_bytes = 0
        self._give(self._words.text if self._words else job.model_dump_json())

    def receive(self, deadline: float) -> Message | None:
        """The next message; None at the end. Raises ``TimeoutError`` at the deadline.

        Raises ``BuildUnavailable`` if another build says what this one does not know.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                data = os.read(self._pipe, 1 << 20)
                if not data:
                    return None
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return self._message(line)

    def wait_for_end(self, most_s: float) -> None:
        """Let it close its engine in peace."""
        with contextlib.suppress(TimeoutError):
            while self.receive(time.monotonic() + most_s) is not None:
                continue

    def end(self) -> int:
        """Kill what still runs of it, reap it, and return its exit code (−n: signal n)."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(self._process.pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self.peak_bytes = _rss_bytes(usage)
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                if stream and not stream.closed:
                    stream.close()
        return self._process.returncode

    def death(self, memory_bytes: int | None) -> tuple[Status, str]:
        """After the pipe closed: what ended it, as out of memory only if there is evidence."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        code, tail = self.end(), self.log_tail()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        near = memory_bytes is not None and self.peak_bytes >= NEAR_LIMIT * memory_bytes
        # The kernel counts the parent's memory at the fork as the child's: no evidence then.
        near = near and self.peak_bytes > _rss_bytes(resource.getrusage(resource.RUSAGE_SELF))
        killed = -code == signal.SIGKILL and (near or _oom_kills() > self._oom_kills)
        refused = any(word in tail for word in ("bad_alloc", "annot allocate memory"))
        status = Status.OOM if killed or refused else Status.ERROR
        text = f"the child ended with {name}, its peak was {self.peak_bytes / 2**20:.0f} MiB"
        return status, f"{text}\n{tail}".strip()

    def log_tail(self) -> str:
        """The end of what it wrote to stderr."""
        with self._log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def _message(self, line: bytes) -> Message:
        if self._words is None or self._build is None:
            return MESSAGES.validate_json(line)
        try:
            message = MESSAGES.validate_json(line)
        except ValidationError as error:
            why = f"{'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"
            raise BuildUnavailable(f"{self._build.label} answers in other words: {why}") from error
        if isinstance(message, Begin | Failed) and message.key is not None:
            ours = self._words.keys.get(message.key, message.key)
            return message.model_copy(update={"key": ours})
        return message

    def _give(self, words: str) -> None:
        assert self._process.stdin is not None
        # If it died at once, receive() sees the end of the pipe.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(words.encode())
            self._process.stdin.close()


def child_environment(threads: int) -> dict[str, str]:
    """The parent's environment with the number of threads, which libraries read as they load."""
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}


def _rss_bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _oom_kills() -> int:
    """How often the kernel has killed in this control group for want of memory; 0 if unknown."""
    try:
        rows = Path("/sys/fs/cgroup/memory.events").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) for row in rows if row.startswith("oom_kill "))
