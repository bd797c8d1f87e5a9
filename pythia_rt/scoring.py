"""Log-probabilities of texts that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

# Tokens of the texts that are read together: enough that few passes are half empty, few enough for
# the key-value caches of all of them to stay small.
_TOGETHER = 1024


# Tokens whose logits are looked through at a time: 12 MB with a vocabulary of 50,000.
_LOOKED_THROUGH = 64


@dataclass(frozen=True, eq=False)
class Score:
    """What a model thinks of the n - 1 tokens of a text of n that have something before them.

    `log_probabilities`, float32 [n - 1], are ln of each one's probability given those before it;
    `is_likeliest`, bool [n - 1], says whether no other token was likelier. Where the `top`
    likeliest tokens were asked for, `top_ids`, int32 [n - 1, top], names them, the likeliest first
    and of equals the lower id, and `top_log_probabilities` has theirs.
    """

    log_probabilities: NDArray[np.float32]
    is_likeliest: NDArray[np.bool_]
    top_ids: NDArray[np.int32] | None = None
    top_log_probabilities: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.log_probabilities)

    @property
    def total(self) -> float:
        """ln of the probability of the whole text, given its first token."""
        return float(self.log_probabilities.sum(dtype=np.float64))

    @property
    def is_greedy(self) -> bool:
        """Whether each of its tokens was the likeliest."""
        return bool(self.is_likeliest.all())


def score(model: _core.Model, texts: Sequence[NDArray[np.int32]], kv_format: str) -> list[Score]:
    """Judge each token but the first of every text.

    Texts share passes through the model; each has its own key-value cache of `kv_format` and the
    same result as alone. Memory does not grow with the number of texts.
    """
    found: list[Score] = []
    sessions: list[_core.Session] = []
    for group in _groups(texts):
        longest = max(map(len, group))
        if len(sessions) < len(group) or sessions[0].capacity < longest:
            sessions = [_core.Session(model, capacity=longest, kv_format=kv_format) for _ in group]
        chosen = sessions[: len(group)]
        for session in chosen:
            session.rewind(0)
        found += [Score(*scores) for scores in _core.score(chosen, group)]
    return found


def with_top(found: Score, session: _core.Session, text: NDArray[np.int32], count: int) -> Score:
    """`found`, a score of `text`, with the `count` likeliest tokens. `session` is empty."""
    ids = np.zeros((len(found), count), np.int32)
    log_probabilities = np.zeros((len(found), count), np.float32)
    for begin in range(0, len(found), _LOOKED_THROUGH):
        place = slice(begin, min(begin + _LOOKED_THROUGH, len(found)))
        ids[place], log_probabilities[place] = _core.top(session.logits(text[place]), count)
    return replace(found, top_ids=ids, top_log_probabilities=log_probabilities)


def _groups(texts: Sequence[NDArray[np.int32]]) -> Iterator[list[NDArray[np.int32]]]:
    """Cut the list of texts into pieces whose caches together hold no more than _TOGETHER tokens,
    or one text."""
    group: list[NDArray[np.int32]] = []
    for text in texts:
        if group and (len(group) + 1) * max(len(text), *map(len, group)) > _TOGETHER:
            yield group
            group = []
        group.append(text)
    if group:
        yield group
