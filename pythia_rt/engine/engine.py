"""An engine: one thread that writes the texts of many callers together."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from pythia_rt import _core
from pythia_rt.convert.errors import shown
from pythia_rt.engine.handle import Handle
from pythia_rt.engine.job import Job
from pythia_rt.engine.loop import Loop
from pythia_rt.engine.prepare import new_scheduler, prepare
from pythia_rt.engine.request import Request, as_request
from pythia_rt.engine.scheduler import MAX_TEXTS
from pythia_rt.memory import usable_memory
from pythia_rt.options import real, whole_number_from
from pythia_rt.prompt import Prompt
from pythia_rt.sampling import Sampling

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.engine.options import SubmitOptions
    from pythia_rt.model import Model

_MOST = 1 << 62  # bytes
_MOST_WAITING = 1 << 30
_SECONDS = real(lambda seconds: seconds > 0, "a number of seconds above 0")
_SHARE_FOR_PREFIXES = 16  # of the memory that the process may use, one part of so many


@dataclass(frozen=True)
class Stats:
    """What an engine is doing, and has done: counts of requests, tokens and bytes.

    Tokens are those of requests that have ended well; `cached_tokens` are those of `prompt_tokens`
    that needed no reading. `cache_bytes` are held by the key-value caches of the whole model,
    `prefix_bytes` by what is kept for later requests, some of which texts share.
    """

    waiting: int
    running: int
    done: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    cache_bytes: int
    prefix_bytes: int


class Engine:
    """Writes the texts of many requests together, in a thread of its own: continuous batching.

        with pythia_rt.Engine(model) as engine:
            handles = [engine.submit(prompt, max_new_tokens=64) for prompt in prompts]
            texts = [handle.result().text for handle in handles]

    Requests join and leave between passes through the model; each has the tokens and the bits that
    it has alone. A prompt that begins like an earlier one is read from there on only.

    Any thread may submit. At the end of the `with` block all requests are done; where it ends with
    an exception, and for an engine that is dropped or still there when the process exits, those
    under way are cancelled. It belongs to the process that made it: in a fork every use is an
    EngineClosed.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_rows: int | None = None,
        cache_bytes: int | None = None,
        max_waiting: int = 1024,
        prefix_bytes: int | None = None,
        seconds_between_tokens: float | None = None,
    ) -> None:
        """At most `max_rows` texts are written at a time (None: 32), and `max_waiting` more may
        wait: `submit` raises QueueFull then.

        `cache_bytes` bounds the key-value caches, those of drafts' models too: requests wait for
        room (None: for what there is).
        `prefix_bytes` is what may be kept for prompts that begin alike (None: a sixteenth of the
        memory that the process may use; 0: nothing); it gives way where texts need the room.
        `seconds_between_tokens` is how long a text may wait for its next token while prompts are
        read (None: 1.6 times as long as without, and at least 0.01). Raises ValueError for a bad
        argument.
        """
        from pythia_rt.model import Model

        if not isinstance(model, Model):
            raise ValueError(f"an engine needs a pythia_rt.Model, not {shown(model)}")
        max_texts = MAX_TEXTS
        if max_rows is not None:
            max_texts = whole_number_from(1, 256, "texts")("max_rows", max_rows)
        for name, value in (("cache_bytes", cache_bytes), ("prefix_bytes", prefix_bytes)):
            if value is not None:
                whole_number_from(0, _MOST, "bytes")(name, value)
        whole_number_from(0, _MOST_WAITING, "texts")("max_waiting", max_waiting)
        if seconds_between_tokens is not None:
            _SECONDS("seconds_between_tokens", seconds_between_tokens)
        self._model = model
        self._prefixes = _new_prefixes(model, prefix_bytes, cache_bytes)
        wake = _core.Wake()
        self._scheduler = new_scheduler(
            model,
            max_texts=max_texts,
            cache_bytes=cache_bytes,
            prefixes=self._prefixes,
            pace=_core.Pace(seconds_between_tokens),
            wake=wake,
        )
        self._loop = Loop(self._scheduler, wake, max_texts + max_waiting)
        self._stop = weakref.finalize(self, Loop.stop, self._loop)

    def submit(
        self,
        prompt: Prompt | Request,
        sampling: Sampling | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Handle:
        """Have a request done: a `Request`, or a prompt with the options of one.

        Options are the fields of `Request` and of `Sampling`. Returns at once. Raises ValueError as
        `Model.generate` does, QueueFull where too many wait, MemoryError for a request that
        `cache_bytes` has no room for even alone, and EngineClosed.
        """
        self._loop.check()
        request = as_request(prompt, sampling, options)
        job, news = self._loop.submit(request.n_texts, lambda: self._prepare(request))
        return Handle(self, job, news, self._loop.cancel)

    def close(self, *, cancel: bool = False) -> None:
        """Take in nothing more and return when all requests are done, or, with `cancel`, cancelled.

        May be called again, and from any thread.
        """
        self._loop.stop(cancel=cancel)

    @property
    def stats(self) -> Stats:
        """What it is doing now."""
        self._loop.check_process()
        counts = self._loop.counts
        return Stats(
            waiting=counts.waiting,
            running=counts.running,
            done=counts.done,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            new_tokens=counts.new_tokens,
            cache_bytes=self._model._core.cache_bytes,
            prefix_bytes=0 if self._prefixes is None else self._prefixes.bytes,
        )

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(cancel=kind is not None)

    def _prepare(self, request: Request) -> Job:
        job = prepare(self._model, request, clock=self._scheduler.clock)
        self._scheduler.check(job)
        return job


def _new_prefixes(
    model: Model, prefix_bytes: int | None, cache_bytes: int | None
) -> _core.Prefixes | None:
    if prefix_bytes is None:
        prefix_bytes = usable_memory() // _SHARE_FOR_PREFIXES
    if cache_bytes is not None:
        prefix_bytes = min(prefix_bytes, cache_bytes)
    if prefix_bytes == 0:
        return None
    return _core.Prefixes(model._core, model.kv_format, prefix_bytes)
