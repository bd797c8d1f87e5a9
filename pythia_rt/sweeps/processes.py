"""Worker processes of this machine as a concurrent.futures executor that outlives them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

from tqdm import tqdm

from pythia_rt.convert.files.system import block_interrupts

Result = TypeVar("Result")
TRIES = 3


class Processes(Executor):
    """`workers` spawned processes. What one was doing when it died is tried again in a new one, in
    all TRIES times; then the future has BrokenProcessPool. Others go on meanwhile.

    They end at once, whatever they are doing, with this process, and when the block that the
    executor is the context of is left by an exception. Ctrl-C does not reach them.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._queue: queue.SimpleQueue[tuple[Future[Any], tuple[Any, Any, Any]] | None]
        self._queue = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._lifelines: set[Connection] = set()
        self._killed = False
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        *_: BaseException | TracebackType | None,
    ) -> None:
        """Shut down; after an exception without waiting for what the processes are doing."""
        if kind is not None:
            with self._lock:
                self._killed = True
                for lifeline in list(self._lifelines):
                    lifeline.close()
        self.shutdown(cancel_futures=kind is not None)

    def _serve(self) -> None:
        # Processes inherit this: a terminal's Ctrl-C is for all of its group.
        block_interrupts()
        pool, lifeline = None, None
        try:
            while (item := self._queue.get()) is not None:
                future, (fn, args, kwargs) = item
                if not future.set_running_or_notify_cancel():
                    continue
                for left in reversed(range(TRIES)):
                    if pool is None or lifeline is None:
                        pool, lifeline = self._process()
                    try:
                        result = pool.submit(fn, *args, **kwargs).result()
                    except BrokenProcessPool as error:
                        pool.shutdown()
                        self._lifelines.discard(lifeline)
                        pool = None
                        if self._killed or not left:
                            future.set_exception(error)
                            break
                    except BaseException as error:
                        future.set_exception(error)
                        break
                    else:
                        future.set_result(result)
                        break
        finally:
            if pool is not None:
                pool.shutdown()

    def _process(self) -> tuple[ProcessPoolExecutor, Connection]:
        """An executor of one process, and our end of a pipe: closing that ends the process."""
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        with self._lock:
            self._lifelines.add(ours)
            if self._killed:
                ours.close()
        return ProcessPoolExecutor(1, context, _end_with, (theirs,)), ours


def _end_with(lifeline: Connection) -> None:
    """End this process when the other end of `lifeline` is closed, or its process has ended."""

    def wait() -> None:
        with contextlib.suppress(EOFError):
            lifeline.recv_bytes()
        os._exit(1)

    # tqdm's own is a semaphore of the system, which a process that ends so would leave behind.
    tqdm.set_lock(threading.RLock())
    threading.Thread(target=wait, name="lifeline", daemon=True).start()
