"""A request under way: its texts, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt.engine.drafts import Ids, read_draft
from pythia_rt.generation import Generation
from pythia_rt.writing import Judged, Writing

if TYPE_CHECKING:
    from pythia_rt import _core
    from pythia_rt.engine.request import Request


class Job:
    """The texts of a request, for a `Scheduler`, which alone changes it.

    Others may read `writings` and, once `is_done`, ask for `results`: what they see of a text only
    grows.
    """

    def __init__(
        self,
        request: Request,
        prompt: NDArray[np.int32],
        writings: list[Writing],
        *,
        predicted: Ids | None = None,
        watch: NDArray[np.uint32] | None = None,
        new_hook: Callable[[], object] | None = None,
        session: _core.Session | None = None,
        deadline: float | None = None,
        edits: _core.Edits | None = None,
    ) -> None:
        """`predicted` are the ids of a predicted text. `new_hook` makes what has a say in each
        token of a text (`_core.Writer`). In `session`, if it is given, the prompt waits already, as
        far as it was not read; `deadline` is a time of the scheduler's clock. `edits` are those
        of all its texts."""
        self.request = request
        self.prompt = prompt
        self.writings = writings
        self.draft = read_draft(request.draft)
        self.predicted = predicted if predicted is not None else np.zeros(0, np.int32)
        self.watch = watch
        self.session = session
        self.deadline = deadline
        self.edits = edits
        self.error: BaseException | None = None
        self.is_done = False
        self.hooks = [new_hook() if new_hook is not None else None for _ in writings]
        self.echo: list[Judged] | None = [] if request.echo else None

    @property
    def key(self) -> str:
        """Whose turn it takes."""
        return self.request.key

    @property
    def text(self) -> str:
        """The text so far, of the first of several."""
        return "".join(self.writings[0].pieces)

    def pages(self, page_positions: int) -> int:
        """Pages that its caches need at most, shared ones once. The last token is never read."""
        longest = max(1, -(-(self.writings[0].capacity - 1) // page_positions))
        if len(self.writings) == 1:
            return longest
        shared = len(self.prompt) // page_positions
        # What the prompt's last page holds besides is each text's own, and the first reader's.
        return shared + len(self.writings) * (longest - shared) + 1

    def end(self, error: BaseException | None) -> None:
        """It has ended, well or with an error."""
        self.session = None
        self.error = error
        self.is_done = True  # last, since others read it

    def results(self) -> list[Generation]:
        """The n texts, of best_of the best ones. Raises what the request failed with, and
        ValueError before it has ended."""
        if self.error is not None:
            raise self.error
        if not self.is_done:
            raise ValueError("the request has not ended")
        chosen = self.writings
        if self.request.n < len(chosen):
            # Of equals, the first: sorting is stable.
            chosen = sorted(chosen, key=_mean_logprob, reverse=True)[: self.request.n]
        return [writing.result() for writing in chosen]


def _mean_logprob(writing: Writing) -> float:
    logprobs = writing.logprobs()
    return float(logprobs.mean(dtype=np.float64)) if len(logprobs) else 0.0
