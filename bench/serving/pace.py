"""The time between the tokens of a running text, alone and while a long prompt arrives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from bench.serving.figures import Figure, Setting
from pythia_rt import _core

_SHORT = 32
_ALONE = 100  # tokens


def pace(setting: Setting) -> Iterator[Figure]:
    """Milliseconds: the median alone, the 99th percentile meanwhile, and that as a multiple."""
    alone, meanwhile, reading = [], [], []
    for number in range(setting.repetitions + 1):
        before, during = measure_once(setting, seed=number)
        if number:  # the first is a warm-up
            alone.append(1e3 * statistics.median(before))
            meanwhile.append(1e3 * float(np.quantile(during, 0.99)))
            reading.append(sum(during))
    arriving = setting.sizes.arriving
    ratios = [slow / usual for slow, usual in zip(meanwhile, alone, strict=True)]
    yield Figure("pace", "alone, median", alone, "ms", _ALONE, _SHORT)
    yield Figure("pace", "while a prompt arrives, p99", meanwhile, "ms", 1, arriving, 2)
    yield Figure("pace", "p99 as a multiple of the median alone", ratios, "x", 1, arriving, 2)
    yield Figure("pace", "until the prompt was read", reading, "s", 1, arriving, 2)


def measure_once(setting: Setting, seed: int) -> tuple[list[float], list[float]]:
    """Seconds between tokens of a text, before another's prompt arrives and until it is read."""
    spec = setting.model.spec
    every_id = np.full(-(-int(spec["vocab_size"]) // 32), 0xFFFFFFFF, np.uint32)
    rhythm = _core.Pace()

    def new_writer(prompt: list[int], count: int, watch: Any) -> _core.Writer:
        session = setting.model.new_session(len(prompt) + count)
        session.append(np.array(prompt, np.int32))
        sampler = _core.Sampler(n_tokens=int(spec["n_tokens"]), seed=seed)
        return _core.Writer(session, sampler, max_tokens=count, watch=watch)

    sizes = setting.sizes
    room = int(spec["max_positions"]) - _SHORT
    text = new_writer(setting.tokens(_SHORT, seed), min(room, _ALONE + 1000), every_id)

    def intervals(others: list[_core.Writer], count: int) -> list[float]:
        found = []
        for _ in range(count):
            started = time.perf_counter()
            _core.write([text, *others], pace=rhythm, seconds=60.0)
            found.append(time.perf_counter() - started)
            if text.error is not None:
                raise text.error
            if len(text.take().tokens) != 1 and not others:
                raise RuntimeError("a call of write() did not end with the text's next token")
            if text.has_ended or any(other.has_ended for other in others):
                break
        return found

    intervals([], 8)
    before = intervals([], min(_ALONE, room // 4))
    arriving = new_writer(setting.tokens(sizes.arriving, seed + 1), 1, None)
    return before, intervals([arriving], 1000)
