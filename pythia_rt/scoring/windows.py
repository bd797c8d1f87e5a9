"""How a text of any length is cut into what a model reads at once.

As lm-evaluation-harness cuts it for its rolling log-likelihood, whose prefix token is the text's
first: every other token is predicted exactly once, and as many tokens come before it as its window
has room for. `pythia_rt.evaluation` cuts otherwise, and does not predict a window's first token.
"""

from __future__ import annotations

from typing import NamedTuple

from pythia_rt.options import whole_number_from


class Window(NamedTuple):
    """Tokens [start, stop - 1) of the text are read; of tokens [first, stop) each is predicted from
    those before it."""

    start: int
    first: int
    stop: int


def cut(n_tokens: int, window: int, stride: int) -> list[Window]:
    """The windows of a text of `n_tokens` tokens.

    The first one predicts `window` tokens, every other one the next `stride` ones, as far as there
    are any; all read `window` tokens, unless the text is shorter.
    """
    windows: list[Window] = []
    first = 1
    while first < n_tokens:
        stop = min(first + (stride if windows else window), n_tokens)
        windows.append(Window(max(stop - 1 - window, 0), first, stop))
        first = stop
    return windows


def choose(window: int | None, stride: int | None, max_positions: int) -> tuple[int, int]:
    """The window and the stride to use in a model of so many positions; raises ValueError."""
    if window is None:
        window = max_positions
    window = whole_number_from(1, max_positions, "tokens")("window", window)
    if stride is None:
        stride = window
    return window, whole_number_from(1, window, "tokens")("stride", stride)
