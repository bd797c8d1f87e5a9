"""The hub's rate limits: how long an answer says to wait, and who waits for it.

429 comes with `ratelimit: "api";r=0;t=55`: what remains of the window, and seconds to the next
(IETF draft-ietf-httpapi-ratelimit-headers); other servers send Retry-After, seconds or a date.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 900.0  # seconds; the hub's windows have 300
_REMAINING = re.compile(r"\br\s*=\s*(\d{1,12})\s*;\s*t\s*=\s*(\d{1,12})(?!\d)", re.ASCII)
_LONGEST_SAID = 1e9  # seconds, of what a server may say
_SAID_FROM = 5.0  # seconds: shorter waits are no news


class Pace:
    """When requests of one kind may go on; shared by the threads that make them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def observe(self, headers: Mapping[str, str]) -> None:
        """Note what an answer's headers say: none goes out before a used-up window is over."""
        match = _REMAINING.search(headers.get("ratelimit") or "")
        if match and int(match[1]) == 0:
            with self._lock:
                self._next = max(self._next, time.monotonic() + int(match[2]))

    def wait(self, stop: threading.Event) -> None:
        """Return when a request may be made, or `stop` is set.

        Raises ConnectionError where that is in more than LONGEST_WAIT seconds.
        """
        with self._lock:
            seconds = self._next - time.monotonic()
        pause(seconds, stop)


def pause(seconds: float, stop: threading.Event) -> None:
    """Wait, with a warning where that is long; `stop` ends it.

    Raises ConnectionError for more than LONGEST_WAIT seconds.
    """
    if seconds > LONGEST_WAIT:
        raise ConnectionError(
            f"the hub's rate limit is used up for {seconds:.0f} s more: try again later, or log in "
            "with hf auth login for a higher one"
        )
    if seconds >= _SAID_FROM:
        warnings.warn(f"the hub's rate limit is used up: going on in {seconds:.0f} s", stacklevel=2)
    if seconds > 0:
        stop.wait(seconds)


def wait_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that the headers of an answer with status 429 or 503 say to wait, if any."""
    match = _REMAINING.search(headers.get("ratelimit") or "")
    if match and int(match[1]) == 0:
        return float(match[2])
    text = headers.get("retry-after") or ""
    if text.isascii() and text.isdecimal():
        return min(float(text), _LONGEST_SAID)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:  # "-0000": UTC, from who does not know the place
        until = until.replace(tzinfo=timezone.utc)
    seconds = (until - datetime.now(timezone.utc)).total_seconds()
    return min(seconds, _LONGEST_SAID) if seconds > 0 else None
