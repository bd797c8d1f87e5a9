"""How many texts are read together."""

from __future__ import annotations

from collections.abc import Iterable

# Tokens: enough that few passes are half empty, few enough for the key-value caches of all of them
# to stay small.
TOGETHER = 1024


def n_together(sizes: Iterable[int]) -> int:
    """Of texts that come next, of so many tokens each, how many: the first, if there is one, and
    those after it that fit into TOGETHER tokens with it."""
    total = count = 0
    for size in sizes:
        total += size
        if count > 0 and total > TOGETHER:
            break
        count += 1
    return count
