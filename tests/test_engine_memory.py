"""What an engine holds of requests that have ended, in whatever way: nothing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest

from pythia_rt import Engine, Model

PROMPT = "The kernel"
LONG: dict[str, Any] = {"max_new_tokens": 1500, "logit_bias": {0: -np.inf}}


def test_nothing_is_left(model: Model) -> None:
    """Neither pages nor threads, when engines are closed, or dropped."""
    gc.collect()
    pages, threads = model._core.cache_pages, threading.active_count()
    engine = Engine(model)
    handles = [engine.submit(PROMPT, n=3, seed=1, max_new_tokens=40) for _ in range(9)]
    for handle in handles[::2]:
        handle.cancel()
    engine.close()
    assert (model._core.cache_pages, threading.active_count()) == (pages, threads)
    del handle, handles, engine
    dropped = Engine(model)
    dropped.submit(PROMPT, **LONG)
    del dropped
    gc.collect()
    assert (model._core.cache_pages, threading.active_count()) == (pages, threads)


def is_forgotten(found: weakref.ref[Any]) -> bool:
    """Soon: the engine's thread is about to fall asleep."""
    for _ in range(1000):
        gc.collect()
        if found() is None:
            return True
        time.sleep(0.1)
    return False


def test_an_idle_engine_holds_no_request(engine: Engine) -> None:
    handle = engine.submit(PROMPT, max_new_tokens=1)
    assert handle.result().tokens
    job = weakref.ref(handle._job)
    del handle
    assert is_forgotten(job)


def test_nobody_holds_a_request_that_failed(engine: Engine) -> None:
    def broken(tokens: Any, logits: Any) -> None:
        raise ZeroDivisionError("mine")

    handle = engine.submit(PROMPT, processors=[broken])
    with pytest.raises(ZeroDivisionError):
        handle.result()
    job = weakref.ref(handle._job)
    del handle
    assert is_forgotten(job)


def test_an_error_keeps_no_pages(model: Model) -> None:
    """Neither a function's own, nor the one that says that there are too few."""
    options: dict[str, Any] = {"max_new_tokens": 60, "logit_bias": {0: -np.inf}}

    def broken(tokens: Any, logits: Any) -> None:
        if len(tokens) > 150:
            raise ZeroDivisionError("mine")

    gc.collect()
    before = model._core.cache_pages
    with pytest.raises(ZeroDivisionError):
        model.generate([1] * 100, processors=[broken], **options)
    with Engine(model) as engine, pytest.raises(ZeroDivisionError):
        engine.submit([1] * 100, processors=[broken], **options).result()
    assert model._core.cache_pages == before
    model._core.cache_budget = (before + 1) * model.new_session(1).page_bytes
    gc.disable()
    try:
        with pytest.raises(MemoryError) as caught:
            model.generate([1] * 100, **options)
        assert model._core.cache_pages == before
        with Engine(model) as engine, pytest.raises(MemoryError) as again:
            engine.submit([1] * 100, **options).result()
        assert model._core.cache_pages == before
    finally:
        gc.enable()
        model._core.cache_budget = None
    assert str(caught.value) == str(again.value)
