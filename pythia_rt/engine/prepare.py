"""From a request to its texts: all that is checked before anything is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pythia_rt.engine.drafts import check_draft, read_draft
from pythia_rt.engine.job import Job
from pythia_rt.engine.request import Request
from pythia_rt.engine.scheduler import Scheduler
from pythia_rt.hooks import hook_maker
from pythia_rt.options import whole_number_from
from pythia_rt.stream import Stream

if TYPE_CHECKING:
    from pythia_rt import _core
    from pythia_rt.model import Model
    from pythia_rt.sampling import Sampling
    from pythia_rt.writing import Writing

_SEEDS = 1 << 64


def prepare(
    model: Model, request: Request, *, clock: Callable[[], float] = time.perf_counter
) -> Job:
    """The job of a request, whose time begins now. Raises ValueError for what the model cannot
    do."""
    deadline = None if request.deadline is None else clock() + request.deadline
    ids = model._ids(request.prompt)
    vocab_size = model._vocab_size
    whole_number_from(0, vocab_size, "tokens")("top_logprobs", request.top_logprobs)
    writings = [model._write(ids, each) for each in _samplings(request)]
    return Job(
        request,
        ids,
        writings,
        predicted=check_draft(read_draft(request.draft), model),
        watch=writings[0].watched(vocab_size),
        new_hook=hook_maker(
            request.constraint,
            request.processors,
            tokenizer=model.tokenizer if request.constraint is not None else None,
            spec=model._file.spec,
            prompt=ids,
            stop_ids=request.sampling.stop_ids,
        ),
        deadline=deadline,
        edits=_edits(model, request),
    )


def _edits(model: Model, request: Request) -> _core.Edits | None:
    if not request.edits:
        return None
    from pythia_rt.insides.run import Runner  # few need it

    return Runner(model).edits(request.edits)


def new_scheduler(model: Model, **options: Any) -> Scheduler:
    """A scheduler of a model's texts; the options are those of `Scheduler`."""
    return Scheduler(
        model.new_session,
        n_tokens=int(model._file.spec["n_tokens"]),
        vocab_size=model._vocab_size,
        **options,
    )


def continue_session(model: Model, session: _core.Session, writing: Writing) -> Stream:
    """The stream of a text whose prompt is in a session, some of it still to be read."""
    job = Job(
        Request(writing.prompt),
        writing.prompt,
        [writing],
        watch=writing.watched(model._vocab_size),
        session=session,
    )
    return Stream(new_scheduler(model), job)


def _samplings(request: Request) -> list[Sampling]:
    """One for each text: a seed counts up."""
    sampling, seed = request.sampling, request.sampling.seed
    if seed is None or request.n_texts == 1:
        return [sampling] * request.n_texts
    return [replace(sampling, seed=(seed + i) % _SEEDS) for i in range(request.n_texts)]
