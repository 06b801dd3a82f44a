"""A git repository with this source tree in it, and commits that differ from it on purpose."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import ctxsweep

ROOT = Path(ctxsweep.__file__).parents[2]


class Repository:
    """``harness`` and ``kernels`` as they are here, committed; ``plant`` commits a change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        leave = shutil.ignore_patterns("__pycache__", "trained", "texts")
        for root in ("harness", "kernels"):
            shutil.copytree(ROOT / root, folder / root, ignore=leave)
        self.git("init", "--quiet")
        self.first = self._commit()

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        command = ("git", "-C", str(self.folder), *who, *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def plant(self, *changes: tuple[str, str, str]) -> str:
        """A commit on the first one with (file, old text, new text); its name."""
        self.git("checkout", "--quiet", self.first)
        for file, old, new in changes:
            path = self.folder / file
            text = path.read_text()
            assert text.count(old) == 1, f"{file} holds {text.count(old)} times: {old}"
            path.write_text(text.replace(old, new))
        return self._commit()

    def _commit(self) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "planted")
        return self.git("rev-parse", "HEAD")
