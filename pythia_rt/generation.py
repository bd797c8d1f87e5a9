"""What was written, and how long it took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "eos", "length"]


@dataclass(frozen=True)
class Timing:
    """Where the time went. Seconds are wall time inside the model, not in the caller's loop.

    Texts that are written together have each the time of the passes that they share.
    """

    prompt_tokens: int
    cached_tokens: int  # of these, tokens that were read before, in a session or another request
    new_tokens: int
    prefill_seconds: float  # from the prompt to the first new token
    decode_seconds: float  # for the new tokens after the first

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens read per second, those that were cached left out."""
        n_read = self.prompt_tokens - self.cached_tokens
        return n_read / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens per second, not counting the first; 0 when there was only one."""
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


@dataclass(frozen=True)
class Drafted:
    """What a draft was good for."""

    proposed: int  # tokens that it guessed
    accepted: int  # of these, tokens that the text has

    @property
    def rate(self) -> float:
        """The share that was accepted; 0 where nothing was proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0


Top = list[tuple[int, float]]  # ids and log-probabilities, the likeliest first


@dataclass(frozen=True)
class Generation:
    """What was written.

    `text` is the new text alone, as `Tokenizer.decode` gives it for these tokens, without the token
    that ended it and without the stop string; it is empty for a model without a tokenizer. `tokens`
    are all sampled ids, those of the stop string and the token that ended the text included, and
    `logprobs` their natural log-probabilities under the model's own distribution over the
    tokenizer's ids, before temperature, penalties and filters.

    `finish_reason` is "eos" (an end token of the model), "stop" (a stop string, or one of the
    stop_token_ids that is no end token) or "length" (max_new_tokens or the end of the context).
    `seed` is the one in use, also where none was given: with it the text comes again.

    Where they were asked for: `top_logprobs` are the likeliest ids in the place of each new token,
    with their log-probabilities; `prompt_logprobs` the log-probabilities of the prompt's tokens but
    the first, which has nothing before it, and `prompt_top_logprobs` the likeliest in their places.
    `drafted` says how many tokens a draft proposed.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    seed: int
    timing: Timing
    top_logprobs: list[Top] | None = None
    prompt_logprobs: list[float] | None = None
    prompt_top_logprobs: list[Top] | None = None
    drafted: Drafted | None = None
