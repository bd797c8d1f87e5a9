"""What a `Model` thinks of texts that are there already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.options import whole_number_from
from pythia_rt.overflow import first_not_finite
from pythia_rt.prompt import Prompt
from pythia_rt.scoring.judge import Answer, Question, answer
from pythia_rt.scoring.pairs import Pairs, prefix_id
from pythia_rt.scoring.result import PairScore, Perplexity, Score
from pythia_rt.scoring.windows import choose, cut

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile import FlatFile
    from pythia_rt.tokenizer import Tokenizer

# Tokens whose logits are looked through at a time: 12 MB with a vocabulary of 50,000.
_LOOKED_THROUGH = 64


class Scoring:
    """Methods of `Model`."""

    if TYPE_CHECKING:

        @property
        def tokenizer(self) -> Tokenizer | None: ...

        @property
        def file(self) -> FlatFile: ...

        @property
        def max_positions(self) -> int: ...

        def new_session(self, capacity: int) -> _core.Session: ...

        def _ids(self, prompt: Prompt) -> NDArray[np.int32]: ...

        def _not_finite(self, tokens: NDArray[np.int32]) -> RuntimeError: ...

    def score(
        self,
        texts: Iterable[Prompt],
        *,
        top: int = 0,
        window: int | None = None,
        stride: int | None = None,
    ) -> list[Score]:
        """Judge texts (each a str, or token ids): the log-probabilities of their tokens.

        They are ln of the probability of every token but the first, which has nothing before it,
        given those before it, over all raw logits, as `Generation.logprobs` are. Texts may be of
        any length: at most `window` tokens, by default the whole context, are read at a time. A
        longer text is read in windows that begin anew, each of which judges the next `stride`
        tokens, by default `window` of them (docs/scoring.md). Short texts share passes through the
        model, and the logits are not kept: faster than `logits`, in little memory, and with the
        same result for a text whatever the others are. For the `top` likeliest tokens at each
        place every text is read once more, by itself.

        Raises ValueError as `generate` does, and for no texts, before any text is read, and
        RuntimeError as it does.
        """
        if isinstance(texts, (str, bytes, np.ndarray)) or not isinstance(texts, Iterable):
            raise ValueError("score takes a list of texts: for a single one, a list of that one")
        vocab_size = int(self.file.spec["vocab_size"])
        top = whole_number_from(0, vocab_size, "tokens")("top", top)
        window, stride = choose(window, stride, self.max_positions)
        given = list(texts)
        if not given:
            raise ValueError("there is nothing to score: give at least one text")
        questions = []
        for number, text in enumerate(given, 1):
            try:
                ids = self._ids(text)
            except ValueError as error:
                raise ValueError(f"text {number} of {len(given)}: {error}") from None
            questions.append(
                [
                    Question(ids[start:first], ids[first:stop])
                    for start, first, stop in cut(len(ids), window, stride)
                ]
            )
        answers = iter(self._judge([window for windows in questions for window in windows]))
        return [
            self._score(windows, [next(answers) for _ in windows], top) for windows in questions
        ]

    def score_pairs(self, pairs: Iterable[tuple[Prompt, Prompt]]) -> list[PairScore]:
        """Judge continuations: the log-probabilities of their tokens, given their contexts.

        Each of the `pairs` is (context, continuation), two strs or token ids. What contexts have in
        common is read once, however many continue it, and continuations of one token share a row of
        logits; each has the same result as alone. Strs become ids as in lm-evaluation-harness: the
        blanks at a context's end belong to the continuation, both are encoded as one text, and an
        empty context is the tokenizer's BOS token, or where it has none its EOS token.

        Raises ValueError that names the pair, before anything is read: for what cannot be encoded,
        for a continuation without tokens, for a pair whose tokens without the last one do not fit
        into the context; and RuntimeError as `generate` does.
        """
        questions = self._pairs().questions(pairs)
        return [
            PairScore(*found, question.following)
            for question, found in zip(questions, self._judge(questions), strict=True)
        ]

    def perplexity(
        self, text: Prompt, *, window: int | None = None, stride: int | None = None
    ) -> Perplexity:
        """How well the model predicts `text`, a str or token ids of any length.

        It is read in windows as in `score`. All tokens of a str count, the first one after the BOS
        token, or where there is none the EOS token, as in lm-evaluation-harness; of token ids all
        but the first. Raises ValueError and RuntimeError as `score` does, and ValueError for a text
        of which nothing is predicted.
        """
        ids = self._ids(text)
        prefix = prefix_id(self.file, self.tokenizer) if isinstance(text, str) else None
        if prefix is not None and ids[0] != prefix:
            ids = np.concatenate([np.array([prefix], np.int32), ids])
        if len(ids) < 2:
            raise ValueError("a perplexity needs at least two tokens: nothing is before the first")
        (score,) = self.score([ids], window=window, stride=stride)
        n_bytes = len(text.encode()) if isinstance(text, str) else None
        return Perplexity(score.total, len(score), n_bytes)

    def _pairs(self) -> Pairs:
        return Pairs(
            self._ids,
            lambda: self.tokenizer,
            lambda: prefix_id(self.file, self.tokenizer),
            self.max_positions,
        )

    def _judge(self, questions: Sequence[Question]) -> list[Answer]:
        self.file.check_unchanged()
        answers = answer(lambda: self.new_session(self.max_positions), questions)
        for (context, following), found in zip(questions, answers, strict=True):
            row = first_not_finite(found.log_probabilities)
            if row is not None:
                raise self._not_finite(np.concatenate([context, following[:row]]))
        return answers

    def _score(self, windows: Sequence[Question], answers: Sequence[Answer], top: int) -> Score:
        """What is known of a text, of its windows."""
        log_probabilities = [np.zeros(0, np.float32), *(each.log_probabilities for each in answers)]
        is_likeliest = [np.zeros(0, np.bool_), *(each.is_likeliest for each in answers)]
        score = Score(np.concatenate(log_probabilities), np.concatenate(is_likeliest))
        if top == 0:
            return score
        ids = np.zeros((len(score), top), np.int32)
        top_log_probabilities = np.zeros((len(score), top), np.float32)
        done = 0
        for context, following in windows:
            session = self.new_session(self.max_positions)
            if len(context) > 1:
                session.append(context[:-1])
            asked = np.concatenate([context[-1:], following[:-1]])
            for begin in range(0, len(asked), _LOOKED_THROUGH):
                piece = asked[begin : begin + _LOOKED_THROUGH]
                place = slice(done, done + len(piece))
                found = _core.top(session.logits(piece), top)
                ids[place], top_log_probabilities[place] = found
                done += len(piece)
        return Score(score.log_probabilities, score.is_likeliest, ids, top_log_probabilities)
