"""Texts as tokens: bytes, folders, and GGUF files against llama.cpp's own tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unicodedata import normalize

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from ctxsweep.backends.llama_cpp_engine.backend import LlamaCppEngine
from ctxsweep.models.gguf_index import read_index
from ctxsweep.models.gguf_tokenizer import SPLITS, tokenizer_from
from ctxsweep.quality.tokenizer import NoTokenizer, tokenizer_of

llama_cpp = pytest.mark.skipif(
    LlamaCppEngine.availability() is not None, reason="needs llama-cpp-python and gguf"
)
TEXTS = (
    "The pass key is 71432. Remember it: 71432 is the pass key; 3.14 and 1,000,000.",
    "naïve café — “quoted”, 'tis, don't, I'LL, we've\n\n  two  spaces\t\ttabs\r\n end ",
    "日本語のテキスト 😀👍🏽 ½ ² ٣٤ e\u0301\u00a0x",
    "def f(x_1):\n    return x_1**2  # 'a' \"b\"\n\n\n",
    "<|im_start|>user\nhello<|im_end|> <|endoftext|>",
    " ",
    "",
)


def with_split(smollm2: Path, split: str, path: Path) -> Path:
    """SmolLM2's vocabulary alone, said to be split into words by another rule."""
    held = read_index(smollm2).metadata
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(held["tokenizer.ggml.tokens"])
    writer.add_token_types(held["tokenizer.ggml.token_type"])
    writer.add_token_merges(held["tokenizer.ggml.merges"])
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"llama.{key}", 64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@llama_cpp
@pytest.mark.parametrize("split", list(SPLITS))
def test_ids_are_those_of_llama_cpp(split: str, smollm2: Path, tmp_path: Path) -> None:
    from llama_cpp import Llama

    path = smollm2 if split == "smollm" else with_split(smollm2, split, tmp_path / "vocab.gguf")
    theirs, ours = Llama(str(path), vocab_only=True, verbose=False), tokenizer_of(str(path))
    assert ours.vocab_size == theirs.n_vocab()
    for text in TEXTS:
        # Qwen2's own tokenizer composes characters first; llama.cpp leaves that out.
        given = normalize("NFC", text) if split == "qwen2" else text
        wanted = theirs.tokenize(given.encode(), add_bos=False, special=False) if text else []
        assert ours.encode(text) == wanted, text


def test_every_digit_is_a_token_of_smollm2(smollm2: Path) -> None:
    tokenizer = tokenizer_of(str(smollm2))
    assert [tokenizer.decode([i]) for i in tokenizer.encode("71432")] == list("71432")
    assert tokenizer.vocab_size == 49152
    assert "71432" in TEXTS[0] and tokenizer.name == smollm2.stem


def test_texts_come_back(smollm2: Path, tmp_path: Path) -> None:
    bytes_folder(tmp_path)
    for model in (str(smollm2), str(tmp_path)):
        tokenizer = tokenizer_of(model)
        for text in TEXTS:
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert all(0 <= i < tokenizer.vocab_size for i in ids)


def bytes_folder(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"ctxsweep_tokenizer": "bytes"}')


@given(text=st.text())
def test_bytes_are_utf_8(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    bytes_folder(folder)
    tokenizer = tokenizer_of(str(folder))
    assert tokenizer.encode(text) == list(text.encode("utf-8"))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode([0xC3]) == "\ufffd"


def test_a_folders_tokenizer_adds_nothing(smollm2: Path, tmp_path: Path) -> None:
    """Not even what its own post-processing and truncation would."""
    pieces = tokenizer_from(read_index(smollm2))
    path, wanted = tmp_path / "tokenizer.json", tokenizer_of(str(smollm2)).encode(TEXTS[0])
    pieces.enable_truncation(4)
    pieces.enable_padding(length=100)
    fields = json.loads(pieces.to_str())
    start = {"id": "<|im_start|>", "type_id": 0}
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["x"]}},
    }
    path.write_text(json.dumps(fields))
    assert Tokenizer.from_file(str(path)).encode("a").ids[0] == 1
    assert tokenizer_of(str(tmp_path)).encode(TEXTS[0]) == wanted


def test_a_tokenizer_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    for number, word in enumerate(("one", "two")):
        Tokenizer(models.WordLevel({word: 0, "?": 1}, "?")).save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer.json").touch()
        assert tokenizer_of(str(tmp_path)).encode("two") == [1 - number]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny-gqa", "tiny-gqa has no tokenizer.*ctxsweep fetch --list"),
        ({"like": "tiny-gqa"}, "written out has no tokenizer"),
        ("smollm2", "'smollm2' is not here yet: ctxsweep fetch smollm2"),
    ],
)
def test_a_model_without_a_tokenizer_says_what_would_do(
    model: str | dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTXSWEEP_CACHE", str(tmp_path))
    with pytest.raises(NoTokenizer, match=said):
        tokenizer_of(model)


def test_a_tokenizer_that_cannot_be_read_is_named(smollm2: Path, tmp_path: Path) -> None:
    folder = str(tmp_path)
    with pytest.raises(NoTokenizer, match=r"tokenizer\.json: no such file; take a folder"):
        tokenizer_of(folder)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(NoTokenizer, match=r"tokenizer\.json: the tokenizers package cannot"):
        tokenizer_of(folder)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(NoTokenizer, match=r"tokenizer_config\.json: cannot be read as JSON"):
        tokenizer_of(folder)
    path = with_split(smollm2, "gpt-9", tmp_path / "vocab.gguf")
    with pytest.raises(NoTokenizer, match=r"pre = 'gpt-9' is not built; one of: gpt-2, smollm"):
        tokenizer_of(str(path))
    shutil.copy(smollm2, tmp_path / "cut.gguf")
    with (tmp_path / "cut.gguf").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(NoTokenizer, match=r"cut\.gguf: not a whole GGUF file"):
        tokenizer_of(str(tmp_path / "cut.gguf"))
