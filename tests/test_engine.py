"""The engine: many callers, one thread, and whatever may go wrong with either."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pythia_rt import Draft, Engine, Model, Request, Sampling
from pythia_rt.engine.errors import Cancelled, DeadlineExceeded, EngineClosed, QueueFull
from pythia_rt.engine.fair_queue import FairQueue
from pythia_rt.engine.prepare import new_scheduler, prepare

PROMPT = "The kernel"
LONG: dict[str, Any] = {"max_new_tokens": 1500, "logit_bias": {0: -np.inf}}


class Gate:
    """A processor that holds up the engine's thread, at a text's token `at`, until it is opened."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.is_reached, self.is_open = threading.Event(), threading.Event()
        self.n_calls = 0

    def __call__(self, tokens: Any, logits: Any) -> None:
        self.n_calls += 1
        if self.n_calls > self.at:
            self.is_reached.set()
            assert self.is_open.wait(300)


def test_one_processor_that_raises_ends_its_request_alone(model: Model, engine: Engine) -> None:
    def broken(tokens: Any, logits: Any) -> None:
        if len(tokens) == 8:
            raise ZeroDivisionError("mine")

    others = [engine.submit(PROMPT, max_new_tokens=40, seed=seed) for seed in range(3)]
    failing = engine.submit([1] * 5, processors=[broken], n=2)
    with pytest.raises(ZeroDivisionError, match="mine"):
        failing.results()
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(failing)
    wrong = engine.submit(PROMPT, processors=[lambda t, x: x[:3]])
    with pytest.raises(ValueError, match=r"must return logits of shape \(4096,\)"):
        wrong.result()
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.generate(["a", [1] * 5], processors=[broken])
    for seed, other in enumerate(others):
        expected = model.generate(PROMPT, max_new_tokens=40, seed=seed)
        assert other.result().tokens == expected.tokens


def test_cancelling(engine: Engine) -> None:
    gate = Gate(at=9)
    handle = engine.submit(PROMPT, seed=1, processors=[gate], **LONG)
    start = next(iter(handle))
    handle.cancel()
    handle.cancel()
    gate.is_open.set()
    with pytest.raises(Cancelled) as caught:
        handle.result()
    assert caught.value.text.startswith(start)
    with pytest.raises(Cancelled):
        list(handle)
    done = engine.submit(PROMPT, max_new_tokens=1)
    text = done.result()
    done.cancel()
    assert done.result() == text


def test_a_handle_that_nobody_holds_cancels_its_request(engine: Engine) -> None:
    gate = Gate(at=9)
    engine.submit(PROMPT, n=32, processors=[gate], **LONG)
    gc.collect()
    gate.is_open.set()
    assert engine.submit(PROMPT, max_new_tokens=2).result().tokens
    assert engine.stats.done == 1


def test_a_bounded_queue(model: Model) -> None:
    gate = Gate()
    with Engine(model, max_rows=1, max_waiting=2) as engine:
        first = engine.submit(PROMPT, max_new_tokens=1, processors=[gate])
        assert gate.is_reached.wait(300)
        others = [engine.submit(PROMPT, max_new_tokens=1) for _ in range(2)]
        with pytest.raises(QueueFull, match="3 texts are written or wait, and no more than 3 may"):
            engine.submit(PROMPT)
        with pytest.raises(ValueError, match="temperature must be"):
            engine.submit(PROMPT, temperature=-1)
        assert [handle.done for handle in (first, *others)] == [False] * 3
        with pytest.raises(TimeoutError):
            others[0].result(timeout=0.01)
        gate.is_open.set()
        assert all(handle.result().tokens for handle in (first, *others))
        with pytest.raises(ValueError, match="the prompt is empty"):
            engine.submit("")  # which takes no place
        assert all(engine.submit(PROMPT, max_new_tokens=1).result().tokens for _ in range(5))


def test_deadlines(model: Model) -> None:
    now = [100.0]
    scheduler = new_scheduler(model, max_texts=1, clock=lambda: now[0])

    def request(**options: Any) -> Any:
        job = prepare(model, Request(PROMPT, Sampling(**LONG), **options), clock=lambda: now[0])
        scheduler.add(job)
        return job

    running, endless, waiting = request(deadline=5), request(), request(deadline=9)
    for _ in range(10):
        scheduler.advance(0)
    now[0] = 104.9
    scheduler.advance(0)
    assert not running.is_done
    now[0] = 105.0
    scheduler.advance(0)
    assert isinstance(running.error, DeadlineExceeded)
    assert str(running.error) == "the request was not done after 5 seconds"
    assert len(running.error.text) > 10
    now[0] = 120.0
    scheduler.advance(0)
    assert isinstance(waiting.error, DeadlineExceeded)
    assert waiting.error.text == ""
    assert not endless.is_done


def test_an_engine_has_deadlines(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        engine.submit(PROMPT, deadline=1e-9, **LONG).result()


def test_keys_take_turns() -> None:
    class Item:
        def __init__(self, key: str, number: int) -> None:
            self.key, self.number = key, number

    queue: FairQueue[Item] = FairQueue()
    items = [Item(key, number) for number, key in enumerate("aaaabbc")]
    for item in items:
        queue.push(item)
    assert len(queue) == 7
    taken = [queue.pop() for _ in range(2)]
    queue.push_first(taken[0])
    assert queue.peek() is taken[0]
    queue.remove(items[1])
    order = []
    while queue:
        order.append(queue.pop().number)
    assert order == [0, 6, 5, 2, 3]
    with pytest.raises(ValueError):
        queue.remove(items[0])


def test_no_room_for_one(model: Model) -> None:
    page = model.new_session(1).page_bytes
    before = model._core.cache_pages
    with Engine(model, cache_bytes=3 * page, prefix_bytes=0) as engine:
        small = [engine.submit([i] * 200, max_new_tokens=100, seed=i) for i in (1, 2, 3)]
        with pytest.raises(MemoryError, match=rf"needs {4 * page} bytes of key-value cache"):
            engine.submit([1] * 400, max_new_tokens=50)
        with pytest.raises(MemoryError, match=rf"needs {4 * page} bytes of key-value cache"):
            engine.submit([1] * 200, max_new_tokens=50, draft=Draft.model(model))
        assert [handle.result().tokens for handle in small] == [
            model.generate([i] * 200, max_new_tokens=100, seed=i).tokens for i in (1, 2, 3)
        ]
        # Others may have taken what there is.
        model._core.cache_budget = (before + 1) * page
        try:
            with pytest.raises(MemoryError, match="the cache has a budget of"):
                engine.submit([1] * 200, max_new_tokens=50).result()
            assert engine.submit([1] * 20, max_new_tokens=5).result().tokens
        finally:
            model._core.cache_budget = None
    assert model._core.cache_pages == before


def test_any_str_is_a_namespace(model: Model) -> None:
    with Engine(model) as engine:
        for echo in (True, False):
            handle = engine.submit("a", max_new_tokens=1, echo=echo, namespace="\udcff")
            assert handle.result().tokens


def test_closing_waits_or_cancels(model: Model) -> None:
    with Engine(model) as engine:
        handles = [engine.submit(PROMPT, max_new_tokens=20) for _ in range(40)]
    assert all(handle.done for handle in handles)
    assert {len(handle.result().tokens) for handle in handles} == {20}
    engine.close()
    with pytest.raises(EngineClosed, match="the engine is closed: make a new one"):
        engine.submit(PROMPT)
    engine = Engine(model)

    def until_cancelling(tokens: Any, logits: Any) -> None:
        while not engine._loop._is_cancelling:
            time.sleep(0.01)

    held: dict[str, Any] = {"processors": [until_cancelling], **LONG}
    handles = [engine.submit(PROMPT, **held) for _ in range(40)]
    engine.close(cancel=True)
    for handle in handles:
        with pytest.raises(Cancelled, match="the engine was closed"):
            handle.result()
    with pytest.raises(KeyError), Engine(model) as engine:
        handle = engine.submit(PROMPT, **held)
        raise KeyError
    with pytest.raises(Cancelled):
        handle.result()


def test_closing_goes_on_after_ctrl_c(model: Model) -> None:
    gate = Gate()
    engine = Engine(model)
    handles = [engine.submit(PROMPT, processors=[gate], **LONG) for _ in range(2)]
    assert gate.is_reached.wait(300)
    main = threading.main_thread().ident
    assert main is not None
    interrupt = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupt.start()
        engine.close()
    interrupt.join()
    opening = threading.Timer(0.2, gate.is_open.set)
    opening.start()
    engine.close()
    opening.join()
    assert all(handle.done for handle in handles)


def test_a_thread_that_failed(model: Model) -> None:
    engine = Engine(model)
    gate = Gate()
    first = engine.submit(PROMPT, processors=[gate], **LONG)
    assert gate.is_reached.wait(300)

    def fail(_: float = 0) -> Any:
        raise OSError("the device is gone")

    engine._scheduler.advance = fail  # type: ignore[method-assign]
    second = engine.submit(PROMPT)
    gate.is_open.set()
    why = re.escape("the engine's thread has failed: the device is gone")
    for handle in (first, second):
        with pytest.raises(EngineClosed, match=why) as caught:
            handle.result()
        assert isinstance(caught.value.__cause__, OSError)
    engine._loop._thread.join(300)
    with pytest.raises(EngineClosed, match=why):
        engine.submit(PROMPT)
    engine.close()


def test_a_fork(model: Model, engine: Engine) -> None:
    handle = engine.submit(PROMPT, **LONG)
    next(iter(handle))

    def refuses(call: Callable[[], object]) -> bool:
        try:
            call()
        except EngineClosed as error:
            return "not in a fork of it" in str(error)
        return False

    child = os.fork()
    if child == 0:
        calls = (lambda: engine.submit("a"), handle.result, lambda: list(handle), handle.cancel)
        good = all(map(refuses, calls)) and refuses(lambda: engine.stats)
        engine.close()
        fresh = Engine(model)  # the model itself goes on
        good = good and len(fresh.submit("a", max_new_tokens=3).result().tokens) > 0
        fresh.close()
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    handle.cancel()


def test_a_process_ends_with_an_engine_under_way(model: Model) -> None:
    source = (
        "import pythia_rt\n"
        f"model = pythia_rt.Model.load({os.fspath(model.file.path)!r})\n"
        "engine = pythia_rt.Engine(model)\n"
        "handle = engine.submit('The', max_new_tokens=2000, logit_bias={0: -1e9})\n"
        "print(next(iter(handle)) != '')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, timeout=500
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n must be from 1 to 1024 texts, not 0"),
        ({"n": 3, "best_of": 2}, "best_of must be from 3 to 1024 texts, not 2"),
        ({"top_logprobs": 5000}, "top_logprobs must be from 0 to 4096 tokens, not 5000"),
        ({"echo": 1}, "echo must be True or False, not 1"),
        ({"draft": "llama"}, "draft must be None, 'lookup', Draft.model(...)"),
        ({"processors": [3]}, "processors must be callables, not 3"),
        ({"processors": 3}, "processors must be callables, not 3"),
        ({"namespace": b"a"}, "namespace must be a str, not b'a'"),
        ({"key": None}, "key must be a str, not None"),
        ({"deadline": 0}, "deadline must be a number of seconds above 0, not 0"),
        ({"sampling": 3}, "sampling must be a pythia_rt.Sampling, not int"),
        ({"max_tokens": 3}, "there is no option 'max_tokens': use max_new_tokens"),
        ({"num_beams": 3}, "there is no option 'num_beams': there is no beam search"),
    ],
)
def test_bad_requests(engine: Engine, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        engine.submit(PROMPT, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_rows": 0}, "max_rows must be from 1 to 256 texts, not 0"),
        ({"cache_bytes": -1}, "cache_bytes must be from 0 to"),
        ({"prefix_bytes": 1.5}, "prefix_bytes must be from 0 to"),
        ({"max_waiting": True}, "max_waiting must be from 0 to"),
        ({"seconds_between_tokens": 0}, "seconds_between_tokens must be a number of seconds"),
    ],
)
def test_bad_engines(model: Model, options: dict[str, Any], sentence: str) -> None:
    threads = threading.active_count()
    with pytest.raises(ValueError, match=re.escape(sentence)):
        Engine(model, **options)
    assert threading.active_count() == threads


def test_what_makes_no_sense(model: Model, engine: Engine, tmp_path: Any) -> None:
    from convert_sources import write_checkpoint

    from pythia_rt.convert import convert

    with pytest.raises(ValueError, match=r"an engine needs a pythia_rt\.Model, not 3"):
        Engine(3)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"a Model is made by Model\.load\(path\), .* not of a str"
    ):
        Model("model.prt")  # type: ignore[arg-type]
    handle = engine.submit(PROMPT, max_new_tokens=1)
    for timeout in ("1", float("nan")):
        with pytest.raises(
            ValueError, match=rf"timeout must be a number of seconds, not '?{timeout}"
        ):
            handle.result(timeout)  # type: ignore[arg-type]
    assert handle.result(float("inf")) == handle.result(-1)
    with pytest.raises(ValueError, match="there is no text 'a': they are 0 to 0"):
        handle.pieces("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a Request has its own sampling"):
        engine.submit(Request(PROMPT), Sampling())
    with pytest.raises(ValueError, match=r"there is no option 'n': Model\.samples writes several"):
        model.generate(PROMPT, n=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match=r"a draft's model must be a pythia_rt\.Model, not 3"):
        Draft.model(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a predicted text must be a str, not 3"):
        Draft.predicted(3)  # type: ignore[arg-type]
    source = write_checkpoint(tmp_path / "source", tokenizer={})
    other = Model.load(convert(source, tmp_path / "flat"))
    with pytest.raises(ValueError, match=r"the draft's model has \d+ tokens and this one 4096"):
        model.generate(PROMPT, draft=Draft.model(other))
    with pytest.raises(ValueError, match="this model has no tokenizer: it cannot read a predicted"):
        other.generate([1, 2], draft=Draft.predicted("a"))
    assert engine.submit(Request(PROMPT), max_new_tokens=3, seed=1).result().tokens == (
        model.generate(PROMPT, max_new_tokens=3, seed=1).tokens
    )
