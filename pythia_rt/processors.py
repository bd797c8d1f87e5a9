"""Callables of Python that see and change the logits of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# (tokens int32 [n], logits float32 [vocab_size]) -> None, or the logits to take instead
Processor = Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32] | None]


class Processing:
    """Calls processors for one text, as a hook of `_core.Writer`. One thread at a time.

    Each gets the tokens so far, those of the prompt first (int32 [n], not writable), and the logits
    of the next one (float32 [vocab_size], rows of padding included), before penalties, bias and
    temperature. It changes them in place and returns None, or returns others of the same shape and
    type. Minus infinity bans a token. They are called in their order for each token, while no other
    text of the engine goes on: the time of each call is added to every pass.
    """

    masks = False
    changes = True

    def __init__(self, processors: Iterable[Processor], prompt: NDArray[np.int32]) -> None:
        """`prompt` are the tokens that are there already, int32 [n]."""
        self._processors = tuple(processors)
        self._n = len(prompt)
        self._tokens = np.zeros(max(64, 2 * self._n), np.int32)
        self._tokens[: self._n] = prompt

    def change(self, logits: NDArray[np.float32]) -> None:
        """Let each processor change `logits`, [vocab_size].

        Raises what a processor raises, TypeError and ValueError for something else than logits that
        it returns, and ValueError where it leaves NaN or plus infinity.
        """
        tokens = self._tokens[: self._n]
        tokens.flags.writeable = False
        for processor in self._processors:
            found: Any = processor(tokens, logits)
            if found is not None and found is not logits:
                logits[:] = self._checked(processor, found, logits)
            largest = logits.max()
            if not largest < np.inf:  # NaN is the largest of all
                what = "NaN" if np.isnan(largest) else "plus infinity"
                raise ValueError(
                    f"after the processor {_name(processor)} the logit of token "
                    f"{int(np.argmax(logits))} is {what}"
                )

    def accept(self, token: int) -> None:
        """The next token."""
        if self._n == len(self._tokens):
            # Others may hold views of the old array, which stay as they are.
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
        self._tokens[self._n] = token
        self._n += 1

    def copy(self) -> Processing:
        """Another one for a text that goes on from here in another way."""
        return Processing(self._processors, self._tokens[: self._n])

    def _checked(
        self, processor: Processor, found: Any, logits: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if not isinstance(found, np.ndarray) or found.dtype != np.float32:
            kind = found.dtype if isinstance(found, np.ndarray) else type(found).__name__
            raise TypeError(
                f"the processor {_name(processor)} must return None or an array of float32, not "
                f"{kind}"
            )
        if found.shape != logits.shape:
            raise ValueError(
                f"the processor {_name(processor)} must return logits of shape {logits.shape}, not "
                f"{found.shape}"
            )
        return found


def _name(processor: Processor) -> str:
    return str(getattr(processor, "__qualname__", type(processor).__qualname__))
