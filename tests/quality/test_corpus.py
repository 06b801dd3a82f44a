"""Texts: found by name or path, read as tokens, cut into stretches; bad ones are told."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctxsweep.quality.corpus import (
    TEXTS,
    BadText,
    Corpus,
    TextTooShort,
    block_losses,
    find_text,
    read_corpus,
    stretch,
    text_names,
)
from ctxsweep.quality.tokenizer import Bytes
from ctxsweep.records_quality import CellQuality, PassPlan, TextSource


def corpus(tokens: int) -> Corpus:
    source = TextSource(name="counted", sha256="", tokens=tokens, tokens_sha256="")
    return Corpus(np.arange(tokens), source)


def plan(*stretch_ends: int, context_tokens: int = 10, block_tokens: int = 4) -> CellQuality:
    return CellQuality(
        text="counted",
        stretch_ends=stretch_ends,
        block_tokens=block_tokens,
        passes=(PassPlan(context_tokens=context_tokens),),
    )


@pytest.mark.parametrize("name", text_names())
def test_a_shipped_text_is_what_its_provenance_says(name: str) -> None:
    read = read_corpus(name, Bytes(), 100_000)
    assert read.source.name == name
    assert f"{read.source.sha256}  {name}.txt" in (TEXTS / "PROVENANCE.md").read_text()
    assert read.source.tokens == len(read.tokens) == (TEXTS / f"{name}.txt").stat().st_size


def test_two_novels_are_shipped() -> None:
    assert {"emma", "persuasion"} <= set(text_names())


def test_a_users_text_is_read_by_path(tmp_path: Path) -> None:
    data = "\N{BYTE ORDER MARK}Où est-ce ?\nIci.\n".encode()
    (tmp_path / "notes.md").write_bytes(data)
    read = read_corpus(str(tmp_path / "notes.md"), Bytes(), 5)
    assert read.tokens.dtype == np.int64
    assert bytes(read.tokens.tolist()).decode() == "Où est-ce ?\nIci.\n"
    assert read.source.name == "notes.md"
    assert read.source.sha256 == hashlib.sha256(data).hexdigest()


def test_an_unknown_text_names_the_nearest() -> None:
    with pytest.raises(BadText, match=r"'ema' is neither .* nearest shipped text: 'emma' \(of "):
        find_text("ema")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9 au lait", r"is not UTF-8: byte 3 is 0xe9; convert it"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
    ],
)
def test_a_bad_text_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(BadText, match=rf"bad\.txt {said}"):
        read_corpus(str(tmp_path / "bad.txt"), Bytes(), 1)


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadText, match="is a folder; give a file of plain text"):
        find_text(str(tmp_path))


def test_a_text_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "shut.txt").write_text("words")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadText, match=r"shut\.txt cannot be read: Permission denied"):
        read_corpus(str(tmp_path / "shut.txt"), Bytes(), 1)


def test_a_short_text_tells_what_it_has_and_what_is_needed(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("twelve bytes")
    said = r"'note.txt' has 12 tokens under tokenizer bytes; 13 are needed .*--contexts"
    with pytest.raises(TextTooShort, match=said):
        read_corpus(str(tmp_path / "note.txt"), Bytes(), 13)
    assert read_corpus(str(tmp_path / "note.txt"), Bytes(), 12).source.tokens == 12


def test_a_stretch_ends_before_its_end() -> None:
    asked = plan(40, 90)
    assert stretch(corpus(100), asked, 1, PassPlan(context_tokens=10)).tolist() == [*range(79, 90)]
    earlier = PassPlan(context_tokens=3, end_offset=7)
    assert stretch(corpus(100), asked, 0, earlier).tolist() == [29, 30, 31, 32]


def test_targets_are_the_same_at_every_context() -> None:
    short, long = (
        stretch(corpus(100), plan(60), 0, PassPlan(context_tokens=context))[1:]
        for context in (8, 59)
    )
    assert len(long) == 59
    assert long[-8:].tolist() == short.tolist()


@pytest.mark.parametrize(("end", "context"), [(60, 60), (101, 10)])
def test_a_stretch_outside_of_the_text_is_refused(end: int, context: int) -> None:
    with pytest.raises(TextTooShort, match=r"has tokens 0 to 100; .* stretch 0 needs -?\d+ to"):
        stretch(corpus(100), plan(end), 0, PassPlan(context_tokens=context))


def test_blocks_are_counted_from_the_end() -> None:
    assert block_losses([9.0, 1.0, 2.0, 3.0, 5.0], 2) == (1.5, 4.0)
    assert block_losses([0.123456789], 1) == (0.12346,)
    assert block_losses([1.0, 2.0], 3) == ()


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_blocks_of_two_passes_with_one_end_hold_the_same_targets(
    short: int, more: int, block: int, seed: int
) -> None:
    losses = np.random.default_rng(seed).random(short + more)
    all_blocks, last_blocks = block_losses(losses, block), block_losses(losses[more:], block)
    assert all_blocks[len(all_blocks) - len(last_blocks) :] == last_blocks
    assert len(last_blocks) == short // block
