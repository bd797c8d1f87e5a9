"""A runner in a process of its own.

Runtimes that share a process share its libraries of threads, and spoil each other's speed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from bench.kinds import Measurement, Work
from bench.peers.protocol import Reads, Runner


class Subject(Protocol):
    """What can be measured: a runner and its work, here or elsewhere."""

    vocab_size: int
    reads: Reads

    def measurement(self, kind: str, vocab_size: int) -> Measurement | None:
        """What measures a kind of work once, in tokens per second; None if it cannot be done."""


class Local:
    """A runner in this process."""

    def __init__(self, runner: Runner, work: Work):
        """Take a runner that is loaded."""
        self._runner, self._work = runner, work
        self.vocab_size: int = runner.vocab_size
        self.reads = runner.reads

    def measurement(self, kind: str, vocab_size: int) -> Measurement | None:
        """See Subject."""
        return self._work.measurement(kind, self._runner, vocab_size)


class Isolated:
    """A runner in a process of its own, which ends with `close` or with this process."""

    def __init__(self, load: Callable[[], Runner], work: Work):
        """Start the process, which calls `load` (anything that can be pickled).

        Raises RuntimeError with the reason if that fails.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, load, work), daemon=True)
        self._process.start()
        theirs.close()
        self.vocab_size: int
        self.reads: Reads
        self.vocab_size, self.reads = self._answer()

    def measurement(self, kind: str, vocab_size: int) -> Measurement | None:
        """See Subject."""
        if not self._ask("can", kind, vocab_size):
            return None
        return lambda: float(self._ask("measure", kind, vocab_size))

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join()

    def _ask(self, *question: object) -> Any:
        self._pipe.send(question)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(f"its process ended with {self._process.exitcode}") from None
        if isinstance(answer, RuntimeError):
            raise answer
        return answer


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _serve(pipe: Connection, load: Callable[[], Runner], work: Work) -> None:
    """Answer questions until nobody is left to ask them."""
    try:
        subject = Local(load(), work)
    except Exception as error:  # whatever a runtime may raise
        pipe.send(RuntimeError(reason(error)))
        return
    pipe.send((subject.vocab_size, subject.reads))
    made: dict[object, Measurement | None] = {}
    while True:
        try:
            verb, *about = pipe.recv()
        except EOFError:
            return
        kind, vocab_size = about
        try:
            if kind not in made:
                made[kind] = subject.measurement(kind, vocab_size)
            measure = made[kind]
            pipe.send(measure is not None if verb == "can" or measure is None else measure())
        except Exception as error:
            pipe.send(RuntimeError(reason(error)))
