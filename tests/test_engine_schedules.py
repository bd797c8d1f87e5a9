"""Whatever the schedule, each request gets, to the bit, what it gets alone.

The truth is a plain loop over a session of the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt import Model, Sampling, _core
from pythia_rt.engine.errors import Cancelled
from pythia_rt.engine.job import Job
from pythia_rt.engine.prepare import new_scheduler, prepare
from pythia_rt.engine.request import Request
from pythia_rt.engine.scheduler import Scheduler
from pythia_rt.writing import make_sampler

BEGINNING = np.random.default_rng(1).integers(1, 4096, 200).tolist()


@dataclass(frozen=True)
class Ask:
    """A request, when it comes, and when it is cancelled, if it is."""

    beginning: int
    rest: tuple[int, ...]
    sampling: Sampling
    n: int
    draft: str | None
    namespace: str
    key: str
    arrival: int
    cancelled: int | None

    @property
    def prompt(self) -> list[int]:
        return [*BEGINNING[: self.beginning], *self.rest]

    def request(self) -> Request:
        return Request(
            self.prompt,
            self.sampling,
            n=self.n,
            draft=self.draft,
            namespace=self.namespace,
            key=self.key,
        )


asks = st.builds(
    Ask,
    beginning=st.sampled_from([1, 100, 128, 200]),
    rest=st.sampled_from([(), (5,), (7, 8, 9), tuple(range(10, 80))]),
    sampling=st.builds(
        Sampling,
        max_new_tokens=st.integers(1, 16),
        temperature=st.sampled_from([0.0, 0.7, 1.5]),
        repetition_penalty=st.sampled_from([1.0, 1.3]),
        seed=st.integers(0, 3),
        stop=st.sampled_from([(), (" the",), ("e",), ("\n", "a b")]),
        stop_token_ids=st.sampled_from([(), (13, 300)]),
    ),
    n=st.sampled_from([1, 1, 1, 3]),
    draft=st.sampled_from([None, "lookup"]),
    namespace=st.sampled_from(["", "", "", "other"]),
    key=st.sampled_from(["", "a", "b"]),
    arrival=st.sampled_from([0, 0, 3, 9, 30, 40]),
    cancelled=st.sampled_from([None, None, None, 3, 9]),
)


Truth = tuple[list[int], list[float], str, str]
TRUTHS: dict[str, Truth] = {}


def alone(model: Model, prompt: list[int], sampling: Sampling, seed: int) -> Truth:
    """Tokens, log-probabilities, text and finish reason: one token after another."""
    key = repr((prompt, sampling, seed))
    if key not in TRUTHS:
        TRUTHS[key] = _alone(model, prompt, sampling, seed)
    return TRUTHS[key]


def _alone(model: Model, prompt: list[int], sampling: Sampling, seed: int) -> Truth:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    session = model.new_session(len(prompt) + sampling.max_new_tokens)
    session.append(np.array(prompt, np.int32))
    sampler = make_sampler(sampling, model.spec["n_tokens"], seed)
    sampler.accept_prompt(np.array(prompt, np.int32))
    tokens: list[int] = []
    logprobs: list[float] = []
    while len(tokens) < sampling.max_new_tokens:
        token, logprob = session.step(sampler)
        logprobs.append(logprob)
        if token in model.spec["eos_ids"] or token in sampling.stop_ids:
            reason = "eos" if token in model.spec["eos_ids"] else "stop"
            return [*tokens, token], logprobs, tokenizer.decode(tokens), reason
        tokens.append(token)
        text = tokenizer.decode(tokens)
        ends = [(text.index(s) + len(s), -len(s)) for s in sampling.stops if s in text]
        if ends:
            end, minus_length = min(ends)
            return tokens, logprobs, text[: end + minus_length], "stop"
    return tokens, logprobs, tokenizer.decode(tokens), "length"


def told(job: Job) -> list[tuple[Any, ...]]:
    return [(text.tokens, text.logprobs, text.text, text.finish_reason) for text in job.results()]


def expected(model: Model, ask: Ask) -> list[tuple[Any, ...]]:
    seed = ask.sampling.seed
    assert seed is not None
    return [alone(model, ask.prompt, ask.sampling, seed + i) for i in range(ask.n)]


def run(model: Model, scheduler: Scheduler, asked: list[Ask]) -> dict[int, Job]:
    """Every request at its time, until all have ended."""
    jobs: dict[int, Job] = {}
    turn = 0
    while len(jobs) < len(asked) or not scheduler.is_idle:
        for number, ask in enumerate(asked):
            if number not in jobs and ask.arrival <= turn:
                jobs[number] = prepare(model, ask.request())
                scheduler.check(jobs[number])
                scheduler.add(jobs[number])
            if number in jobs and ask.cancelled == turn - ask.arrival:
                scheduler.cancel(jobs[number])
        scheduler.advance(0.0 if turn % 3 else 0.001)
        turn += 1
        assert turn < 3000, "nobody goes on"
    return jobs


def new_prefixes(model: Model, n_bytes: int) -> _core.Prefixes | None:
    return _core.Prefixes(model._core, model.kv_format, n_bytes) if n_bytes else None


@given(
    asked=st.lists(asks, min_size=2, max_size=9),
    max_texts=st.integers(1, 6),
    pass_rows=st.sampled_from([0, 1, 7, 130]),
    room=st.sampled_from([(None, None), (None, 0), (None, 1), (0, None), (3, None), (2, 1)]),
    prefix_pages=st.sampled_from([0, 2, 100, 100]),
)
@settings(deadline=None, max_examples=examples(40))
def test_each_request_gets_what_it_gets_alone(
    model: Model,
    asked: list[Ask],
    max_texts: int,
    pass_rows: int,
    room: tuple[int | None, int | None],
    prefix_pages: int,
) -> None:
    """`room` is in pages beside those of the largest request: what the scheduler gives out, and
    what there is in truth."""
    budget, pool = room
    page = model.new_session(1).page_bytes
    largest = max(prepare(model, ask.request()).pages(128) for ask in asked)
    before = model._core.cache_pages
    prefixes = new_prefixes(model, prefix_pages * page)
    scheduler = new_scheduler(
        model,
        max_texts=max_texts,
        pass_rows=pass_rows,
        cache_bytes=None if budget is None else (largest + budget) * page,
        prefixes=prefixes,
    )
    if pool is not None:
        model._core.cache_budget = (before + largest + pool) * page
    try:
        jobs = run(model, scheduler, asked)
    finally:
        model._core.cache_budget = None
    for number, ask in enumerate(asked):
        job = jobs[number]
        if isinstance(job.error, Cancelled):
            assert ask.cancelled is not None
            assert expected(model, ask)[0][2].startswith(job.error.text)
        else:
            assert told(job) == expected(model, ask)
    if prefixes is not None:
        prefixes.clear()
    del scheduler
    assert model._core.cache_pages == before


def test_a_shared_beginning_is_read_once(model: Model) -> None:
    prefixes = new_prefixes(model, 1 << 40)
    scheduler = new_scheduler(model, prefixes=prefixes)
    how = Sampling(max_new_tokens=4, seed=1)
    prompt = list(range(1, 300))
    for ending, namespace, cached in (
        ([5], "", 0),
        ([5], "", 299),
        ([6, 7], "", 299),
        ([6], "other", 0),
    ):
        job = prepare(model, Request([*prompt, *ending], how, namespace=namespace))
        scheduler.add(job)
        while not scheduler.is_idle:
            scheduler.advance()
        (text,) = job.results()
        assert text.timing.cached_tokens == cached
        assert text.tokens == alone(model, [*prompt, *ending], how, 1)[0]
    # What was written is known too.
    job = prepare(model, Request([*prompt, 5, *text.tokens], how))
    scheduler.add(job)
    while not scheduler.is_idle:
        scheduler.advance()
    assert job.results()[0].timing.cached_tokens >= 300


def test_who_has_no_room_waits_and_goes_on(model: Model) -> None:
    """Three texts grow into pages that there are not: the last ones give theirs back."""
    page, before = model.new_session(1).page_bytes, model._core.cache_pages
    scheduler = new_scheduler(model)
    how = Sampling(max_new_tokens=30, seed=1, temperature=1.5, repetition_penalty=1.2)
    prompts = [[number] * 110 for number in (5, 6, 7)]
    jobs = [prepare(model, Request(prompt, how, n=2)) for prompt in prompts]
    for job in jobs:
        scheduler.add(job)
    model._core.cache_budget = (before + 7) * page
    waited = 0
    try:
        while not scheduler.is_idle:
            scheduler.advance(0)
            begun = [job for job in jobs if job.writings[0].tokens and not job.is_done]
            waited += len(begun) > 0 and scheduler.n_waiting > 0
    finally:
        model._core.cache_budget = None
    assert waited > 3
    for prompt, job in zip(prompts, jobs, strict=True):
        assert told(job) == [alone(model, prompt, how, 1 + i) for i in range(2)]
    del scheduler
    assert model._core.cache_pages == before
