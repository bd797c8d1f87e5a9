"""Pairs of a context and what continues it become token ids, as lm-evaluation-harness does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from pythia_rt.prompt import NO_SEQUENCES, Prompt, no_tokenizer
from pythia_rt.scoring.branches import Ids
from pythia_rt.scoring.judge import Question

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile import FlatFile
    from pythia_rt.tokenizer import Tokenizer


def prefix_id(file: FlatFile, tokenizer: Tokenizer | None) -> int | None:
    """The token that comes before a text with nothing before it: BOS, or where there is none the
    token that ends texts; the tokenizer's, or where it names none that of the config."""
    for name in ("bos_token", "eos_token"):
        content = file.text["named_tokens"].get(name)
        token = None if content is None or tokenizer is None else tokenizer.token_id(content)
        if token is not None:
            return token
    ids = [file.spec["bos_id"], *file.spec["eos_ids"]]
    return next((int(token) for token in ids if token is not None and token >= 0), None)


class Pairs:
    """Makes questions of pairs, for a model whose `ids` checks a prompt and makes ids of it."""

    def __init__(
        self,
        ids: Callable[[Prompt], Ids],
        tokenizer: Callable[[], Tokenizer | None],
        prefix: Callable[[], int | None],
        max_positions: int,
    ) -> None:
        self._ids = ids
        self._tokenizer = tokenizer
        self._prefix = prefix
        self._max_positions = max_positions

    def questions(self, pairs: Iterable[tuple[Prompt, Prompt]]) -> list[Question]:
        """One for each pair; raises ValueError that names the pair."""
        if isinstance(pairs, (str, bytes, np.ndarray)) or not isinstance(pairs, Iterable):
            raise ValueError(
                "score_pairs takes a list of pairs (context, continuation): for a single one, a "
                "list of that one"
            )
        given = list(pairs)
        if not given:
            raise ValueError("there is nothing to score: give at least one pair")
        questions = []
        for number, pair in enumerate(given, 1):
            try:
                questions.append(self._question(pair))
            except ValueError as error:
                raise ValueError(f"pair {number} of {len(given)}: {error}") from None
        return questions

    def _question(self, pair: object) -> Question:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"a pair is (context, continuation), not {type(pair).__name__}"
                + (f" of {len(pair)}" if isinstance(pair, (tuple, list)) else "")
            )
        context, following = self._encode(*pair)
        if len(following) == 0 and isinstance(pair[1], str) and pair[1] and pair[0]:
            raise ValueError(
                "the continuation has no tokens of its own: the tokenizer joins it to the last one "
                "of the context, so move a word from there to the continuation"
            )
        if len(following) == 0:
            raise ValueError("the continuation has no tokens: there is nothing to judge")
        n_read = len(context) + len(following) - 1
        if n_read > self._max_positions:
            raise ValueError(
                f"{n_read} tokens before the last one do not fit into the context of "
                f"{self._max_positions}: shorten the context"
            )
        return Question(context, following)

    def _encode(self, context: Prompt, continuation: Prompt) -> tuple[Ids, Ids]:
        """Both as ids; `continuation` may have none."""
        if isinstance(context, str) and isinstance(continuation, str):
            return self._encode_texts(context, continuation)
        if isinstance(continuation, str):
            continuation = self._known_tokenizer().encode(continuation, continues=True)
        following = _or_none(self._ids, continuation)
        before = _or_none(self._ids, context)
        if len(before) == 0:
            return self._without_context(following)
        return before, following

    def _encode_texts(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        blanks = len(context) - len(context.rstrip())
        if blanks:  # a tokenizer reads a blank together with the word after it
            context, continuation = context[:-blanks], context[-blanks:] + continuation
        tokenizer = self._known_tokenizer()
        if not context:
            following = tokenizer.encode(continuation, add_special_tokens=False)
            return self._without_context(_or_none(self._ids, following))
        prefix = self._prefix()
        # A text that brings the token which the tokenizer puts before texts gets no second one.
        special = prefix is None or not context.startswith(tokenizer.decode([prefix]))
        before = _or_none(self._ids, tokenizer.encode(context, add_special_tokens=special))
        whole = tokenizer.encode(context + continuation, add_special_tokens=special)
        return before, _or_none(self._ids, whole[len(before) :])

    def _without_context(self, following: Ids) -> tuple[Ids, Ids]:
        prefix = self._prefix()
        if prefix is None:
            raise ValueError(
                "the context is empty, and this model names no token that begins or ends a text: "
                "give the context at least one token"
            )
        if len(following) and following[0] == prefix:
            return following[:1], following[1:]
        return np.array([prefix], np.int32), following

    def _known_tokenizer(self) -> Tokenizer:
        tokenizer = self._tokenizer()
        if tokenizer is None:
            raise no_tokenizer("give the pair as token ids")
        return tokenizer


def _or_none(ids: Callable[[Prompt], Ids], prompt: Prompt) -> Ids:
    """The ids of a prompt that may be empty."""
    if not isinstance(prompt, (str, np.ndarray)) and isinstance(prompt, Iterable):
        prompt = prompt if isinstance(prompt, NO_SEQUENCES) else list(prompt)
    is_empty = isinstance(prompt, (str, list)) and not prompt
    is_empty |= isinstance(prompt, np.ndarray) and prompt.shape[:1] == (0,)
    return np.zeros(0, np.int32) if is_empty else ids(prompt)
