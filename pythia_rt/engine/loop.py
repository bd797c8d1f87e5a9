"""The thread of an engine: it runs the scheduler, takes what others hand in, and tells them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pythia_rt import _core
from pythia_rt.engine.errors import Cancelled, EngineClosed, QueueFull
from pythia_rt.engine.handle import FORKED, News, wake_coroutines
from pythia_rt.engine.job import Job
from pythia_rt.engine.scheduler import Scheduler


@dataclass
class Counts:
    """Of requests and of the tokens of those that have ended well."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0


class Loop:
    """Holds everything that the thread needs, and nothing that holds the engine: an engine that is
    dropped can so be noticed."""

    def __init__(self, scheduler: Scheduler, wake: _core.Wake, most_texts: int) -> None:
        """`wake` ends a pass that the scheduler is in; at most so many texts are taken in."""
        self._scheduler = scheduler
        self._wake = wake
        self._most_texts = most_texts
        self._pid = os.getpid()
        # Guards what follows. Reentrant, as handles may be dropped, and cancel, anywhere.
        self._changed = threading.Condition()
        self._incoming: deque[tuple[Job, News]] = deque()
        self._n_texts = 0  # that were let in and have not ended
        self._is_closing = self._is_cancelling = False
        self._failure: BaseException | None = None
        self._cancelled: deque[Job] = deque()  # by any thread, without the lock
        self._news: dict[Job, News] = {}  # the thread's own
        self.counts = Counts()
        # A join that Ctrl-C interrupts leaves a thread that Python takes for ended (before 3.13).
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pythia_rt.Engine", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise EngineClosed if nothing can be handed in any more."""
        self.check_process()
        if self._failure is not None:
            raise _failed(self._failure)
        if self._is_closing:
            raise EngineClosed("the engine is closed: make a new one")

    def check_process(self) -> None:
        """Raise EngineClosed in a fork of the process."""
        if os.getpid() != self._pid:
            raise EngineClosed(FORKED)

    def submit(self, n_texts: int, make: Callable[[], Job]) -> tuple[Job, News]:
        """Take in the job that `make` makes, of so many texts; checked before it is made.

        Raises QueueFull where too many wait, EngineClosed, and what `make` raises.
        """
        self.check()
        with self._changed:
            if self._n_texts + n_texts > self._most_texts:
                raise QueueFull(
                    f"{self._n_texts} texts are written or wait, and no more than "
                    f"{self._most_texts} may: submit again later"
                )
            self._n_texts += n_texts
        try:
            job, news = make(), News()
            with self._changed:
                self.check()
                self._incoming.append((job, news))
                self._changed.notify_all()
        except BaseException:
            with self._changed:
                self._n_texts -= n_texts
            raise
        self._wake.set()
        return job, news

    def cancel(self, job: Job) -> None:
        """End a job soon. From any thread; does nothing in a fork."""
        if os.getpid() == self._pid and not job.is_done:
            self._cancelled.append(job)
            self._wake.set()

    def stop(self, *, cancel: bool = True) -> None:
        """Take in nothing more, and return when all has ended, which `cancel` hastens."""
        if os.getpid() != self._pid:
            return  # the thread is not here
        with self._changed:
            self._is_closing = True
            self._is_cancelling |= cancel
            self._changed.notify_all()
        self._wake.set()
        if threading.current_thread() is self._thread:
            return
        try:
            self._has_ended.wait()
            self._thread.join()
        except BaseException:  # Ctrl-C while it drains
            self._is_cancelling = True
            self._wake.set()
            raise

    # What follows is the thread's.

    def _run(self) -> None:
        scheduler = self._scheduler
        try:
            while self._turn(scheduler):
                pass
        except BaseException as error:
            self._fail(error)
        finally:
            scheduler.release()
            self._has_ended.set()

    def _turn(self, scheduler: Scheduler) -> bool:
        """Bring all a little further; returns whether there may be more to do."""
        with self._changed:
            while scheduler.is_idle and not self._incoming and not self._is_closing:
                self._changed.wait()
            incoming, self._incoming = self._incoming, deque()
        for job, news in incoming:
            self._news[job] = news
            scheduler.add(job)
        if self._is_closing and scheduler.is_idle:
            return False
        if self._is_cancelling:
            for job in scheduler.jobs():
                scheduler.fail(job, Cancelled("the engine was closed", job.text))
        self._cancel_all(scheduler)
        self._tell(scheduler, scheduler.advance())
        return True

    def _cancel_all(self, scheduler: Scheduler) -> None:
        early = []
        while self._cancelled:
            job = self._cancelled.popleft()
            if job in self._news:
                scheduler.cancel(job)
            elif not job.is_done:
                early.append(job)  # it comes in with the next turn
        self._cancelled.extend(early)

    def _tell(self, scheduler: Scheduler, touched: list[Job]) -> None:
        wakes: dict[Any, list[Any]] = {}
        for job in dict.fromkeys(touched):
            if job in self._news:
                self._announce(job, wakes)
        wake_coroutines(wakes)
        self.counts.waiting = scheduler.n_waiting
        self.counts.running = len(self._news) - scheduler.n_waiting

    def _announce(self, job: Job, wakes: dict[Any, list[Any]]) -> None:
        news = self._news[job]
        if job.is_done:
            del self._news[job]
            with self._changed:
                self._n_texts -= len(job.writings)
            self._count(job)
        news.announce(wakes)

    def _count(self, job: Job) -> None:
        if job.error is not None:
            return
        counts = self.counts
        counts.done += 1
        counts.prompt_tokens += len(job.prompt)
        counts.cached_tokens += job.writings[0].cached
        counts.new_tokens += sum(len(writing.tokens) for writing in job.writings)

    def _fail(self, error: BaseException) -> None:
        """Whatever is wrong is nobody's fault in particular: all requests end with it."""
        with self._changed:
            self._failure = error
            self._news.update(self._incoming)
            self._incoming.clear()
        wakes: dict[Any, list[Any]] = {}
        for job in list(self._news):
            if not job.is_done:
                job.end(_failed(error))
            self._announce(job, wakes)
        wake_coroutines(wakes)


def _failed(error: BaseException) -> EngineClosed:
    closed = EngineClosed(f"the engine's thread has failed: {error}")
    closed.__cause__ = error
    return closed
