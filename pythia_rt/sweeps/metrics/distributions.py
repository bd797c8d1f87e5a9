"""Distances between distributions of the next token, in float64 and nats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Floats, Measured, mean
from pythia_rt.sweeps.metrics.given import Ids

_BLOCK_VALUES = 1 << 18  # of logits, whose few copies in float64 stay in a cache of megabytes


def blocks(model: Model, ids: Ids, window: int) -> Iterator[tuple[int, Floats]]:
    """(place of the first, ln of the distribution [n, vocabulary] after each token) of the text,
    read in windows that begin anew."""
    step = max(1, _BLOCK_VALUES // int(model.spec["vocab_size"]))
    for start in range(0, len(ids), window):
        logits = model.logits(ids[start : start + window])
        for row in range(0, len(logits), step):
            yield start + row, log_softmax(logits[row : row + step])


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    """ln of the distributions that rows of logits stand for."""
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    values -= np.log(np.exp(values).sum(axis=1, keepdims=True))
    return values


def kl(p: Floats, log_p: Floats, log_q: Floats) -> Floats:
    """KL(p || q) of each row; where p is 0 it adds nothing."""
    found: Floats = np.where(p > 0, p * (np.where(p > 0, log_p, 0) - log_q), 0).sum(axis=1)
    return np.maximum(found, 0.0)  # rounding alone can take equal ones below 0


def distances(p: Floats, log_q: Floats) -> tuple[Floats, Floats]:
    """KL(p || q) and their Jensen-Shannon divergence, of each row."""
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    q = np.exp(log_q)
    middle = np.log((p + q) / 2)
    return kl(p, log_p, log_q), (kl(p, log_p, middle) + kl(q, log_q, middle)) / 2


def summed_up(what: str, kls: list[Floats], jss: list[Floats]) -> Measured:
    """Means over all tokens, kl_<what> and js_<what>, and arrays of each one's."""
    kl_all, js_all = np.concatenate(kls), np.concatenate(jss)
    values = [mean(f"kl_{what}", kl_all), mean(f"js_{what}", js_all)]
    return Measured(values, {"kl": kl_all, "js": js_all})
