"""Log-probabilities of texts that are there already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

# Tokens of the texts that are read together: enough that few passes are half empty, few enough for
# the key-value caches of all of them to stay small.
_TOGETHER = 1024


def score(
    model: _core.Model, texts: Sequence[NDArray[np.int32]], kv_format: str
) -> list[NDArray[np.float32]]:
    """ln of the probability of each token but the first of every text, given those before it.

    Texts share passes through the model; each has its own key-value cache of `kv_format` and the
    same result as alone. Memory does not grow with the number of texts.
    """
    found: list[NDArray[np.float32]] = []
    sessions: list[_core.Session] = []
    for group in _groups(texts):
        longest = max(map(len, group))
        if len(sessions) < len(group) or sessions[0].capacity < longest:
            sessions = [_core.Session(model, capacity=longest, kv_format=kv_format) for _ in group]
        chosen = sessions[: len(group)]
        for session in chosen:
            session.rewind(0)
        found += _core.score(chosen, group)
    return found


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
