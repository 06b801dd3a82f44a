"""Pages that show a command's output show what it prints today; tools/renew_docs.py writes them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("renew_docs", ROOT / "tools" / "renew_docs.py")
assert spec is not None and spec.loader is not None
renew_docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(renew_docs)

BLOCKS = [
    (page, command)
    for page in sorted(renew_docs.DOCS.glob("*.md"))
    for command in renew_docs.commands(page)
]


@pytest.mark.parametrize(("page", "command"), BLOCKS, ids=[f"{p.name}: {c}" for p, c in BLOCKS])
def test_a_page_shows_what_the_command_prints(page: Path, command: str) -> None:
    assert renew_docs.shown(page, command) == renew_docs.printed(command), "run: make docs"


def test_every_mark_is_closed_and_read() -> None:
    for page in renew_docs.DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text.count("<!-- output: ") == len(renew_docs.commands(page))
    assert len(BLOCKS) >= 7


def test_a_stale_block_is_renewed_and_keeps_its_fence(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- output: ctxsweep --version -->\n```\nold\n```\n<!-- /output -->\nb\n"
        "<!-- output: ctxsweep --version -->\nold\n<!-- /output -->\n",
        encoding="utf-8",
    )
    version = renew_docs.printed("ctxsweep --version")
    assert version and version != "old"
    assert renew_docs.renewed(page) == (
        f"a\n<!-- output: ctxsweep --version -->\n```\n{version}\n```\n<!-- /output -->\nb\n"
        f"<!-- output: ctxsweep --version -->\n{version}\n<!-- /output -->\n"
    )
