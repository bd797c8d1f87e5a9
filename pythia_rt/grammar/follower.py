"""A grammar along one text: what may come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.grammar.library import reason
from pythia_rt.grammar.vocabulary import Vocabulary


class Follower:
    """Follows one text token by token, as a hook of `_core.Writer`. One thread at a time."""

    masks = True
    changes = False

    def __init__(self, vocabulary: Vocabulary, matcher: Any, stop_ids: frozenset[int]) -> None:
        """`Compiled.start` makes them. `matcher` is its own."""
        self._vocabulary = vocabulary
        self._matcher = matcher
        n_tokens = vocabulary.n_tokens
        self._stop_ids = frozenset(t for t in stop_ids if t < n_tokens) - {*vocabulary.end_ids}
        self._ends = self._stop_ids.union(vocabulary.end_ids)
        self._at_start = True
        self._words = np.zeros(vocabulary.n_words, np.uint32)
        self._address = self._words.ctypes.data

    def allowed(self) -> NDArray[np.uint32]:
        """The mask of the ids that may come next, [ceil(n_tokens / 32)]; bit i % 32 of word i // 32
        is that of the id i. It holds until the next call.

        Tokens that end a text are among them exactly where the text so far is whole. Raises
        RuntimeError where nothing is left, or where the grammar is too complex to tell.
        """
        self._matcher.unsafe_compute_mask_ptr(self._address, self._words.nbytes)
        if self._matcher.is_error():
            raise RuntimeError(f"the grammar cannot go on: {reason(self._matcher.get_error())}")
        n_words = self._vocabulary.n_mask_words
        mask = self._words[:n_words]
        if self._at_start:
            mask = self._vocabulary.mask_at_start(self._words)
        mask[-1] &= self._vocabulary.last_bits
        if self._stop_ids:
            self._put_stops(mask)
        if not mask.any():
            raise RuntimeError(
                "no token of the model can go on with it"
                if not self.is_complete
                else "the grammar is complete, and the model has no token that ends a text: name "
                "one in stop_token_ids"
            )
        return mask

    def accept(self, token: int) -> None:
        """The next token. Raises RuntimeError for one that the grammar does not take."""
        if token in self._ends:
            if not self.is_complete:
                raise RuntimeError(f"the grammar does not let token {token} end the text")
            return
        row = self._row(token)
        self._at_start = False
        if row is not None and not self._matcher.consume_token(row):
            said = reason(self._matcher.get_error())
            raise RuntimeError(f"the grammar does not take token {token}: {said}")

    def validate(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, it would take one after another."""
        taken = 0
        follower = self.copy()
        for token in tokens:
            if token in self._ends:
                return taken + follower.is_complete
            row = follower._row(token)
            if row is not None and (
                not 0 <= row < self._vocabulary.n_rows
                or not follower._matcher.validate_tokens([row])
            ):
                return taken
            follower.accept(token)
            taken += 1
        return taken

    @property
    def is_complete(self) -> bool:
        """Whether the text so far is one that the grammar takes, though more may come."""
        return bool(self._matcher.is_accepting())

    def copy(self) -> Follower:
        """Another one for a text that goes on from here in another way."""
        other = Follower(self._vocabulary, self._matcher.deep_copy(), self._stop_ids)
        other._at_start = self._at_start
        return other

    def _row(self, token: int) -> int | None:
        return self._vocabulary.row_at_start(token) if self._at_start else token

    def _put_stops(self, mask: NDArray[np.uint32]) -> None:
        """They end the text, so they may come where the end tokens may."""
        complete = self.is_complete
        for token in self._stop_ids:
            bit = np.uint32(1 << token % 32)
            mask[token // 32] = mask[token // 32] | bit if complete else mask[token // 32] & ~bit
