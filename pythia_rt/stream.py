"""Text as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pythia_rt.convert.files.closing import Closing
from pythia_rt.generation import Generation

if TYPE_CHECKING:
    from pythia_rt.engine.job import Job
    from pythia_rt.engine.scheduler import Scheduler


class Stream(Iterator[str], Closing):
    """Text as it is written: iterate over it, then read `result`.

    Characters are never split and stop strings never shown, not even in part, so some tokens give
    no piece of their own. Work happens inside `next()`; the key-value cache is released when the
    text ends, on `close()`, at the end of a `with` block, or when the stream is dropped. Use a
    stream from one thread at a time.
    """

    def __init__(self, scheduler: Scheduler, job: Job) -> None:
        """Made by `Model.stream`, of a job with one text that the scheduler has not seen. Its
        prompt is read at the first `next()`."""
        self._scheduler: Scheduler | None = scheduler
        self._job = job
        self._writing = job.writings[0]
        self._n_shown = 0
        scheduler.add(job)

    def __next__(self) -> str:
        pieces = self._writing.pieces
        try:
            while self._scheduler is not None:
                self._scheduler.advance(0)
                if self._job.is_done:
                    self.close()
                if self._job.error is not None:
                    raise self._job.error
                if len(pieces) > self._n_shown:
                    break
        except BaseException:  # Ctrl-C included: a half-made step cannot be resumed
            self.close()
            raise
        if len(pieces) == self._n_shown:
            raise StopIteration
        piece = "".join(pieces[self._n_shown :])
        self._n_shown = len(pieces)
        return piece

    def close(self) -> None:
        """Stop writing and release the key-value cache. May be called again."""
        self._scheduler = None

    @property
    def seed(self) -> int:
        """The seed of its random numbers, known before the text is."""
        return self._writing.seed

    @property
    def tokens(self) -> list[int]:
        """The ids that were written so far."""
        return list(self._writing.tokens)

    @property
    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the text has ended."""
        return self._writing.result()
