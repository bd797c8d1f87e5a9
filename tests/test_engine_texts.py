"""What an engine writes is what the model writes: samples, likeliest tokens, drafts, processors."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pythia_rt import Constraint, Draft, Engine, Generation, Model, Request, Sampling
from pythia_rt.engine.errors import Cancelled
from pythia_rt.engine.prepare import new_scheduler, prepare

PROMPT = "The kernel"
LONG: dict[str, Any] = {"max_new_tokens": 1500, "logit_bias": {0: -np.inf}}


def told(generation: Generation) -> tuple[Any, ...]:
    """All of it but the time."""
    return tuple(value for name, value in vars(generation).items() if name != "timing")


def test_many_threads_submit(model: Model, engine: Engine) -> None:
    def work(seed: int) -> tuple[Any, ...]:
        handle = engine.submit(f"{PROMPT} {seed % 5}", max_new_tokens=10 + seed, seed=seed)
        text = "".join(handle)
        result = handle.result()
        assert (result.text, handle.done, handle.seeds) == (text, True, [seed])
        return told(result)

    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(work, range(40)))
    assert texts == [
        told(model.generate(f"{PROMPT} {seed % 5}", max_new_tokens=10 + seed, seed=seed))
        for seed in range(40)
    ]
    assert (engine.stats.done, engine.stats.new_tokens) == (40, sum(len(t[1]) for t in texts))


def test_coroutines(model: Model, engine: Engine) -> None:
    async def read(seed: int) -> str:
        return "".join(
            [piece async for piece in engine.submit(PROMPT, max_new_tokens=30, seed=seed)]
        )

    async def wait(seed: int) -> str:
        return (await engine.submit(PROMPT, max_new_tokens=30, seed=seed)).text

    async def work() -> list[str]:
        return await asyncio.gather(*(each(seed) for seed in range(10) for each in (read, wait)))

    expected = [model.generate(PROMPT, max_new_tokens=30, seed=seed).text for seed in range(10)]
    assert asyncio.run(work()) == [text for text in expected for _ in range(2)]


def test_a_cancelled_await_cancels_the_request(engine: Engine) -> None:
    is_open = threading.Event()

    def wait(tokens: Any, logits: Any) -> None:
        assert is_open.wait(300)

    async def work() -> None:
        handle = engine.submit(PROMPT, processors=[wait], **LONG)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(handle.results_async(), 0.05)
        is_open.set()
        with pytest.raises(Cancelled):
            await handle

    asyncio.run(work())


def test_samples_are_the_texts_of_their_seeds(model: Model, engine: Engine) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.3}
    alone = [model.generate(PROMPT, seed=7 + i, **options) for i in range(5)]
    samples = model.samples(PROMPT, n=5, seed=7, **options)
    assert [told(text) for text in samples] == [told(text) for text in alone]
    handle = engine.submit(PROMPT, n=5, seed=7, **options)
    assert [told(text) for text in handle.results()] == [told(text) for text in alone]
    assert ["".join(handle.pieces(i)) for i in range(5)] == [text.text for text in alone]
    best = sorted(alone, key=lambda text: -np.mean(text.logprobs, dtype=np.float64))
    chosen = model.samples(PROMPT, n=2, best_of=5, seed=7, **options)
    assert [told(text) for text in chosen] == [told(text) for text in best[:2]]
    unseeded = model.samples(PROMPT, n=2, max_new_tokens=2)
    assert unseeded[0].seed != unseeded[1].seed
    with pytest.raises(ValueError, match="with best_of there is no text before all have ended"):
        engine.submit(PROMPT, n=1, best_of=2, max_new_tokens=2).pieces()
    with pytest.raises(ValueError, match="there is no text 5: they are 0 to 4"):
        handle.pieces(5)


def test_more_samples_than_texts_at_a_time(model: Model) -> None:
    with Engine(model, max_rows=3) as engine:
        texts = engine.submit([3] * 200, n=8, seed=0, max_new_tokens=6).results()
    assert [text.tokens for text in texts] == [
        model.generate([3] * 200, seed=seed, max_new_tokens=6).tokens for seed in range(8)
    ]


def test_samples_share_their_prompt(model: Model) -> None:
    """Its pages are there once, and it is read once."""
    scheduler = new_scheduler(model)
    before = model._core.cache_pages
    prompt = np.arange(1, 501)
    scheduler.add(prepare(model, Request(prompt, Sampling(max_new_tokens=5), n=8)))
    while scheduler.n_texts < 8:
        scheduler.advance(0)
    scheduler.advance(0)
    # Three full pages for all, and the rest of the prompt with what follows, one for each.
    assert model._core.cache_pages - before in (3 + 8, 3 + 8 + 1)


def test_top_and_echo(model: Model, engine: Engine) -> None:
    ids = np.arange(5, 45)
    text = model.generate(ids, max_new_tokens=6, seed=1, top_logprobs=3, echo=True)
    plain = model.generate(ids, max_new_tokens=6, seed=1)
    assert (text.tokens, text.logprobs) == (plain.tokens, plain.logprobs)
    assert (plain.top_logprobs, plain.prompt_logprobs, plain.drafted) == (None, None, None)
    (score,) = model.score([ids], top=3)
    assert text.prompt_logprobs == score.log_probabilities.tolist()
    assert text.prompt_top_logprobs is not None
    assert text.top_logprobs is not None
    assert [len(top) for top in text.prompt_top_logprobs] == [3] * 39
    likeliest = np.argmax(model.logits([*ids, *text.tokens[:-1]]), axis=1)
    assert [top[0][0] for top in text.prompt_top_logprobs] == likeliest[:39].tolist()
    assert [top[0][0] for top in text.top_logprobs] == likeliest[39:].tolist()
    for top, token, logprob in zip(text.top_logprobs, text.tokens, text.logprobs, strict=True):
        assert dict(top).get(token, logprob) == logprob
        assert all(a >= b for (_, a), (_, b) in itertools.pairwise(top))
    # What was read before does not keep an echo from being whole.
    for _ in range(2):
        several = engine.submit(ids, n=2, max_new_tokens=6, seed=1, top_logprobs=3, echo=True)
        assert told(several.results()[0]) == told(text)


def test_drafts_change_nothing_but_what_they_report(model: Model, engine: Engine) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "seed": 5}
    plain = model.generate(PROMPT, **options)
    drafts = ("lookup", Draft.model(model), Draft.predicted(plain.text), Draft.predicted(""))
    for draft in drafts:
        text = model.generate(PROMPT, draft=draft, **options)
        assert told(text)[:5] == told(plain)[:5]
        assert text.drafted is not None
        assert 0 <= text.drafted.accepted <= text.drafted.proposed
        assert told(engine.submit(PROMPT, draft=draft, **options).result())[:5] == told(plain)[:5]
    good = model.generate(PROMPT, draft=Draft.predicted(plain.text), **options).drafted
    assert good is not None
    assert good.rate > 0.5


def test_processors(model: Model, engine: Engine) -> None:
    seen: list[list[int]] = []

    def only_even(tokens: Any, logits: Any) -> None:
        seen.append(tokens.tolist())
        logits[1::2] = -np.inf

    text = model.generate([3, 5], max_new_tokens=4, seed=1, processors=[only_even])
    assert all(token % 2 == 0 for token in text.tokens)
    assert seen == [[3, 5, *text.tokens[:n]] for n in range(4)]
    other = engine.submit([3, 5], max_new_tokens=4, seed=1, processors=[lambda t, x: x * 2])
    assert (
        other.result().tokens
        == model.generate([3, 5], max_new_tokens=4, seed=1, temperature=0.4).tokens
    )


def test_grammars_of_their_own(model: Model, engine: Engine) -> None:
    """Rows with and without, with drafts; each is the text that it is alone."""
    pytest.importorskip("llguidance")
    shapes: list[dict[str, Any]] = [
        {"regex": "[a-c]{3,9}"},
        {"json_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        {"constraint": Constraint(regex="(the|kernel| )+"), "draft": "lookup", "n": 2},
        {},
    ]
    options: dict[str, Any] = {"max_new_tokens": 20, "seed": 1, "stop_token_ids": 0}
    handles = [engine.submit(PROMPT, **shape, **options) for shape in shapes]
    texts = [handle.result() for handle in handles]
    assert re.fullmatch("[a-c]{3,9}", texts[0].text)
    assert texts[1].text.startswith("{")
    assert re.fullmatch("(the|kernel| )+", texts[2].text)
    for shape, text in zip(shapes, texts, strict=True):
        alone = model.samples(PROMPT, **{**shape, "draft": None}, **options)[0]
        assert told(text)[:5] == told(alone)[:5]
    with pytest.raises(ValueError, match="regex cannot be used"):
        engine.submit(PROMPT, regex="(")
    with pytest.raises(ValueError, match="give a constraint or regex, not both"):
        engine.submit(PROMPT, regex="a", constraint=Constraint(regex="a"))
    with pytest.raises(ValueError, match=r"constraint must be a pythia_rt\.Constraint, not 'a'"):
        engine.submit(PROMPT, constraint="a")  # type: ignore[arg-type]
