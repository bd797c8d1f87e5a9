"""What contexts have in common, as a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]

# Fewer tokens in common are read again: a branch costs a copy of a page of the cache, and what is
# on it waits for a pass.
_WORTH_SHARING = 16


@dataclass(eq=False)
class Branch:
    """`tokens` that some texts have in common behind those of the branch that it grows from, the
    branches that grow from it, and the numbers of the texts that end with it."""

    tokens: Ids
    branches: list[Branch] = field(default_factory=list)
    texts: list[int] = field(default_factory=list)


def grow(texts: Sequence[Ids]) -> Branch:
    """The tree of `texts` [n_i], int32. Its root has no tokens.

    Equal texts end at the same branch; others have one in common where they agree in enough tokens.
    """
    # Their order as bytes is that of the numbers, so what agrees stands together.
    order = sorted(range(len(texts)), key=lambda number: texts[number].astype(">i4").tobytes())
    sorted_texts = [texts[number] for number in order]
    agree = [0, *map(_agreement, sorted_texts, sorted_texts[1:])]  # with the one before
    root = Branch(np.zeros(0, np.int32))
    growing = [(root, 0, len(order), 0)]  # a branch, those it is of, how long they are there
    while growing:
        branch, begin, end, length = growing.pop()
        while begin < end:
            text = sorted_texts[begin]
            if len(text) == length:
                branch.texts.append(order[begin])
                begin += 1
                continue
            stop = begin + 1
            while stop < end and (
                agree[stop] >= length + _WORTH_SHARING
                or agree[stop] == len(text) == len(sorted_texts[stop])
            ):
                stop += 1
            shared = min(agree[begin + 1 : stop], default=len(text))
            child = Branch(text[length:shared])
            branch.branches.append(child)
            growing.append((child, begin, stop, shared))
            begin = stop
    return root


def _agreement(a: Ids, b: Ids) -> int:
    """How many tokens both begin with."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
