"""The tokenizer that a GGUF file holds: byte-level BPE, as GPT-2 and most models since have it.

The file names the rule that splits a text into words before merging (``tokenizer.ggml.pre``); the
rules are llama.cpp's, the tokenizers package does the work. Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer

from ctxsweep.models.gguf_index import GgufIndex

_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens that merging does not make."""


class BadTokenizer(ValueError):
    """The file holds no tokenizer, or one that is not built."""


def _gpt2() -> PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _words(digits: str) -> PreTokenizer:
    """The rule of GPT-4's tokenizer, with numbers cut as ``digits`` says."""
    rule = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


# tokenizer.ggml.pre -> how a text is split into words
SPLITS: Mapping[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "qwen2": lambda: _words(r"\p{N}"),
    "llama-bpe": lambda: _words(r"\p{N}{1,3}"),
}
_WHOLE_WORDS = ("llama-bpe",)
"""Those that take a word of the vocabulary whole, however it would be merged."""


def tokenizer_from(index: GgufIndex) -> Tokenizer:
    """The tokenizer of a file. Raises ``BadTokenizer``."""
    kind, split = (index.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind is None or "tokenizer.ggml.tokens" not in index.metadata:
        raise BadTokenizer(f"{index.path}: holds no tokenizer")
    if kind != "gpt2":
        raise BadTokenizer(
            f"{index.path}: tokenizer.ggml.model = {kind!r} is not built; valid: gpt2"
        )
    if split not in SPLITS:
        raise BadTokenizer(
            f"{index.path}: tokenizer.ggml.pre = {split!r} is not built; one of: "
            f"{', '.join(SPLITS)}"
        )
    tokens: Sequence[str] = index.metadata["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ")) for pair in index.metadata.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=split in _WHOLE_WORDS))
    except Exception as error:  # the package raises nothing narrower
        raise BadTokenizer(f"{index.path}: tokenizer.ggml.merges: {error}") from error
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = SPLITS[split]()
    tokenizer.decoder = decoders.ByteLevel()
    _add_whole_tokens(tokenizer, tokens, index.metadata.get("tokenizer.ggml.token_type", ()))
    return tokenizer


def _add_whole_tokens(tokenizer: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    special = [AddedToken(t) for t, kind in zip(tokens, kinds, strict=False) if kind == _CONTROL]
    tokenizer.add_special_tokens(special)
    plain = (t for t, kind in zip(tokens, kinds, strict=False) if kind == _USER_DEFINED)
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in plain])


def token_ids(index: GgufIndex) -> dict[str, Any]:
    """``bos_token_id`` and ``eos_token_id`` as a ``config.json`` has them, where the file does."""
    ids = {
        f"{which}_token_id": index.metadata.get(f"tokenizer.ggml.{which}_token_id")
        for which in ("bos", "eos")
    }
    return {key: number for key, number in ids.items() if number is not None}
