"""How work in a thread of its own ends early: Ctrl-C reaches the main thread alone.

The thread obeys an event, which whoever waits for it sets; long work looks at it now and then.
"""

from __future__ import annotations

import threading


class StoppedError(BaseException):
    """Nobody wants the work any more. As KeyboardInterrupt, it is nothing to recover from."""


_thread = threading.local()


def obey(stop: threading.Event) -> None:
    """Let `stop` end the calling thread's work at its next `check_stop`."""
    _thread.stop = stop


def check_stop() -> None:
    """Raise StoppedError where the calling thread's work is no longer wanted."""
    stop: threading.Event | None = getattr(_thread, "stop", None)
    if stop is not None and stop.is_set():
        raise StoppedError
