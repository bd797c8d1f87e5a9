"""Where the time of a token goes, operation by operation: bench.generate --trace prints it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import kinds, testing_extension
from bench.peers.protocol import Tokens
from bench.records import table
from pythia_rt import _core
from pythia_rt.convert import FlatFile
from pythia_rt.generation import Generation
from pythia_rt.tokenizer import Tokenizer
from pythia_rt.writing import Writing

# Around the operations, in the order of a token's time.
ENTERING = "call, to the first operation"
BETWEEN = "decoder, between operations"
SAMPLING = "sampling, to the return"
PYTHON = "Python, to the next call"
REST = "the rest: threads' starts and waits"
PRODUCT = "product"  # the kernel


@dataclass(frozen=True)
class Region:
    """A part of a token's time: an operation, or a kernel in it."""

    calls: float
    microseconds: float


Token = dict[tuple[str, str | None], Region]  # by operation, and kernel or None for all of it


class Clocked:
    """A session whose steps are timed, by the clock that a trace has too."""

    def __init__(self, session: Any, take: Callable[[], Any] | None) -> None:
        """`take` is that of the traced core, None with another."""
        self._session, self._take = session, take
        self._token: Token = {}
        self._resumed = 0
        self.steps: list[float] = []  # microseconds; the first reads the prompt
        self.tokens: list[Token] = []  # traced, all but the first and the last

    def append(self, tokens: Tokens) -> None:
        """See _core.Session."""
        self._session.append(tokens)

    def step(self, sampler: Any) -> tuple[int, float]:
        """See _core.Session."""
        start = time.perf_counter_ns()
        if self._token:
            self._token[PYTHON, None] = _region(1, start - self._resumed)
            self.tokens.append(self._token)
        result: tuple[int, float] = self._session.step(sampler)
        end = time.perf_counter_ns()
        self.steps.append((end - start) / 1e3)
        if self._take is None:
            return result
        regions, first, last = self._take()
        inside = sum(took for _, kernel, _, took in regions if kernel is None)
        if len(self.steps) > 1:  # the first one reads the prompt
            self._token = {
                (ENTERING, None): _region(1, first - start),
                **{(name, kernel): _region(calls, took) for name, kernel, calls, took in regions},
                (BETWEEN, None): _region(1, last - first - inside),
                (SAMPLING, None): _region(1, end - last),
            }
        self._resumed = time.perf_counter_ns()
        return result


class One:
    """A single token as `_core.Written` has several."""

    proposed = accepted = 0

    def __init__(self, token: int, logprob: float) -> None:
        """Its id and log-probability."""
        self.tokens = np.array([token], np.int32)
        self.logprobs = np.array([logprob], np.float32)
        self.top_ids = np.zeros((1, 0), np.int32)
        self.top_logprobs = np.zeros((1, 0), np.float32)


class Writer:
    """Writes text with a file's model as pythia_rt does."""

    def __init__(self, file: FlatFile, threads: int, kv_format: str, core: Any) -> None:
        """`core` is pythia_rt._core, or `traced` of the test extension in its place."""
        self._core, self._kv_format, self._spec = core, kv_format, file.spec
        self._model = core.Model(dict(file.spec), file.formats, file.tensors, threads=threads)
        self._tokenizer = Tokenizer(file.tokenizer, file.text) if file.tokenizer else None

    def session(self, capacity: int) -> Clocked:
        """An empty sequence."""
        session = self._core.Session(self._model, capacity=capacity, kv_format=self._kv_format)
        return Clocked(session, getattr(self._core, "take", None))

    def write(self, session: Clocked, prompt: Tokens, count: int, temperature: float) -> Generation:
        """Go on for `count` tokens after a prompt."""
        n_tokens = int(self._spec["n_tokens"])
        writing = Writing(
            prompt,
            self._core.Sampler(n_tokens=n_tokens, temperature=temperature, seed=1),
            tokenizer=self._tokenizer,
            n_tokens=n_tokens,
            max_new_tokens=count,
            seed=1,
        )
        session.append(prompt)
        started = time.perf_counter()
        while writing.finish_reason is None:
            written = One(*session.step(writing.sampler))
            now = time.perf_counter()
            writing.accept(written, now - started)
            started = now
        return writing.result()


def measure(
    file: FlatFile,
    threads: int,
    kv_format: str,
    *,
    context: int,
    count: int,
    temperature: float,
    repetitions: int,
) -> tuple[Token, float, float]:
    """The median token of texts of `count` after a prompt, and a step of the core with and without.

    Raises ImportError where there is no test extension.
    """
    traced = Writer(file, threads, kv_format, testing_extension.load().traced)
    plain = Writer(file, threads, kv_format, _core)
    prompt = kinds.random_tokens(context, int(file.spec["n_tokens"]))
    tokens: list[Token] = []
    steps: tuple[list[float], list[float]] = [], []
    for repetition in range(1 + repetitions):
        for writer, found in zip((traced, plain), steps, strict=True):
            session = writer.session(context + count)
            writer.write(session, prompt, count, temperature)
            if repetition > 0:  # the first is a warm-up
                tokens += session.tokens
                found += session.steps[1:]
    return medians(tokens), statistics.median(steps[0]), statistics.median(steps[1])


def medians(tokens: Sequence[Token]) -> Token:
    """Of each region; what an operation takes beside its kernels is one more, REST."""
    # Another thread may do all that a kernel has to do for a token.
    keys = list(dict.fromkeys(key for token in tokens for key in token))
    none = Region(0, 0)
    for token in tokens:
        rests: dict[str, float] = {}
        for name, kernel in keys:
            if kernel is not None:
                part = token.get((name, kernel), none)
                rests[name] = rests.get(name, token[name, None].microseconds) - part.microseconds
        token.update({(name, REST): Region(token[name, None].calls, rests[name]) for name in rests})
    keys += [(name, REST) for name in dict.fromkeys(name for name, part in keys if part)]
    return {
        key: Region(
            statistics.median(token.get(key, none).calls for token in tokens),
            statistics.median(token.get(key, none).microseconds for token in tokens),
        )
        for key in keys
    }


def lines(regions: Token) -> Iterator[str]:
    """A table of the regions, each operation's kernels below it, and their sum."""
    rows = [("region", "calls", "µs")]
    for name in dict.fromkeys(name for name, _ in regions):
        parts = [kernel for of, kernel in regions if of == name]
        for kernel in sorted(parts, key=lambda part: (part is not None, part == REST)):
            region = regions[name, kernel]
            label = name if kernel is None else f"  {kernel}"
            rows.append((label, f"{region.calls:g}", f"{region.microseconds:.1f}"))
    whole = sum(region.microseconds for (_, kernel), region in regions.items() if kernel is None)
    products = sum(
        region.microseconds for (_, kernel), region in regions.items() if kernel == PRODUCT
    )
    rows += [("a token", "", f"{whole:.1f}"), ("without products", "", f"{whole - products:.1f}")]
    return table.lines(rows, markdown=False)


def _region(calls: int, nanoseconds: int) -> Region:
    return Region(calls, nanoseconds / 1e3)
