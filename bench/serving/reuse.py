"""What is read once: a beginning that was seen, the prompt of several samples, a context."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from bench import pairs as continuations
from bench.serving.figures import Figure, Setting, greedy, in_turn
from pythia_rt import Engine, Sampling, _core

_PREFIX_BYTES = 4 << 30


def prefix(setting: Setting) -> Iterator[Figure]:
    """Seconds to the first token of a prompt, nothing or its beginning having been seen."""
    sizes = setting.sizes
    seeds = itertools.count()

    def first_token(prefix_bytes: int) -> float:
        prompt = setting.tokens(sizes.prompt, next(seeds))
        with Engine(setting.model, prefix_bytes=prefix_bytes) as engine:
            if prefix_bytes:
                engine.submit(prompt[: sizes.seen], greedy(1)).result()
            started = time.perf_counter()
            text = engine.submit(prompt, greedy(1)).result()
            seconds = time.perf_counter() - started
        known = sizes.seen if prefix_bytes else 0
        if text.timing.cached_tokens != known:
            raise RuntimeError(f"{text.timing.cached_tokens} tokens were known, not {known}")
        return seconds

    ways: dict[str, Callable[[], float]] = {
        "nothing was seen": lambda: first_token(0),
        f"{sizes.seen} were seen": lambda: first_token(_PREFIX_BYTES),
    }
    yield from in_turn(setting, "prefix", ways, "s", tokens=1, context=sizes.prompt)


def samples(setting: Setting) -> Iterator[Figure]:
    """Seconds, of a first token each too, and most pages of several texts of one prompt."""
    sizes = setting.sizes
    prompt, sampling = setting.tokens(sizes.sampled), Sampling(max_new_tokens=sizes.new, seed=1)
    pages = []

    def one_prompt() -> float:
        started = time.perf_counter()
        with pages_held(setting) as held:
            setting.model.samples(prompt, sampling, n=sizes.samples)
        pages.append(float(max(held)))
        return time.perf_counter() - started

    def several_prompts() -> float:
        started = time.perf_counter()
        setting.model.generate([prompt] * sizes.samples, sampling)
        return time.perf_counter() - started

    def seconds(n: int) -> float:
        started = time.perf_counter()
        setting.model.samples(prompt, max_new_tokens=1, seed=1, n=n)
        return time.perf_counter() - started

    name = f"{sizes.samples} samples of one prompt"
    facts = {"tokens": sizes.new, "context": sizes.sampled, "sequences": sizes.samples}
    ways = {"as many prompts": several_prompts, name: one_prompt}
    first_tokens = {
        "one text, one token": lambda: seconds(1),
        f"{name}, one token each": lambda: seconds(sizes.samples),
    }
    yield from in_turn(setting, "samples", ways, "s", **facts)
    yield from in_turn(setting, "samples", first_tokens, "s, to first tokens", **facts)
    yield Figure("samples", f"{name}, most pages held", pages, "pages", **facts)


@contextmanager
def pages_held(setting: Setting) -> Iterator[list[int]]:
    """Tells how many pages the model's caches hold after each call of the core's write()."""
    passes, held = _core.write, []

    def counting(*arguments: Any, **options: Any) -> Any:
        found = passes(*arguments, **options)
        held.append(setting.model._core.cache_pages)
        return found

    with mock.patch.object(_core, "write", counting):
        yield held


def pairs(setting: Setting) -> Iterator[Figure]:
    """Seconds of scoring continuations of one context, and as many whole texts."""
    sizes = setting.sizes
    for length in (1, 4, 16):
        of_pairs, of_texts = continuations.measure(
            setting.model, sizes.context, sizes.continuations, length, setting.repetitions
        )
        facts = {"tokens": length, "context": sizes.context, "sequences": sizes.continuations}
        yield Figure("pairs", f"whole texts, {length} new tokens", of_texts, "s", **facts)
        yield Figure("pairs", f"pairs, {length} new tokens", of_pairs, "s", **facts)
