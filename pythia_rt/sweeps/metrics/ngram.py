"""How far a checkpoint's predictions are from those of counts of tokens."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Floats, Measured, Metric, metric
from pythia_rt.sweeps.metrics.distributions import Logits, logits_after, summed_up, windows_of
from pythia_rt.sweeps.metrics.given import GivenField, Ids
from pythia_rt.sweeps.metrics.whole import whole

_TOGETHER = 64  # rows, whose counts are as wide as the vocabulary


@metric
class Ngram(Metric):
    """KL(n-gram || checkpoint) and JS after each token of a text; the n-gram model is the counts of
    `counts`, a text or token ids, without smoothing.

    `order` 1 is the frequency of tokens, 2 that of tokens after the one before; of order 2 only
    places count whose token stands in `counts` with one behind it. In nats, as kl_to_bigram and
    js_to_bigram; the arrays `kl` and `js` have each place's.
    """

    name = "ngram"
    version = 2

    text: GivenField
    counts: GivenField
    order: int = whole(1, 2, what="1 (single tokens) or 2 (pairs)", default=2)
    window: int = 512
    max_tokens: int | None = None

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Count, then read the text once."""
        size = int(model.spec["vocab_size"])
        counted = self.counts.ids(model)
        ids = self.text.ids(model)[: self.max_tokens]
        following = _following(counted) if self.order == 2 else {}
        unigram = np.bincount(counted, minlength=size).astype(np.float64)
        kls: list[Floats] = []
        jss: list[Floats] = []
        for logits, before in _blocks(model, ids, self.window):
            if self.order == 1:
                rows, counts = logits, np.broadcast_to(unigram, logits.shape)
            else:
                known = [row for row, token in enumerate(before) if token in following]
                rows, counts = logits[known], np.zeros((len(known), size))
                for into, row in zip(counts, known, strict=True):
                    tokens, times = following[before[row]]
                    into[tokens] = times
            _, kl, js = _core.divergence_from_shares(rows, counts, threads=model.threads)
            kls.append(kl)
            jss.append(js)
        return summed_up(("to_unigram", "to_bigram")[self.order - 1], kls, jss)


def _blocks(model: Model, ids: Ids, window: int) -> Iterator[tuple[Logits, list[int]]]:
    """A few logits at a time, and the tokens that they come after."""
    for start, logits in logits_after(model, windows_of(model, ids, window)):
        for row in range(0, len(logits), _TOGETHER):
            few = logits[row : row + _TOGETHER]
            yield few, ids[start + row : start + row + len(few)].tolist()


def _following(ids: Ids) -> dict[int, tuple[Ids, NDArray[np.int64]]]:
    """What follows each token in `ids`: token -> (tokens, how often)."""
    order = np.argsort(ids[:-1], kind="stable")
    firsts, seconds = ids[:-1][order], ids[1:][order]
    starts = np.flatnonzero(np.diff(firsts, prepend=-1))
    found = {}
    for first, group in zip(firsts[starts], np.split(seconds, starts[1:]), strict=True):
        tokens, counts = np.unique(group, return_counts=True)
        found[int(first)] = (tokens, counts)
    return found
