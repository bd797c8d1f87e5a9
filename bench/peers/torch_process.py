"""Asks torch about its CUDA device in a process of its own.

What torch brings into a process, its CUDA libraries above all, is then not beside what is measured,
and if it ends its process the comparison goes on without it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")

_pool: ProcessPoolExecutor | None = None


def call(
    function: Callable[_Arguments, _Answer],
    *arguments: _Arguments.args,
    **named: _Arguments.kwargs,
) -> _Answer:
    """Call a function of a module there, always in the same process, and return its answer.

    Raises what it raises, and RuntimeError if its process ended; the next call starts another.
    """
    global _pool
    if _pool is None:
        context = multiprocessing.get_context("spawn")
        _pool = ProcessPoolExecutor(max_workers=1, mp_context=context)
    try:
        return _pool.submit(function, *arguments, **named).result()
    except BrokenProcessPool:
        _pool = None
        raise RuntimeError("torch ended its process") from None
