"""A server that failed is asked again: how often, after which pauses, and when no more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import httpx2

from .rates import pause, wait_of

PAUSE = 1.0  # seconds before the second try; doubled for each further one that brings nothing

T = TypeVar("T")


class AgainError(Exception):
    """An answer without what was asked for, which the next may bring.

    `is_limit`: nothing is wrong, too much was asked. `wait`: for how many seconds the server says
    that nobody is to ask.
    """

    def __init__(self, why: str, wait: float | None = None, *, is_limit: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.is_limit = is_limit


def refusal(response: httpx2.Response) -> AgainError:
    """What an answer means whose status says that it is none."""
    status = response.status_code
    wait = wait_of(response.headers) if status in (429, 503) else None
    if status == 429 or wait is not None:
        return AgainError("the hub's rate limit is used up", wait, is_limit=True)
    return AgainError(f"status {status}")


def keep_asking(
    ask: Callable[[], T],
    lost: Callable[[str], Exception],
    tries: int,
    *,
    waits: int = 0,
    final: tuple[type[Exception], ...] = (httpx2.InvalidURL,),
    progress: Callable[[], int] = lambda: 0,
    stop: threading.Event | None = None,
) -> T:
    """Return what `ask` does, called again where it raises AgainError or loses its connection.

    That is done until `tries` in a row have brought nothing: where parts of an answer stay,
    `progress` says how much there is. The first `waits` limits are no tries. No second one follows
    what is `final`. Then raises `lost(why)`, and at once whatever else `ask` raises; a `stop` that
    is set ends pauses, and `ask` is to see it. Raises ConnectionError for a wait that is too long.
    """
    stop = stop or threading.Event()
    fruitless = limited = most = 0
    while True:
        most = max(most, progress())
        wait, is_limit = None, False
        try:
            return ask()
        except AgainError as reason:
            why, wait, is_limit = str(reason), reason.wait, reason.is_limit
        except (httpx2.RequestError, httpx2.InvalidURL) as reason:
            why = type(reason).__name__
            if isinstance(reason, final):
                raise lost(why) from None
        if is_limit and limited < waits:
            limited += 1
            pause(PAUSE if wait is None else wait, stop)
            continue
        fruitless = 0 if progress() > most else fruitless + 1
        if fruitless >= tries:
            raise lost(why)
        usual = PAUSE * 2 ** (fruitless - 1) if fruitless else 0.0
        pause(usual if wait is None else wait, stop)
