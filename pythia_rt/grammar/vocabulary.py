"""A tokenizer as llguidance needs it: the bytes of each id, taken from our own tokenizer.

So a grammar sees the very bytes that the text is made of, whatever kind of tokenizer it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.grammar.library import llguidance
from pythia_rt.tokenizer import Tokenizer

# What llguidance takes for the first byte of a special token; no UTF-8 has it.
_SPECIAL = b"\xff"
_SILENT = -1


class Vocabulary:
    """The ids 0 .. n_tokens - 1 that a model may write, and those of them that end a text.

    Many tokenizers take a space away at the start of a text. There a token adds other bytes than
    elsewhere, and llguidance knows it as a second token, in a row beyond n_tokens.
    """

    def __init__(self, tokenizer: Tokenizer, n_tokens: int, end_ids: Iterable[int]) -> None:
        """Raises ImportError where llguidance is not installed, and ValueError for a tokenizer
        whose tokens are not bytes."""
        if tokenizer.byte_map is None:
            raise ValueError(
                "a grammar needs a tokenizer of GPT-2's or sentencepiece's kind, and in this one "
                "what a token stands for depends on others"
            )
        leading_spaces = tokenizer.byte_map.leading_spaces
        self.n_tokens = n_tokens
        self.end_ids = tuple(sorted({token for token in end_ids if token < n_tokens}))
        special = tokenizer.special_ids | frozenset(self.end_ids)
        rows = [
            _SPECIAL + (tokenizer.name(token).encode() or b"<%d>" % token)
            if token in special
            else _as_text(tokenizer.token_bytes(token))
            for token in range(n_tokens)
        ]
        self._row_at_start = {}  # of tokens that have another one than their id
        for token in range(n_tokens):
            shown = rows[token] if token in special else _at_start(rows[token], leading_spaces)
            if shown != rows[token]:
                self._row_at_start[token] = len(rows) if shown else _SILENT
                rows += [shown] if shown else []
        # Of every id at the start of a text, [n_tokens].
        self._rows_at_start = np.arange(n_tokens)
        self._rows_at_start[list(self._row_at_start)] = list(self._row_at_start.values())
        # A token that ends texts is needed: of a model without, one that it cannot write.
        ends = self.end_ids or (len(rows),)
        rows += [] if self.end_ids else [_SPECIAL + b"<end>"]
        self.n_rows = len(rows)
        self.n_words = -(-len(rows) // 32)  # of its masks
        self.n_mask_words = -(-n_tokens // 32)  # of the model's, which begin as those do
        self.last_bits = np.uint32((1 << ((n_tokens - 1) % 32 + 1)) - 1)  # of ids, in the last word
        library = llguidance()
        source: Any = _Source(rows, ends[0], sorted(special))
        self.tokenizer = library.LLTokenizer(
            library.TokenizerWrapper(source), n_vocab=len(rows), eos_token=list(ends)
        )

    def row_at_start(self, token: int) -> int | None:
        """The row of a token with which a text starts; None where nothing of it is shown."""
        row = self._row_at_start.get(token, token)
        return None if row == _SILENT else row

    def mask_at_start(self, words: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The mask of ids, [n_mask_words], for the start of a text, of that of rows [n_words]."""
        if not self._row_at_start:
            return words[: self.n_mask_words]
        rows = np.unpackbits(words.view(np.uint8), bitorder="little")
        bits = np.zeros(32 * self.n_mask_words, np.uint8)
        bits[: self.n_tokens] = np.where(
            self._rows_at_start == _SILENT, 1, rows[self._rows_at_start]
        )
        return np.packbits(bits, bitorder="little").view(np.uint32)


_Known = dict[tuple[int, tuple[int, ...]], Vocabulary]
_known: weakref.WeakKeyDictionary[Tokenizer, _Known] = weakref.WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer, n_tokens: int, end_ids: Iterable[int]) -> Vocabulary:
    """The vocabulary, which is made once for a tokenizer and kept as long as it.

    Raises ImportError where llguidance is not installed, ValueError as `Vocabulary` does.
    """
    of_tokenizer = _known.setdefault(tokenizer, {})
    key = n_tokens, tuple(sorted(end_ids))
    if key not in of_tokenizer:
        of_tokenizer[key] = Vocabulary(tokenizer, *key)
    return of_tokenizer[key]


def _at_start(content: bytes, leading_spaces: int) -> bytes:
    """What is shown of a token's bytes where a text begins with it."""
    spaces = len(content) - len(content.lstrip(b" "))
    return content[min(spaces, leading_spaces) :]


def _as_text(content: bytes) -> bytes:
    """The bytes, none of those that could be no text: an empty token is never allowed."""
    return b"" if _SPECIAL in content else content


class _Source:
    """What llguidance reads a vocabulary from."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], eos_token_id: int, special_token_ids: list[int]):
        self.tokens = tokens
        self.eos_token_id = eos_token_id
        self.special_token_ids = special_token_ids

    def __call__(self, text: str | bytes) -> list[int]:
        """Token ids of a text that a grammar forces: it never asks, see `Compiled`."""
        return []
