"""What an engine gives back at once: the text as it comes, and the result when it is there."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from pythia_rt.convert.errors import shown
from pythia_rt.engine.errors import EngineClosed
from pythia_rt.engine.job import Job
from pythia_rt.generation import Generation
from pythia_rt.options import real

if TYPE_CHECKING:
    import asyncio

_TIMEOUT = real(lambda seconds: seconds == seconds, "a number of seconds")
_LONGEST = threading.TIMEOUT_MAX
FORKED = "the engine runs in the process that made it, not in a fork of it: make one here"


class News:
    """Where readers wait for a job. The engine's thread announces; readers are any threads, and
    coroutines of any event loops."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._futures: list[asyncio.Future[None]] = []

    def wait(self, is_there: Callable[[], bool], timeout: float | None) -> bool:
        """Block until it is so, or until so many seconds are over; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(is_there, timeout)

    async def wait_async(self, is_there: Callable[[], bool]) -> None:
        """The same for a coroutine."""
        import asyncio

        loop = asyncio.get_running_loop()
        while not is_there():
            future: asyncio.Future[None] = loop.create_future()
            with self._changed:
                # What is announced from here on sees the future.
                self._futures.append(future)
            if is_there():
                return
            await future

    def announce(self, wakes: dict[Any, list[Any]]) -> None:
        """Wake threads; of coroutines, add the futures to `wakes`, by event loop."""
        with self._changed:
            self._changed.notify_all()
            futures, self._futures = self._futures, []
        for future in futures:
            wakes.setdefault(future.get_loop(), []).append(future)


def wake_coroutines(wakes: dict[Any, list[Any]]) -> None:
    """One call into each event loop. A loop that was closed has nobody who waits."""
    for loop, futures in wakes.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures)
        except RuntimeError:
            continue


def _resolve(futures: list[Any]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Handle:
    """A request of an engine: iterate over its text, wait for its result, or cancel it.

        for piece in handle: ...            async for piece in handle: ...
        generation = handle.result()        generation = await handle

    Pieces come several tokens at a time where reading is slower than writing, and are `Pieces` of
    the first text; of another one, `handle.pieces(number)`. Both ways of waiting raise what the
    request failed with: Cancelled, DeadlineExceeded, EngineClosed, or an error of its own.

    A handle that nobody holds any longer cancels its request, as does a cancelled `await`. Any
    thread may use it.
    """

    def __init__(self, engine: object, job: Job, news: News, cancel: Callable[[Job], None]) -> None:
        """Made by `Engine.submit`. `cancel` may be called from any thread."""
        self._engine = engine  # which closes when nobody holds it
        self._job = job
        self._news = news
        self._pid = os.getpid()
        # Until then others hold the job. An error of its own leads to this handle, by the frames
        # that it was raised in: so that nobody keeps the one for the other, only weakly.
        self._cancel = weakref.finalize(self, _cancel_if_there, cancel, weakref.ref(job))
        self._cancel.atexit = False

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._job.is_done

    @property
    def seeds(self) -> list[int]:
        """The seed of each text."""
        return [writing.seed for writing in self._job.writings]

    def cancel(self) -> None:
        """End it after the pass at hand. What has ended stays as it is."""
        self._check_process()
        self._cancel()

    def result(self, timeout: float | None = None) -> Generation:
        """The text, or the first one of several. Blocks until it is there.

        Raises what the request failed with, and TimeoutError after `timeout` seconds, in which case
        it goes on; ValueError for a timeout that is none.
        """
        return self.results(timeout)[0]

    def results(self, timeout: float | None = None) -> list[Generation]:
        """All n texts, as `Model.samples` returns them; see `result`."""
        self._check_process()
        seconds = None if timeout is None else min(_TIMEOUT("timeout", timeout), _LONGEST)
        if not self._news.wait(lambda: self._job.is_done, seconds):
            raise TimeoutError(f"the request was not done after {timeout} seconds")
        return self._job.results()

    async def results_async(self) -> list[Generation]:
        """`results` for a coroutine."""
        self._check_process()
        try:
            await self._news.wait_async(lambda: self._job.is_done)
        except BaseException:  # CancelledError of asyncio
            self._cancel()
            raise
        return self._job.results()

    def __await__(self) -> Generator[Any, None, Generation]:
        return self._first().__await__()

    def __iter__(self) -> Iterator[str]:
        return iter(self.pieces())

    def __aiter__(self) -> AsyncIterator[str]:
        return aiter(self.pieces())

    def pieces(self, number: int = 0) -> Pieces:
        """The text with this number, from its beginning on, to be iterated over.

        Raises ValueError where there is no such text, and with `best_of`, where it is not known
        before all have ended which they are.
        """
        count = len(self._job.writings)
        if self._job.request.n < count:
            raise ValueError("with best_of there is no text before all have ended: use results()")
        if not isinstance(number, int) or not 0 <= number < count:
            raise ValueError(f"there is no text {shown(number)}: they are 0 to {count - 1}")
        return Pieces(self, number)

    async def _first(self) -> Generation:
        return (await self.results_async())[0]

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise EngineClosed(FORKED)


def _cancel_if_there(cancel: Callable[[Job], None], found: Callable[[], Job | None]) -> None:
    if (job := found()) is not None:
        cancel(job)


class Pieces(Iterator[str], AsyncIterator[str]):
    """A text of a handle in pieces, for `for` and `async for`."""

    def __init__(self, handle: Handle, number: int) -> None:
        """Made by `Handle.pieces`."""
        self._handle = handle
        self._job = handle._job
        self._writing = handle._job.writings[number]
        self._n_shown = 0

    def __next__(self) -> str:
        self._handle._check_process()
        self._handle._news.wait(self._is_new, None)
        piece = self._take()
        if not piece:
            raise StopIteration
        return piece

    async def __anext__(self) -> str:
        self._handle._check_process()
        await self._handle._news.wait_async(self._is_new)
        piece = self._take()
        if not piece:
            raise StopAsyncIteration
        return piece

    def _is_new(self) -> bool:
        writing = self._writing
        # The reason stands after the last piece.
        ended = self._job.is_done or writing.finish_reason is not None
        return ended or len(writing.pieces) > self._n_shown

    def _take(self) -> str:
        ended = self._job.is_done
        pieces = self._writing.pieces[self._n_shown :]
        self._n_shown += len(pieces)
        if not pieces and ended and self._job.error is not None:
            raise self._job.error
        return "".join(pieces)
