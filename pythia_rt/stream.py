"""Text as it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pythia_rt.convert.files.closing import Closing
from pythia_rt.generation import Generation

if TYPE_CHECKING:
    from pythia_rt import _core
    from pythia_rt.writing import Writing


class Stream(Iterator[str], Closing):
    """Text as it is written: iterate over it, then read `result`.

    Characters are never split and stop strings never shown, not even in part, so some tokens give
    no piece of their own. Work happens inside `next()`; the key-value cache is released when the
    text ends, on `close()`, at the end of a `with` block, or when the stream is dropped. Use a
    stream from one thread at a time.
    """

    def __init__(self, session: _core.Session, writing: Writing) -> None:
        """Made by `Model.stream`. The prompt, which waits in `session`, is read at the first
        `next()`."""
        self._session: _core.Session | None = session
        self._writing = writing

    def __next__(self) -> str:
        try:
            while self._session is not None:
                piece = self._advance(self._session)
                if piece:
                    return piece
        except BaseException:  # Ctrl-C included: a half-made step cannot be resumed
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Stop writing and release the key-value cache. May be called again."""
        self._session = None

    @property
    def seed(self) -> int:
        """The seed of its random numbers, known before the text is."""
        return self._writing.seed

    @property
    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the text has ended."""
        return self._writing.result()

    def _advance(self, session: _core.Session) -> str:
        """One token more; returns the text it makes ready, which may be empty."""
        writing = self._writing
        started = time.perf_counter()
        try:
            token, logprob = session.step(writing.sampler)
        except RuntimeError as error:
            explained = writing.explained(session, error)
            if explained is error:
                raise
            raise explained from None
        piece = writing.accept(token, logprob, time.perf_counter() - started)
        if writing.finish_reason is not None:
            self.close()
        return piece
