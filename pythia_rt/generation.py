"""The token loop: a `Stream` of text, and the `Generation` it leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pythia_rt.detokenizer import Detokenizer
from pythia_rt.stops import StopMatcher
from pythia_rt.tokenizer import Tokenizer

if TYPE_CHECKING:
    from pythia_rt import _core

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True)
class Timing:
    """Where the time went. Seconds are wall time inside the model, not in the caller's loop."""

    prompt_tokens: int
    new_tokens: int
    prefill_seconds: float  # from the prompt to the first new token
    decode_seconds: float  # for the new tokens after the first

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens read per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens per second, not counting the first; 0 when there was only one."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class Generation:
    """What was written.

    `text` is the new text alone, without the token that ended it and without the stop string; it is
    empty for a model without a tokenizer. `tokens` are all sampled ids, those of the stop string
    and the token that ended the text included, and `logprobs` their natural log-probabilities under
    the model's own distribution over the tokenizer's ids, before temperature, penalties and
    filters.

    `finish_reason` is "eos" (an end token of the model), "stop" (a stop string, or one of the
    stop_token_ids that is no end token) or "length" (max_new_tokens or the end of the context).
    `seed` is the one in use, also where none was given: with it the text comes again.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    seed: int
    timing: Timing


class Stream(Iterator[str]):
    """Text as it is written: iterate over it, then read `result`.

    Characters are never split and stop strings never shown, not even in part, so some tokens give
    no piece of their own. Work happens inside `next()`; the key-value cache is released when the
    text ends, on `close()`, at the end of a `with` block, or when the stream is dropped. Use a
    stream from one thread at a time.
    """

    def __init__(
        self,
        session: _core.Session,
        sampler: _core.Sampler,
        prompt: NDArray[np.int32],
        *,
        tokenizer: Tokenizer | None,
        stops: tuple[str, ...],
        eos_ids: frozenset[int],
        stop_ids: frozenset[int] = frozenset(),
        n_tokens: int | None = None,
        max_new_tokens: int,
        seed: int,
        not_finite: Callable[[NDArray[np.int32]], RuntimeError] | None = None,
    ) -> None:
        """Made by `Model.stream`. The prompt is read at the first `next()`.

        `not_finite` makes the error for tokens after which no token can be sampled.
        """
        self._session: _core.Session | None = session
        self._sampler = sampler
        self._prompt = prompt
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._stops = StopMatcher(stops)
        self._eos_ids = eos_ids
        self._stop_ids = stop_ids
        self._n_tokens = n_tokens
        self._max_new_tokens = max_new_tokens
        self._seed = seed
        self._not_finite = not_finite
        self._pieces: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._prefill_seconds = self._decode_seconds = 0.0
        self._finish_reason: FinishReason | None = None

    def __next__(self) -> str:
        try:
            while self._session is not None:
                piece = self._advance(self._session)
                if piece:
                    self._pieces.append(piece)
                    return piece
        except BaseException:  # Ctrl-C included: a half-made step cannot be resumed
            self.close()
            raise
        raise StopIteration

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop writing and release the key-value cache. May be called again."""
        self._session = None

    @property
    def seed(self) -> int:
        """The seed of its random numbers, known before the text is."""
        return self._seed

    @property
    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the text has ended."""
        if self._finish_reason is None:
            raise ValueError("the stream has no result: it was not read to its end")
        return Generation(
            text="".join(self._pieces),
            tokens=list(self._tokens),
            logprobs=list(self._logprobs),
            finish_reason=self._finish_reason,
            seed=self._seed,
            timing=Timing(
                prompt_tokens=len(self._prompt),
                new_tokens=len(self._tokens),
                prefill_seconds=self._prefill_seconds,
                decode_seconds=self._decode_seconds,
            ),
        )

    def _advance(self, session: _core.Session) -> str:
        """One token more; returns the text it makes ready, which may be empty."""
        token = self._next_token(session)
        if token in self._eos_ids:
            return self._finish("eos", "")
        if token in self._stop_ids:
            return self._finish("stop", "")
        text = self._detokenizer.feed(token) if self._detokenizer else ""
        ready = self._stops.feed(text)
        if self._stops.matched is not None:
            return self._finish("stop", ready)
        if len(self._tokens) == self._max_new_tokens:
            return self._finish("length", ready)
        return ready

    def _next_token(self, session: _core.Session) -> int:
        started = time.perf_counter()
        first = not self._tokens
        if first:
            session.prefill(self._prompt)
            # Penalties are for what may be written, which padding rows are not.
            written = slice(None) if self._n_tokens is None else self._prompt < self._n_tokens
            self._sampler.accept_prompt(self._prompt[written])
        try:
            token, logprob = session.step(self._sampler)
        except RuntimeError:
            # The sampler refuses logits that are not finite; anything else has its own sentence.
            if self._not_finite is None or _is_usable(session):
                raise
            read = np.concatenate([self._prompt, np.array(self._tokens, np.int32)])
            raise self._not_finite(read) from None
        elapsed = time.perf_counter() - started
        if first:
            self._prefill_seconds = elapsed
        else:
            self._decode_seconds += elapsed
        self._tokens.append(token)
        self._logprobs.append(logprob)
        return token

    def _finish(self, reason: FinishReason, ready: str) -> str:
        """Bring out what was held back; its last bytes may still complete a stop string."""
        ready += self._stops.feed(self._detokenizer.flush() if self._detokenizer else "")
        ready += self._stops.flush()
        self._finish_reason = "stop" if self._stops.matched is not None else reason
        self.close()
        return ready


def _is_usable(session: _core.Session) -> bool:
    """Whether its last logits are finite, or it failed before there were any."""
    try:
        return bool(np.isfinite(session.last_logits).all())
    except (RuntimeError, ValueError):
        return True
