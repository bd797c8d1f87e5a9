"""A text on its way: tokens come in one by one, pieces of text go out, until it ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.flatfile.spec import Spec
from pythia_rt.detokenizer import Detokenizer
from pythia_rt.generation import FinishReason, Generation, Timing
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
    not_finite: Callable[[NDArray[np.int32]], RuntimeError],
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


class Writing:
    """A prompt, the sampler that continues it, and what has come of it.

    `sampler` has read the prompt. `tokens` are the new ones so far. `finish_reason` is None until
    the text has ended.
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
        not_finite: Callable[[NDArray[np.int32]], RuntimeError] | None = None,
    ) -> None:
        """`cached` tokens of the prompt were read before. Ids from `n_tokens` on are padding;
        `not_finite` makes the error for tokens after which no token can be sampled."""
        self.prompt = prompt
        self.cached = cached
        self.sampler = sampler
        self.seed = seed
        self.max_new_tokens = max_new_tokens
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.prefill_seconds = self.decode_seconds = 0.0
        self._detokenizer = Detokenizer(tokenizer) if tokenizer is not None else None
        self._stops = StopMatcher(stops)
        self._eos_ids = eos_ids
        self._stop_ids = stop_ids
        self._not_finite = not_finite
        self._pieces: list[str] = []
        self._logprobs: list[float] = []
        # Penalties are for what may be written, which padding rows are not.
        sampler.accept_prompt(prompt if n_tokens is None else prompt[prompt < n_tokens])

    @property
    def capacity(self) -> int:
        """Tokens that a session for it needs room for."""
        return len(self.prompt) + self.max_new_tokens

    def accept(self, token: int, logprob: float, seconds: float) -> str:
        """Take the next token, which took so long; returns the text that is ready, maybe none."""
        if self.tokens:
            self.decode_seconds += seconds
        else:
            self.prefill_seconds = seconds
        self.tokens.append(token)
        self._logprobs.append(logprob)
        piece = self._advance(token)
        if piece:
            self._pieces.append(piece)
        return piece

    def explained(self, session: _core.Session, error: Exception) -> Exception:
        """What to raise for an error of sampling: one that says where numbers ceased to be finite,
        or `error` itself, which has its own sentence, where they did not."""
        explain = self._not_finite
        if explain is None or not isinstance(error, RuntimeError) or _is_usable(session):
            return error
        return explain(np.concatenate([self.prompt, np.array(self.tokens, np.int32)]))

    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the text has ended."""
        if self.finish_reason is None:
            raise ValueError("the stream has no result: it was not read to its end")
        return Generation(
            text="".join(self._pieces),
            tokens=list(self.tokens),
            logprobs=list(self._logprobs),
            finish_reason=self.finish_reason,
            seed=self.seed,
            timing=Timing(
                prompt_tokens=len(self.prompt),
                cached_tokens=self.cached,
                new_tokens=len(self.tokens),
                prefill_seconds=self.prefill_seconds,
                decode_seconds=self.decode_seconds,
            ),
        )

    def _advance(self, token: int) -> str:
        if token in self._eos_ids:
            return self._finish("eos", "")
        if token in self._stop_ids:
            return self._finish("stop", "")
        text = self._detokenizer.feed(token) if self._detokenizer else ""
        ready = self._stops.feed(text)
        if self._stops.matched is not None:
            return self._finish("stop", ready)
        if len(self.tokens) == self.max_new_tokens:
            return self._finish("length", ready)
        return ready

    def _finish(self, reason: FinishReason, ready: str) -> str:
        """Bring out what was held back; its last bytes may still complete a stop string."""
        ready += self._stops.feed(self._detokenizer.flush() if self._detokenizer else "")
        ready += self._stops.flush()
        self.finish_reason = "stop" if self._stops.matched is not None else reason
        return ready


def _is_usable(session: _core.Session) -> bool:
    """Whether its last logits are finite, or it failed before there were any."""
    try:
        return bool(np.isfinite(session.last_logits).all())
    except (RuntimeError, ValueError):
        return True
