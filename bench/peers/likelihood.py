"""Log-likelihoods from logits, for runtimes that compute none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bench.peers.protocol import Tokens

Floats = NDArray[np.float32]


def log_likelihoods(logits: Floats, tokens: Tokens, threads: int) -> Floats:
    """Of each token but the first, from the logits [n, vocabulary] after every one."""
    found = np.empty(len(tokens) - 1, np.float32)

    def judge(first: int) -> None:
        # Row by row: what a row needs stays in the cache.
        for i in range(first, len(found), threads):
            row = logits[i]
            top = row.max()
            found[i] = row[tokens[i + 1]] - top - np.log(np.exp(row - top).sum())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(judge, range(threads)))
    return found
