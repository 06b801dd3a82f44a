"""Real text in which things are hidden: where its tokens may be cut, and what is put between."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ctxsweep.backends.base import Tokens
from ctxsweep.quality.corpus import Corpus, TextTooShort

if TYPE_CHECKING:
    from ctxsweep.quality.tokenizer import Tokenizer

SENTENCE_ENDS = (".", "!", "?")
Places = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Haystack:
    """The ``tokens`` ``[N]`` of a text and the places ``[N + 1]`` where it may be cut.

    ``words``: whitespace is on one side of the cut, so no word is torn. ``sentences``: one has
    ended there, too. Nothing is tokenised again: what is put in must begin with whitespace.
    """

    name: str
    tokens: Tokens
    words: Places
    sentences: Places
    tokenizer: Tokenizer

    @classmethod
    def of(cls, corpus: Corpus, tokenizer: Tokenizer) -> Haystack:
        """Find the cuts by what every token of the text is when written out."""
        ids, where = np.unique(corpus.tokens, return_inverse=True)
        pieces = _pieces(ids, tokenizer)
        begins = np.array([piece[:1].isspace() for piece in pieces], dtype=bool)[where]
        ends = np.array([piece[-1:].isspace() for piece in pieces], dtype=bool)[where]
        closes = np.array([p.rstrip().endswith(SENTENCE_ENDS) for p in pieces], dtype=bool)[where]
        words = np.append(begins, True) | np.append(True, ends)
        sentences = words & np.append(True, closes)
        return cls(corpus.source.name, corpus.tokens, words, sentences, tokenizer)

    def encode(self, text: str) -> Tokens:
        """Tokens of something that is put into the text."""
        return np.asarray(self.tokenizer.encode(text), dtype=np.int64)

    def spaces_before(self, tokens: Tokens) -> int:
        """How many of the first tokens are nothing but whitespace."""
        pieces = _pieces(tokens, self.tokenizer)
        return next(index for index, piece in enumerate(pieces) if piece.strip())

    def beginning(self, length: int, rng: np.random.Generator) -> int:
        """The start of a sentence with ``length`` tokens after it; raises ``TextTooShort``."""
        last = len(self.tokens) - length
        if last < 0:
            raise TextTooShort(
                f"text '{self.name}' has {len(self.tokens)} tokens under tokenizer "
                f"{self.tokenizer.name}, fewer than a context of {length}. "
                "Take a longer text or shorter contexts (--contexts)"
            )
        return int(rng.choice(np.flatnonzero(self.sentences[: last + 1])))

    def passage(self, length: int, after: int, rng: np.random.Generator) -> int:
        """The start, at ``after`` or later, of ``length`` tokens from a word to a sentence's end.

        In a short text they may end with a word, at worst begin and end within one.
        """
        last = len(self.words) - length
        for ends in (self.sentences, self.words):
            fits = self.words[after:last] & ends[after + length :]
            if fits.any():
                return after + int(rng.choice(np.flatnonzero(fits)))
        return after

    def cut(self, target: int, least: int, slack: int) -> int:
        """The last end of a sentence, else of a word, at most ``slack`` before ``target``.

        Never before ``least``; ``target`` itself where there is none. Grows with ``target``.
        """
        first = max(least, target - slack)
        for places in (self.sentences, self.words):
            found = np.flatnonzero(places[first : target + 1])
            if found.size:
                return first + int(found[-1])
        return max(least, target)

    def woven(
        self, start: int, end: int, inserts: Iterable[tuple[int, Tokens]], slack: int
    ) -> Tokens:
        """The text from ``start`` to ``end`` with every insert put in near its place in the text.

        ``inserts`` come in ascending order.
        """
        parts, at = [], start
        for place, tokens in inserts:
            cut = min(self.cut(place, at, slack), end)
            parts += [self.tokens[at:cut], tokens]
            at = cut
        return np.concatenate([*parts, self.tokens[at:end]])


def _pieces(ids: Tokens, tokenizer: Tokenizer) -> list[str]:
    """Every token written out, after another: some tokenizers strip a text's first space."""
    before = tokenizer.encode("a")
    skip = len(tokenizer.decode(before))
    return [tokenizer.decode([*before, token])[skip:] for token in ids.tolist()]
