"""The kinds of work that are measured in tokens per second, for any runner that can do them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.peers.protocol import Room, Runner, Scorer, Stepper, Tokens, Writer

SHORT = 32  # tokens of a short prompt: writing after it is mostly reading the weights
KINDS = ("prefill", "decode", "long", "batch", "score")

Measurement = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """How much there is to do of each kind."""

    prefill: int
    decode: int
    context: int
    sequences: int
    texts: int
    text_length: int

    @classmethod
    def of(cls, options: argparse.Namespace) -> Work:
        """From the options of measure.add_work_options and, to score, add_texts_option."""
        texts, length = getattr(options, "texts", (1, 2))
        return cls(
            options.prefill, options.decode, options.context, options.sequences, texts, length
        )

    @property
    def room(self) -> Room:
        """The key-value caches that all kinds need."""
        # An engine may run a token further than it was asked to.
        return Room(max(self.lengths().values()) + 2, SHORT + self.decode + 2, self.sequences)

    def facts(self, kind: str) -> dict[str, int]:
        """A record's fields about a kind of work."""
        tokens, context, sequences = {
            "prefill": (self.prefill, 0, 1),
            "decode": (self.decode, SHORT, 1),
            "long": (self.decode, self.context, 1),
            "batch": (self.decode, SHORT, self.sequences),
            "score": (self.text_length, 0, self.texts),
        }[kind]
        return {"tokens": tokens, "context": context, "sequences": sequences}

    def lengths(self) -> dict[str, int]:
        """The longest sequence of each kind of work."""
        return {
            "prefill": self.prefill,
            "decode": SHORT + self.decode,
            "long": self.context + self.decode,
            "batch": SHORT + self.decode,
            "score": self.text_length,
        }

    def measurement(self, kind: str, runner: Runner, vocab_size: int) -> Measurement | None:
        """What measures a kind once, in tokens per second; None where the runner cannot do it."""
        if kind == "prefill":
            return prefill_rate(runner, random_tokens(self.prefill, vocab_size))
        if kind == "score":
            texts = several(self.texts, self.text_length, vocab_size)
            return score_rate(runner, texts) if isinstance(runner, Scorer) else None
        if not isinstance(runner, Stepper | Writer):
            return None
        facts = self.facts(kind)
        prompts = several(facts["sequences"], facts["context"], vocab_size)
        return decode_rate(runner, prompts, self.decode)


def prefill_rate(runner: Runner, tokens: Tokens) -> Measurement:
    """Of reading `tokens`."""

    def measure() -> float:
        start = time.perf_counter()
        runner.start(tokens)
        return len(tokens) / (time.perf_counter() - start)

    return measure


def decode_rate(runner: Stepper | Writer, prompts: list[Tokens], count: int) -> Measurement:
    """Of writing `count` tokens after each of `prompts`, all sequences' tokens counted."""

    def measure() -> float:
        if isinstance(runner, Writer):
            return len(prompts) * count / runner.write_seconds(prompts, count)
        runner.start(*prompts)
        start = time.perf_counter()
        for _ in range(count):
            runner.step()
        return len(prompts) * count / (time.perf_counter() - start)

    return measure


def score_rate(runner: Scorer, texts: list[Tokens]) -> Measurement:
    """Of finding the likelihood of every token of `texts`."""

    def measure() -> float:
        start = time.perf_counter()
        found = runner.score(texts)
        seconds = time.perf_counter() - start
        if [len(scores) for scores in found] != [len(text) - 1 for text in texts]:
            raise RuntimeError("some tokens got no likelihood")
        return sum(map(len, texts)) / seconds

    return measure


def random_tokens(count: int, vocab_size: int, seed: int = 0) -> Tokens:
    """The same `count` token ids each time."""
    return np.random.default_rng(seed).integers(0, vocab_size, count, np.int32)


def several(count: int, length: int, vocab_size: int) -> list[Tokens]:
    """`count` different texts."""
    return [random_tokens(length, vocab_size, seed) for seed in range(count)]
