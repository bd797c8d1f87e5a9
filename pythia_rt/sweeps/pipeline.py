"""Work in three stages of one process: while a checkpoint is measured, the next one is converted
and the one after that fetched."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pythia_rt.convert.stopping import obey

Item = TypeVar("Item")
Half = TypeVar("Half")
Whole = TypeVar("Whole")

AHEAD = 2  # checkpoints on the disk besides the one that is measured


def staged(
    items: Iterable[Item], first: Callable[[Item], Half], second: Callable[[Half], Whole]
) -> Iterator[tuple[Item, Future[Whole]]]:
    """Each of `items` in order, with what `second` makes of what `first` makes of it.

    Both run in threads of their own, for the AHEAD items after the one that was given last. When
    the caller leaves, what they are doing is stopped.
    """
    stop = threading.Event()
    waiting: deque[tuple[Item, Future[Whole]]] = deque()
    firsts, seconds = (
        ThreadPoolExecutor(1, name, initializer=obey, initargs=(stop,))
        for name in ("fetching", "converting")
    )

    def follow(half: Future[Half]) -> Whole:
        return second(half.result())

    try:
        for item in items:
            waiting.append((item, seconds.submit(follow, firsts.submit(first, item))))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        stop.set()
        for pool in (firsts, seconds):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (firsts, seconds):
            pool.shutdown(wait=True)
