"""Write what commands print into the pages of docs/, between the marks that name the command.

    <!-- output: ctxsweep inspect llama-3-8b -->
    ```
    ...
    ```
    <!-- /output -->

A block keeps its fence, or goes without one where the output is Markdown. ``--check`` writes
nothing and names the pages that are not what the code prints today.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(
    r"(?P<mark><!-- output: (?P<command>.*?) -->\n)(?P<body>.*?)(?P<end><!-- /output -->)",
    re.DOTALL,
)
FENCE = "```"
CATALOGUE = "from ctxsweep.cli.listing import models_markdown; print(models_markdown())"


def commands(page: Path) -> list[str]:
    """The commands whose output a page holds, top to bottom."""
    return [found["command"] for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def shown(page: Path, command: str) -> str:
    """What a page holds for a command, without the fence."""
    blocks = BLOCK.finditer(page.read_text(encoding="utf-8"))
    body = next(found["body"] for found in blocks if found["command"] == command)
    return body.strip().removeprefix(FENCE).removesuffix(FENCE).strip("\n")


def printed(command: str) -> str:
    """What the command prints on 80 columns, standard error included, lines trimmed at the end."""
    name, *arguments = shlex.split(command)
    call = ["-c", CATALOGUE] if name == "catalogue" else ["-m", "ctxsweep.cli", *arguments]
    done = subprocess.run(
        [sys.executable, *call],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def renewed(page: Path) -> str:
    """The page's text with every block as it is printed now."""

    def block(found: re.Match[str]) -> str:
        fence = f"{FENCE}\n" if found["body"].startswith(FENCE) else ""
        return f"{found['mark']}{fence}{printed(found['command'])}\n{fence}{found['end']}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def main() -> int:
    """0: everything is as printed now, or has been written; 1: --check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    check = parser.parse_args().check
    stale = 0
    for page in sorted(DOCS.glob("*.md")):
        now = renewed(page) if commands(page) else ""
        if now and now != page.read_text(encoding="utf-8"):
            stale += 1
            print(f"{page.name}: {'not what the code prints' if check else 'written'}")
            if not check:
                page.write_text(now, encoding="utf-8")
    return int(check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
