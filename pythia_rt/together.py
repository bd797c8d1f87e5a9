"""Several texts, written in passes through the model that they share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pythia_rt import _core

if TYPE_CHECKING:
    from pythia_rt.writing import Writing

# Texts that are written at a time: as many as a product multiplies at nearly the speed of prompts;
# more would only take more memory for their caches.
_TOGETHER = 32


def write_together(
    writings: Sequence[Writing], new_session: Callable[[int], _core.Session]
) -> None:
    """Write all texts to their ends, each with the tokens that it has alone.

    `new_session` makes a session with room for so many tokens. Texts begin in order, a few dozen at
    a time, and the next one when one has ended. In a pass every text that is being written gets its
    token first; prompts are read in what room is left. Raises what the first text that cannot go on
    raises alone.
    """
    to_come = deque(writings)
    running: list[_Running] = []
    while to_come or running:
        while to_come and len(running) < _TOGETHER:
            writing = to_come.popleft()
            session = new_session(writing.capacity)
            session.append(writing.prompt)
            running.append(_Running(writing, session))
        sampled, failed = _core.step(
            [text.session for text in running], [text.writing.sampler for text in running]
        )
        for index, error in failed:
            text = running[index]
            raise text.writing.explained(text.session, error) from None
        now = time.perf_counter()
        for index, token, logprob in sampled:
            text = running[index]
            text.writing.accept(token, logprob, now - text.since)
            text.since = now
        running = [text for text in running if text.writing.finish_reason is None]


class _Running:
    """A text under way: its session, and since when it waits for its next token."""

    def __init__(self, writing: Writing, session: _core.Session) -> None:
        self.writing = writing
        self.session = session
        self.since = time.perf_counter()
