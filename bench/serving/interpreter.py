"""What Python does for each token that is written: all that is not inside the core's passes."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

from bench.serving.figures import Figure, Setting, greedy, in_turn
from pythia_rt import _core

_SHORT = 32


def python(setting: Setting) -> Iterator[Figure]:
    """Microseconds a token, of one text and of several that are written together.

    Text is made of tokens where the file has a tokenizer.
    """
    sizes = setting.sizes
    for rows in (1, sizes.rows):
        name = "one text" if rows == 1 else f"{rows} texts together"
        if setting.model.tokenizer is None:
            name += ", no tokenizer"
        measure = functools.partial(microseconds, setting, rows)
        facts = {"tokens": sizes.written, "context": _SHORT, "sequences": rows}
        yield from in_turn(setting, "python", {name: measure}, "us", **facts)


def microseconds(setting: Setting, rows: int) -> float:
    """Of Python, for each token of so many texts."""
    prompts = [setting.tokens(_SHORT, seed) for seed in range(rows)]
    inside = 0.0
    passes = _core.write

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal inside
        begun = time.perf_counter()
        try:
            return passes(*arguments, **options)
        finally:
            inside += time.perf_counter() - begun

    with mock.patch.object(_core, "write", timed):
        started = time.perf_counter()
        texts = setting.model.generate(prompts, greedy(setting.sizes.written))
        seconds = time.perf_counter() - started
    if inside == 0:
        raise RuntimeError("the texts were not written by the core's write()")
    return 1e6 * (seconds - inside) / sum(len(text.tokens) for text in texts)
