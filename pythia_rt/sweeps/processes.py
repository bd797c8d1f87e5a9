"""Worker processes of this machine as a concurrent.futures executor that outlives them."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Result = TypeVar("Result")
TRIES = 3


class Processes(Executor):
    """`workers` spawned processes. What one was doing when it died is tried again in a new one, in
    all TRIES times; then the future has BrokenProcessPool. Others go on meanwhile."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._queue: queue.SimpleQueue[tuple[Future[Any], tuple[Any, Any, Any]] | None]
        self._queue = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"sweep worker {i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run `fn` in a process; it, its arguments and its result must pickle."""
        future: Future[Result] = Future()
        self._queue.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes when all is done, or with `cancel_futures` what has begun."""
        if cancel_futures:
            while True:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is not None:
                    item[0].cancel()
        for _ in self._threads:
            self._queue.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _serve(self) -> None:
        pool = None
        try:
            while (item := self._queue.get()) is not None:
                future, (fn, args, kwargs) = item
                if not future.set_running_or_notify_cancel():
                    continue
                for left in reversed(range(TRIES)):
                    if pool is None:
                        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                    try:
                        result = pool.submit(fn, *args, **kwargs).result()
                    except BrokenProcessPool as error:
                        pool.shutdown(wait=False)
                        pool = None
                        if not left:
                            future.set_exception(error)
                    except BaseException as error:
                        future.set_exception(error)
                        break
                    else:
                        future.set_result(result)
                        break
        finally:
            if pool is not None:
                pool.shutdown()
