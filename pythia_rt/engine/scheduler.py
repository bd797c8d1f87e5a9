"""Continuous batching: texts join and leave between the passes that they share.

No thread, no lock: whoever calls does the work. What a text is depends on nothing that happens
here, since a token's logits have the same bits whatever else is in its pass.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pythia_rt import _core
from pythia_rt.engine.drafts import draft_bytes, new_draft
from pythia_rt.engine.errors import Cancelled, DeadlineExceeded
from pythia_rt.engine.fair_queue import FairQueue
from pythia_rt.engine.job import Job

if TYPE_CHECKING:
    from pythia_rt.writing import Writing

# Texts that are written at a time: as many as a product multiplies at nearly the speed of prompts;
# more would only take more memory for their caches.
MAX_TEXTS = 32
# Between two deliveries. Nobody reads faster, and every delivery costs some microseconds a text.
_SECONDS = 0.02


class Scheduler:
    """Requests go in with `add`; each `advance` brings them further and says whose are new."""

    def __init__(
        self,
        new_session: Callable[[int], _core.Session],
        *,
        n_tokens: int,
        vocab_size: int,
        max_texts: int = MAX_TEXTS,
        cache_bytes: int | None = None,
        prefixes: _core.Prefixes | None = None,
        pace: _core.Pace | None = None,
        wake: _core.Wake | None = None,
        pass_rows: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`new_session` makes a session with room for so many tokens.

        `cache_bytes` bounds the pages of texts and of `prefixes` (`_core.Prefixes`), which are
        dropped where texts need them. A pass has at most `pass_rows` rows (0: as many as it takes).
        """
        self._new_session = new_session
        self._n_tokens, self._vocab_size = n_tokens, vocab_size
        self._max_texts = max_texts
        self._cache_bytes = cache_bytes
        self._prefixes = prefixes
        self._pace = pace if pace is not None else _core.Pace()
        self._wake = wake
        self._pass_rows = pass_rows
        self.clock = clock
        self._page_bytes = 0  # asked of the first session, if a budget needs it
        self._waiting: FairQueue[Job] = FairQueue()
        self._running: dict[Job, int] = {}  # by arrival, with the bytes set apart for each
        self._runs: list[_Run] = []  # what is read and written, by arrival
        self._reserved = 0
        self._is_short = False  # the cache had no room: nobody comes in before somebody leaves
        self._ready: dict[Job, _Run] = {}  # prompts that were read, to be forked
        self._touched: list[Job] = []
        self._soonest: float | None = None  # a deadline

    # What is asked

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self._running or self._waiting)

    @property
    def n_waiting(self) -> int:
        """Requests that were not begun yet."""
        return len(self._waiting)

    @property
    def n_texts(self) -> int:
        """Texts that are being read or written."""
        return len(self._runs)

    def bytes_for(self, job: Job) -> int:
        """Bytes of cache that a request may need, its draft's among them."""
        if not self._page_bytes:
            self._page_bytes = self._new_session(1).page_bytes
        of_drafts = len(job.writings) * draft_bytes(job.draft, job.writings[0].capacity)
        return job.pages(_core.PAGE_POSITIONS) * self._page_bytes + of_drafts

    def check(self, job: Job) -> None:
        """Raise MemoryError for a request that no budget is left for even alone."""
        if self._cache_bytes is None:
            return
        needed = self.bytes_for(job)
        if needed > self._cache_bytes:
            raise MemoryError(
                f"the request needs {needed} bytes of key-value cache and cache_bytes is "
                f"{self._cache_bytes}: give more, or fewer tokens and texts"
            )

    def add(self, job: Job) -> None:
        """Take a request, whose turn comes."""
        self._waiting.push(job)
        if job.deadline is not None:
            soonest = math.inf if self._soonest is None else self._soonest
            self._soonest = min(job.deadline, soonest)

    def cancel(self, job: Job) -> None:
        """End a request with Cancelled, if it has not ended."""
        self.fail(job, Cancelled("the request was cancelled", job.text))

    def fail(self, job: Job, error: BaseException) -> None:
        """End a request with an error, if it has not ended."""
        if job.is_done:
            return
        if job in self._running:
            self._leave(job)
        else:
            self._waiting.remove(job)
        self._end(job, error)

    def release(self) -> None:
        """Give back what pages it holds: nothing is written any more."""
        self._runs.clear()
        self._ready.clear()
        if self._prefixes is not None:
            self._prefixes.clear()

    def jobs(self) -> list[Job]:
        """All requests that have not ended."""
        return [*self._running, *self._waiting]

    def advance(self, seconds: float = _SECONDS) -> list[Job]:
        """Let requests in and out and write for about so many seconds.

        Returns those that have new text or have ended, maybe more than once. With 0 seconds there
        is one pass. What ends a request for reasons of its own is its `error`; raises what ends
        all, Ctrl-C for example.
        """
        if self._soonest is not None:
            seconds = min(seconds, self._check_deadlines())
        if self._waiting or self._ready:
            self._admit()
        if self._runs:
            self._write(max(seconds, 0.0))
        touched, self._touched = self._touched, []
        return touched

    # Coming in

    def _admit(self) -> None:
        for prompt in list(self._ready.values()):
            self._fork(prompt)
        while self._waiting:
            job = self._waiting.peek()
            if not self._has_room(job):
                return
            self._waiting.pop()
            try:
                self._begin(job)
            except Exception as error:  # the file was changed under the model, for example
                self._end(job, error)

    def _has_room(self, job: Job) -> bool:
        if not self._running:
            self._is_short = False
            if self._cache_bytes is not None and self._prefixes is not None:
                self._drop_prefixes(self.bytes_for(job))
            return True
        n_texts = min(len(job.writings), self._max_texts)
        if self._is_short or self._ready or len(self._runs) + n_texts > self._max_texts:
            return False
        if self._cache_bytes is None:
            return True
        needed = self.bytes_for(job)
        if self._reserved + needed > self._cache_bytes:
            return False
        self._drop_prefixes(self._reserved + needed)
        return True

    def _drop_prefixes(self, needed: int) -> None:
        """Leave room for so many bytes. Pages that texts share with prefixes count twice."""
        if self._prefixes is not None and self._cache_bytes is not None:
            excess = needed + self._prefixes.bytes - self._cache_bytes
            if excess > 0:
                self._prefixes.drop(excess)

    def _begin(self, job: Job) -> None:
        """Have the prompt read, for the first text or, of several, for all."""
        reserved = self.bytes_for(job) if self._cache_bytes is not None else 0
        session = job.session
        if session is None:
            session = self._new_session(job.writings[0].capacity)
            n_known = 0
            if self._prefixes is not None and not job.request.echo and job.edits is None:
                n_known = self._prefixes.adopt(session, job.prompt, _namespace(job))
            session.append(job.prompt[n_known:])
            for number, writing in enumerate(job.writings):
                if not writing.tokens:  # else it goes on, and this was told
                    # The prompt is read for the first text, and is there for the others.
                    writing.cached = n_known if number == 0 else len(job.prompt)
        else:
            job.session = None  # it is the caller's, and no other begins from it
        unfinished = [i for i, w in enumerate(job.writings) if w.finish_reason is None]
        self._running[job] = reserved
        self._reserved += reserved
        try:
            if len(job.writings) == 1:
                self._run(job, 0, session, None)
            else:
                writer = _core.Writer(
                    session,
                    job.writings[unfinished[0]].sampler,
                    max_tokens=0,
                    top=job.request.top_logprobs,
                    echo=job.echo is not None and not job.echo,
                    edits=job.edits,
                )
                self._runs.append(_Run(job, None, session, writer, self.clock()))
        except Exception:
            self._leave(job)
            raise

    def _run(
        self, job: Job, number: int, session: _core.Session, reader: _core.Writer | None
    ) -> None:
        """Write a text of a job in a session where its prompt was read by `reader`, or waits."""
        writing = job.writings[number]
        if writing.tokens:  # it was interrupted: what was written is read again
            session.append(np.array(writing.tokens, np.int32))
        request = job.request
        text = np.concatenate([job.prompt, np.array(writing.tokens, np.int32)])
        writer = _core.Writer(
            session,
            writing.sampler,
            max_tokens=writing.max_new_tokens - len(writing.tokens),
            end_ids=sorted(writing.end_ids),
            watch=job.watch,
            top=request.top_logprobs,
            echo=reader is None and job.echo is not None and not job.echo and not writing.tokens,
            draft=new_draft(job.draft, job.predicted, text, self._n_tokens),
            hook=job.hooks[number],
            edits=job.edits,
            after=reader,
        )
        writing.n_top = request.top_logprobs
        writing.has_draft = job.draft is not None
        self._runs.append(_Run(job, number, session, writer, self.clock()))

    def _fork(self, prompt: _Run) -> None:
        """Begin as many texts after a prompt that was read as may be written."""
        try:
            self._begin_texts(prompt)
        except Exception as error:
            self.fail(prompt.job, error)

    def _begin_texts(self, prompt: _Run) -> None:
        job, session = prompt.job, prompt.session
        begun = {run.number for run in self._runs if run.job is job}
        to_come = [
            i
            for i, writing in enumerate(job.writings)
            if writing.finish_reason is None and i not in begun
        ]
        room = self._max_texts - len(self._runs)
        for number in to_come[:room]:
            is_last = number == to_come[-1]
            self._run(job, number, session if is_last else session.fork(), prompt.writer)
        if len(to_come) <= room:
            del self._ready[job]

    # Writing

    def _write(self, seconds: float) -> None:
        # An error that comes from within keeps this frame, and in it no text: a text has pages, and
        # its writer has the error, a circle that goes through the core and is never collected.
        runs = list(self._runs)
        # The first token of a text is delivered at once, and its time known.
        if any(not run.is_writing for run in runs):
            seconds = 0.0
        try:
            wanting = _core.write(
                [run.writer for run in runs],
                pace=self._pace,
                wake=self._wake,
                seconds=seconds,
                max_rows=self._pass_rows,
            )
        except MemoryError as error:
            self._take_all()
            runs.clear()
            self._make_room(error)
            return
        self._take_all()
        for index in wanting:
            self._attend(runs[index])
        runs.clear()

    def _attend(self, run: _Run) -> None:
        """Do what a writer wants that has no more to write."""
        if run.job.is_done or not run.writer.has_ended:
            return
        failure = run.writer.error
        if failure is not None:
            self.fail(run.job, self._explained(run, failure))
        elif run.number is None:
            self._prompt_was_read(run)
            self._runs.remove(run)
            self._ready[run.job] = run
            self._fork(run)

    def _take_all(self) -> None:
        """Hand on what was written. A text may end here, and its job with it."""
        now = self.clock()
        ended: list[tuple[_Run, Exception | None]] = []
        for run in self._runs:
            if run.number is None:
                continue
            n_tokens = run.writer.n_tokens
            if n_tokens == run.n_tokens:
                continue
            writing = run.job.writings[run.number]
            if not run.is_writing and len(run.job.writings) == 1:
                self._prompt_was_read(run)
            run.n_tokens = n_tokens
            run.is_writing = True
            try:
                writing.accept(run.writer.take(), now - run.since)
            except Exception as error:
                ended.append((run, error))
                continue
            run.since = now
            self._touched.append(run.job)
            if writing.finish_reason is not None:
                ended.append((run, None))
        for run, failure in ended:
            if failure is not None:
                self.fail(run.job, failure)
            elif not run.job.is_done:
                self._text_has_ended(run, run.job.writings[run.number])  # type: ignore[index]

    def _prompt_was_read(self, run: _Run) -> None:
        job = run.job
        if job.echo is not None and not job.echo:
            job.echo.append(run.writer.take_echo())
            for writing in job.writings:
                writing.echo = job.echo
        if self._prefixes is not None and job.edits is None:
            self._prefixes.keep(run.session, job.prompt, _namespace(job))

    def _text_has_ended(self, run: _Run, writing: Writing) -> None:
        if self._prefixes is not None and run.job.edits is None:
            # Its last token was not read.
            tokens = np.concatenate([run.job.prompt, np.array(writing.tokens[:-1], np.int32)])
            self._prefixes.keep(run.session, tokens, _namespace(run.job))
        self._runs.remove(run)
        if all(writing.finish_reason is not None for writing in run.job.writings):
            self._leave(run.job)
            self._end(run.job, None)

    def _explained(self, run: _Run, error: Exception) -> Exception:
        writing = run.job.writings[run.number or 0]
        return writing.explained(run.session, error, run.job.edits is not None)

    # Going out

    def _leave(self, job: Job) -> None:
        self._reserved -= self._running.pop(job)
        self._ready.pop(job, None)
        self._runs = [run for run in self._runs if run.job is not job]
        self._is_short = False

    def _end(self, job: Job, error: BaseException | None) -> None:
        job.end(error)
        self._touched.append(job)

    def _make_room(self, error: MemoryError) -> None:
        """The cache has no room for the next pass: take it from prefixes, else from the request
        that came last, which is read again later, to the same bits."""
        if self._prefixes is not None and self._prefixes.drop(1):
            return
        if len(self._running) == 1:
            self.fail(next(iter(self._running)), error)
        elif self._running:
            victim = list(self._running)[-1]
            self._leave(victim)
            self._waiting.push_first(victim)
            self._is_short = True

    def _check_deadlines(self) -> float:
        """End what is too late. Returns the seconds until the next one is."""
        now = self.clock()
        if self._soonest is not None and now >= self._soonest:
            jobs = [job for job in self.jobs() if job.deadline is not None]
            for job in jobs:
                if job.deadline is not None and job.deadline <= now:
                    sentence = f"the request was not done after {job.request.deadline} seconds"
                    self.fail(job, DeadlineExceeded(sentence, job.text))
            left = [job.deadline for job in jobs if not job.is_done and job.deadline is not None]
            self._soonest = min(left) if left else None
        return self._soonest - now if self._soonest is not None else math.inf


class _Run:
    """A text that is being read or written, or, without a number, a prompt of several texts."""

    __slots__ = ("is_writing", "job", "n_tokens", "number", "session", "since", "writer")

    def __init__(
        self, job: Job, number: int | None, session: _core.Session, writer: _core.Writer, now: float
    ) -> None:
        self.job = job
        self.number = number
        self.session = session
        self.writer = writer
        self.since = now
        self.n_tokens = 0
        self.is_writing = False


def _namespace(job: Job) -> bytes:
    return job.request.namespace.encode(errors="surrogatepass")  # as in names of files
