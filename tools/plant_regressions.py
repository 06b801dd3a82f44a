"""Real regressions, planted one at a time in a clone, measured and compared: what is caught.

``python tools/plant_regressions.py [--pairs N] [--scenario nightly] [--only FAULT]`` prints the
tables of docs/regression.md. Every fault is a commit of the clone, so that suspects are measured
again in turns with the sound commit, as in a real repository. First come pairs of runs of the
sound commit alone, of which every alarm is false.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = "harness/ctxsweep/backends/native.py"
QUICK = ("--set", "procedure.max_cell_s=1.5")


@dataclass(frozen=True)
class Fault:
    """Changes of the native backend: every first text, which is there once, becomes its second."""

    name: str
    words: str
    changes: tuple[tuple[str, str], ...]


DECODE = "        self._forward(self._next)\n"
PREFILL = "        for piece in pieces:\n            self._forward(piece)\n"
HELD = "            cache_used_bytes=self._state.used_bytes,\n"
WAIT = "    def synchronize(self) -> None:\n"
FAULTS = (
    Fault(
        "sleep",
        "decode sleeps for 10% of its step",
        (
            (
                DECODE,
                "        import time\n\n"
                "        start = time.perf_counter()\n"
                f"{DECODE}"
                "        time.sleep(0.1 * (time.perf_counter() - start))\n",
            ),
        ),
    ),
    Fault(
        "spin",
        "decode spins for 10% of its step, which is exact where a sleep is not",
        (
            (
                DECODE,
                "        import time\n\n"
                "        start = time.perf_counter()\n"
                f"{DECODE}"
                "        end = start + 1.1 * (time.perf_counter() - start)\n"
                "        while time.perf_counter() < end:\n"
                "            pass\n",
            ),
        ),
    ),
    Fault(
        "copy",
        "as many bytes as the cache has are copied at every step of decode",
        (
            (
                DECODE,
                f"{DECODE}"
                "        import torch\n\n"
                "        held = torch.ones(self._state.used_bytes, dtype=torch.uint8)\n"
                "        self._copy = held.clone()\n",
            ),
        ),
    ),
    Fault(
        "bytes",
        "5% more bytes are held per token",
        (
            (HELD, HELD.replace(",", " + self._more(),")),
            (
                WAIT,
                "    def _more(self) -> int:\n"
                "        import torch\n\n"
                "        self._kept = torch.ones(self._state.used_bytes // 20, dtype=torch.uint8)\n"
                f"        return self._kept.nbytes\n\n{WAIT}",
            ),
        ),
    ),
    Fault(
        "quadratic",
        "every chunk of prefill reads all that came before",
        (
            (
                PREFILL,
                f"{PREFILL}"
                "            seen = torch.ones(self._state.length, 256)\n"
                "            for _ in range(4):\n"
                "                seen @ torch.ones(256, piece.shape[1])\n",
            ),
        ),
    ),
)


class Clone:
    """A repository of its own, at the commit that this one is at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(("git", "clone", "-q", "--local", str(ROOT), str(folder)), check=True)
        self.git("config", "user.name", "planted")
        self.git("config", "user.email", "planted@localhost")
        self.sound = self.git("rev-parse", "HEAD")

    def git(self, *arguments: str) -> str:
        command = ("git", "-C", str(self.folder), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def plant(self, fault: Fault) -> None:
        """Commit a fault on top of the sound commit."""
        self.git("checkout", "-q", self.sound)
        path = self.folder / NATIVE
        text = path.read_text(encoding="utf-8")
        for old, planted_text in fault.changes:
            if text.count(old) != 1:
                raise SystemExit(f"{fault.name}: {NATIVE} no longer has the lines to change")
            text = text.replace(old, planted_text)
        path.write_text(text, encoding="utf-8")
        self.git("commit", "-qam", fault.words)

    def ctxsweep(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the clone's tree with this Python and its packages."""
        paths = (self.folder / "harness", self.folder / "kernels")
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "COLUMNS": "300"}
        command = (sys.executable, "-P", "-m", "ctxsweep.cli", *arguments)
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True)

    def measure(self, scenario: str, options: tuple[str, ...]) -> Path:
        """A run of the tree as it is."""
        done = self.ctxsweep("run", scenario, "-q", *options)
        if done.returncode not in (0, 1):  # 1: cells that failed, a result too
            raise SystemExit(f"{scenario}: {done.stderr}{done.stdout}")
        return Path(self.folder / done.stdout.split()[-1]).parent


def compare(clone: Clone, base: Path, new: Path, recheck: bool) -> tuple[str, dict[str, int]]:
    """The first line of the comparison, and how many lines have each outcome."""
    out = new / ("compared_again" if recheck else "compared")
    more = ("--recheck",) if recheck else ()
    done = clone.ctxsweep("compare", str(base), str(new), "--out", str(out), *more)
    if done.returncode:
        raise SystemExit(done.stderr + done.stdout)
    changes = json.loads((out / "comparison.json").read_text())["changes"]
    outcomes = [change["outcome"] for change in changes]
    first = next(line for line in done.stdout.splitlines() if line.strip())
    return first, {name: outcomes.count(name) for name in ("SLOW", "FAST", "SAME", "AMBG")}


def equal_pairs(clone: Clone, scenario: str, pairs: int, recheck: int) -> None:
    """Pairs of runs of one build; the first ``recheck`` of them with suspects measured again."""
    print(f"\n| pair of {scenario} | SLOW | FAST | SAME | AMBG | with suspects again: SLOW |")
    print("|---|---|---|---|---|---|", flush=True)
    alarms = 0
    for pair in range(1, pairs + 1):
        base, new = (clone.measure(scenario, ()) for _ in range(2))
        _, count = compare(clone, base, new, recheck=False)
        alarms += count["SLOW"]
        again = compare(clone, base, new, recheck=True)[1]["SLOW"] if pair <= recheck else "–"
        cells = " | ".join(str(count[name]) for name in ("SLOW", "FAST", "SAME", "AMBG"))
        print(f"| {pair} | {cells} | {again} |", flush=True)
    print(f"\n{alarms} alarms in {pairs} pairs of equal builds")


def planted(clone: Clone, scenario: str, faults: list[Fault], options: tuple[str, ...]) -> None:
    """A run of the sound commit, and one of each fault beside it."""
    clone.git("checkout", "-q", clone.sound)
    base = clone.measure(scenario, options)
    print("\n| planted | took | table alone | first line, suspects measured again |")
    print("|---|---|---|---|", flush=True)
    for fault in faults:
        start = time.monotonic()
        clone.plant(fault)
        new = clone.measure(scenario, options)
        _, alone = compare(clone, base, new, recheck=False)
        first, _ = compare(clone, base, new, recheck=True)
        took = time.monotonic() - start
        print(f"| {fault.words} | {took:.0f} s | {alone['SLOW']} SLOW | {first} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="of equal builds; 0 for none")
    parser.add_argument("--recheck", type=int, default=3, help="pairs whose suspects are rechecked")
    parser.add_argument("--pairs-of", default="smoke", metavar="SCENARIO")
    parser.add_argument("--scenario", default="nightly", help="in which faults are planted")
    parser.add_argument("--series", default="gqa,mamba2")
    parser.add_argument("--only", action="append", choices=[fault.name for fault in FAULTS])
    asked = parser.parse_args()
    faults = [fault for fault in FAULTS if not asked.only or fault.name in asked.only]
    with tempfile.TemporaryDirectory() as scratch:
        clone = Clone(Path(scratch) / "clone")
        if asked.pairs:
            equal_pairs(clone, asked.pairs_of, asked.pairs, asked.recheck)
        planted(clone, asked.scenario, faults, ("--series", asked.series, *QUICK))


if __name__ == "__main__":
    main()
