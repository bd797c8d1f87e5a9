"""How a text is cut into windows: each is one sequence that the models read from its start."""

from __future__ import annotations

from typing import NamedTuple

from pythia_rt.options import integer

_WHOLE = integer(lambda _: True, "a whole number of tokens")
DEFAULT_WINDOW = 512  # tokens; shorter where the context is


class Window(NamedTuple):
    """Tokens [start, stop) of the text, of which the last `new` were in no window before."""

    start: int
    stop: int
    new: int

    @property
    def first_row(self) -> int:
        """The first position in the window whose logits are needed.

        Where tokens before the new ones give context, the last of them predicts the first new one.
        """
        return max(0, self.stop - self.start - self.new - 1)

    @property
    def first_new(self) -> int:
        """The position in the window of its first new token."""
        return self.stop - self.start - self.new


def cut(n_tokens: int, window: int, stride: int) -> list[Window]:
    """The windows of a text of `n_tokens` tokens.

    They start at 0, `stride`, 2 `stride`, ... and hold `window` tokens, the last one perhaps fewer;
    there is none after the first that reaches the end of the text. With `stride` equal to `window`
    they are disjoint, and a single token that remains at the end is left out, since a window of one
    predicts nothing.
    """
    windows: list[Window] = []
    covered = 0
    while covered < n_tokens:
        start = len(windows) * stride
        stop = min(start + window, n_tokens)
        if stop - start < 2:
            break
        windows.append(Window(start, stop, stop - covered))
        covered = stop
    return windows


def choose(window: int | None, stride: int | None, max_positions: int) -> tuple[int, int]:
    """The window and the stride to use in models of so many positions; raises ValueError."""
    if window is None:
        window = min(max_positions, DEFAULT_WINDOW)
    window = _WHOLE("window", window)
    if not 2 <= window <= max_positions:
        raise ValueError(
            f"window must be from 2 to the context of {max_positions} tokens, not {window}: "
            "choose another or leave it out"
        )
    if stride is None:
        stride = window
    stride = _WHOLE("stride", stride)
    if not 1 <= stride <= window:
        raise ValueError(
            f"stride must be from 1 to the window of {window} tokens, not {stride}: "
            "choose another or leave it out"
        )
    return window, stride


def check_max_tokens(max_tokens: int | None) -> None:
    """Raise ValueError unless `max_tokens` is None or a whole number of at least 2."""
    if max_tokens is None:
        return
    if _WHOLE("max_tokens", max_tokens) < 2:
        raise ValueError(f"max_tokens must be at least 2, not {max_tokens}: one predicts nothing")
