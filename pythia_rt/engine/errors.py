"""What ends a request, or refuses it, for other reasons than what it asks."""

from __future__ import annotations


class EngineClosed(RuntimeError):  # noqa: N818
    """The engine was closed, its thread has failed, or this process is a fork of the one it is
    in."""


class QueueFull(RuntimeError):  # noqa: N818
    """As many requests wait as may: submit again later."""


class Unfinished(RuntimeError):  # noqa: N818
    """A text ended before its end; `text` is what there was of it, of the first of several."""

    def __init__(self, sentence: str, text: str = "") -> None:
        super().__init__(sentence)
        self.text = text


class Cancelled(Unfinished):
    """The request was cancelled."""


class DeadlineExceeded(Unfinished):
    """The request's time was over."""
