"""Who has a say in each token of a text: a grammar, processors, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from pythia_rt.processors import Processing, Processor

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile.spec import Spec
    from pythia_rt.grammar import Constraint, Follower
    from pythia_rt.tokenizer import Tokenizer


class Hook(Protocol):
    """What `_core.Writer` calls, for each token of a text in order.

    `change` is called where `changes`, `allowed` where `masks`; what they raise ends the text.
    """

    @property
    def masks(self) -> bool:
        """Whether it says what may come."""

    @property
    def changes(self) -> bool:
        """Whether it changes logits."""

    def accept(self, token: int) -> None:
        """The next token."""


class Both:
    """Processors change the logits, and a grammar says which tokens may come."""

    masks = True
    changes = True

    def __init__(self, follower: Follower, processing: Processing) -> None:
        """Call both."""
        self.allowed = follower.allowed
        self.change = processing.change
        self._parts = follower, processing

    def accept(self, token: int) -> None:
        """The next token."""
        for part in self._parts:
            part.accept(token)

    def copy(self) -> Both:
        """Another one for a text that goes on from here in another way."""
        follower, processing = self._parts
        return Both(follower.copy(), processing.copy())


def hook_maker(
    constraint: Constraint | None,
    processors: Iterable[Processor],
    *,
    tokenizer: Tokenizer | None,
    spec: Spec,
    prompt: NDArray[np.int32],
    stop_ids: Iterable[int] = (),
) -> Callable[[], Hook] | None:
    """What makes the hook of each text that goes on from `prompt`, int32 [n]; None where none is
    needed. The grammar is compiled here, if this tokenizer has not met it before.

    Raises ValueError and ImportError as `Constraint.compiled` does, and ValueError for a grammar
    where there is no tokenizer.
    """
    processors = tuple(processors)
    if constraint is None:
        return (lambda: Processing(processors, prompt)) if processors else None
    if tokenizer is None:
        raise ValueError("this model has no tokenizer, so a grammar cannot be followed")
    stops = frozenset(stop_ids)
    compiled = constraint.compiled(tokenizer, n_tokens=spec["n_tokens"], end_ids=spec["eos_ids"])
    if not processors:
        return lambda: compiled.start(stops)
    return lambda: Both(compiled.start(stops), Processing(processors, prompt))
