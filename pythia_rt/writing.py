"""A text on its way: tokens come in, pieces of text go out, until it ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.flatfile.spec import Spec
from pythia_rt.detokenizer import Detokenizer
from pythia_rt.generation import Drafted, FinishReason, Generation, Timing, Top
from pythia_rt.sampling import Sampling, numbers
from pythia_rt.stops import StopMatcher
from pythia_rt.tokenizer import Tokenizer


def make_sampler(sampling: Sampling, n_tokens: int, seed: int) -> _core.Sampler:
    """A sampler of the core with these options, for ids below `n_tokens`."""
    return _core.Sampler(
        n_tokens=n_tokens,
        **{name: getattr(sampling, name) for name in numbers()},
        logit_bias={token: bias for token, bias in sampling.logit_bias.items() if token < n_tokens},
        seed=seed,
    )


def begin_writing(
    prompt: NDArray[np.int32],
    sampling: Sampling,
    spec: Spec,
    tokenizer: Tokenizer | None,
    *,
    capacity: int,
    cached: int,
    not_finite: Callable[[NDArray[np.int32], bool], RuntimeError],
) -> Writing:
    """What continues a prompt, of which so many tokens were read before, within `capacity` tokens.

    Raises ValueError for options that the model cannot meet and where no room is left.
    """
    sampling.check_vocabulary(spec["vocab_size"])
    if sampling.stops and tokenizer is None:
        raise ValueError(
            "this model has no tokenizer, so stop strings cannot be found in it: use stop_token_ids"
        )
    room = capacity - len(prompt)
    if room == 0:
        raise ValueError(
            f"the prompt fills the context of {capacity} tokens and leaves no room for new text: "
            "shorten it"
        )
    seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
    n_tokens = spec["n_tokens"]  # the rows beyond are padding, which is never written
    return Writing(
        prompt,
        make_sampler(sampling, n_tokens, seed),
        tokenizer=tokenizer,
        stops=sampling.stops,
        eos_ids=frozenset(spec["eos_ids"]),
        stop_ids=sampling.stop_ids,
        n_tokens=n_tokens,
        max_new_tokens=min(sampling.max_new_tokens, room),
        seed=seed,
        cached=cached,
        not_finite=not_finite,
    )


class Judged(Protocol):
    """Tokens [n] and how likely the model finds them (`_core.Judged`)."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """int32 [n]."""

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """float32 [n]."""

    @property
    def top_ids(self) -> NDArray[np.int32]:
        """int32 [n, top]."""

    @property
    def top_logprobs(self) -> NDArray[np.float32]:
        """float32 [n, top]."""


class Written(Judged, Protocol):
    """New tokens, and how many guesses led to them (`_core.Written`)."""

    @property
    def proposed(self) -> int:
        """Tokens that a draft proposed."""

    @property
    def accepted(self) -> int:
        """Those of them that were right."""


class Writing:
    """A prompt, the sampler that continues it, and what has come of it.

    `sampler` has read the prompt. `tokens` are the new ones so far, and `pieces` their text.
    `finish_reason` is None until the text has ended.
    """

    def __init__(
        self,
        prompt: NDArray[np.int32],
        sampler: _core.Sampler,
        *,
        tokenizer: Tokenizer | None,
        stops: tuple[str, ...] = (),
        eos_ids: frozenset[int] = frozenset(),
        stop_ids: frozenset[int] = frozenset(),
        n_tokens: int | None = None,
        max_new_tokens: int,
        seed: int,
        cached: int = 0,
        not_finite: Callable[[NDArray[np.int32], bool], RuntimeError] | None = None,
    ) -> None:
        """`cached` tokens of the prompt were read before. Ids from `n_tokens` on are padding;
        `not_finite` makes the error for tokens after which no token can be sampled, from them and
        whether their passes were edited."""
        self.prompt = prompt
        self.cached = cached
        self.sampler = sampler
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self.finish_reason: FinishReason | None = None
        self.prefill_seconds = self.decode_seconds = 0.0
        self.stops = stops
        self.end_ids = eos_ids | stop_ids
        self.echo: list[Judged] | None = None  # of the prompt but for its first token
        self.n_top = 0  # likeliest tokens that are named at each place
        self.has_draft = False
        self._ending: FinishReason | None = None
        self._proposed = self._accepted = 0
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._stops = StopMatcher(stops)
        self._eos_ids = eos_ids
        self._not_finite = not_finite
        self._judged: list[tuple[int, Written]] = []  # with how many of its tokens count
        # Penalties are for what may be written, which padding rows are not.
        sampler.accept_prompt(prompt if n_tokens is None else prompt[prompt < n_tokens])

    @property
    def capacity(self) -> int:
        """Tokens that a session for it needs room for."""
        return len(self.prompt) + self.max_new_tokens

    def watched(self, vocab_size: int) -> NDArray[np.uint32] | None:
        """A bit for each id, uint32 [vocab_size / 32], with which a stop string may be complete;
        None without stop strings."""
        if self._tokenizer is None or not self.stops:
            return None
        bits = np.zeros(-(-vocab_size // 32) * 32, np.uint8)
        for stop in self.stops:
            ids = self._tokenizer.ids_completing(stop[-1])
            if ids is None:
                bits[:] = 1
            else:
                bits[[token for token in ids if token < vocab_size]] = 1
        return np.packbits(bits, bitorder="little").view(np.uint32)

    def accept(self, written: Written, seconds: float) -> str:
        """Take the next tokens, which took so long; returns the text that is ready, maybe none.

        What stands behind the text's end is dropped.
        """
        if self.tokens:
            self.decode_seconds += seconds
        else:
            self.prefill_seconds = seconds
        self._proposed += written.proposed
        self._accepted += written.accepted
        before = len(self.tokens)
        piece = self._advance(written.tokens.tolist())
        self._judged.append((len(self.tokens) - before, written))
        if piece:
            self.pieces.append(piece)
        self.finish_reason = self._ending  # last: who reads in another thread has all the rest
        return piece

    def explained(
        self, session: _core.Session, error: Exception, edited: bool = False
    ) -> Exception:
        """What to raise for an error of sampling: one that says where numbers ceased to be finite,
        or `error` itself, which has its own sentence, where they did not."""
        explain = self._not_finite
        if explain is None or not isinstance(error, RuntimeError) or _is_usable(session):
            return error
        return explain(np.concatenate([self.prompt, np.array(self.tokens, np.int32)]), edited)

    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the text has ended."""
        if self.finish_reason is None:
            raise ValueError("the stream has no result: it was not read to its end")
        has_top = self.n_top > 0
        return Generation(
            text="".join(self.pieces),
            tokens=list(self.tokens),
            logprobs=self.logprobs().tolist(),
            finish_reason=self.finish_reason,
            seed=self.seed,
            timing=Timing(
                prompt_tokens=len(self.prompt),
                cached_tokens=self.cached,
                new_tokens=len(self.tokens),
                prefill_seconds=self.prefill_seconds,
                decode_seconds=self.decode_seconds,
            ),
            top_logprobs=_tops(self._judged) if has_top else None,
            prompt_logprobs=None if self.echo is None else _logprobs(self.echo),
            prompt_top_logprobs=_echoed_tops(self.echo) if has_top else None,
            drafted=Drafted(self._proposed, self._accepted) if self.has_draft else None,
        )

    def logprobs(self) -> NDArray[np.float32]:
        """Log-probabilities of the tokens so far, float32 [n]."""
        parts = [written.logprobs[:count] for count, written in self._judged]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _advance(self, tokens: list[int]) -> str:
        # With stop strings one by one: a token more must not belong to the text.
        if not self.stops:
            return self._advance_to_end(tokens)
        ready = ""
        for token in tokens:
            ready += self._advance_to_end([token])
            if self._ending is not None:
                break
        return ready

    def _advance_to_end(self, tokens: list[int]) -> str:
        tokens = tokens[: self.max_new_tokens - len(self.tokens)]
        if not self.end_ids.isdisjoint(tokens):
            first = next(i for i, token in enumerate(tokens) if token in self.end_ids)
            self.tokens += tokens[: first + 1]
            ready = self._text_of(tokens[:first])
            is_eos = tokens[first] in self._eos_ids
            return self._finish("eos" if is_eos else "stop", ready)
        self.tokens += tokens
        ready = self._text_of(tokens)
        if self._stops.matched is not None:
            return self._finish("stop", ready)
        if len(self.tokens) >= self.max_new_tokens:
            return self._finish("length", ready)
        return ready

    def _text_of(self, tokens: list[int]) -> str:
        text = self._detokenizer.feed_many(tokens) if self._detokenizer else ""
        return self._stops.feed(text) if self.stops else text

    def _finish(self, reason: FinishReason, ready: str) -> str:
        """Bring out what was held back; its last bytes may still complete a stop string."""
        ready += self._stops.feed(self._detokenizer.flush() if self._detokenizer else "")
        ready += self._stops.flush()
        self._ending = "stop" if self._stops.matched is not None else reason
        return ready


def _is_usable(session: _core.Session) -> bool:
    """Whether its last logits are finite, or it failed before there were any."""
    try:
        return bool(np.isfinite(session.last_logits).all())
    except (RuntimeError, ValueError):
        return True


def _tops(judged: list[tuple[int, Written]]) -> list[Top]:
    return [top for count, written in judged for top in _tops_of(written)[:count]]


def _echoed_tops(echo: list[Judged] | None) -> list[Top] | None:
    return None if echo is None else [top for judged in echo for top in _tops_of(judged)]


def _tops_of(judged: Judged) -> list[Top]:
    rows = zip(judged.top_ids.tolist(), judged.top_logprobs.tolist(), strict=True)
    return [list(zip(ids, values, strict=True)) for ids, values in rows]


def _logprobs(echo: list[Judged]) -> list[float]:
    return [value for judged in echo for value in judged.logprobs.tolist()]
