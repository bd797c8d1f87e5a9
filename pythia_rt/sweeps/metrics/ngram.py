"""How far a checkpoint's predictions are from those of counts of tokens."""

from __future__ import annotations

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Floats, Measured, Metric, metric
from pythia_rt.sweeps.metrics.distributions import blocks, distances, summed_up
from pythia_rt.sweeps.metrics.given import GivenField, Ids


@metric
class Ngram(Metric):
    """KL(n-gram || checkpoint) and JS after each token of a text; the n-gram model is the counts of
    `counts`, a text or token ids, without smoothing.

    `order` 1 is the frequency of tokens, 2 that of tokens after the one before; of order 2 only
    places count whose token stands in `counts` with one behind it. In nats, as kl_to_bigram and
    js_to_bigram; the arrays `kl` and `js` have each place's.
    """

    name = "ngram"

    text: GivenField
    counts: GivenField
    order: int = 2
    window: int = 512
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse orders that are not counted."""
        if self.order not in (1, 2):
            raise ValueError(
                f"ngram counts single tokens and pairs: order is 1 or 2, not {self.order}"
            )

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Count, then read the text once."""
        size = int(model.spec["vocab_size"])
        counted = self.counts.ids(model)
        ids = self.text.ids(model)[: self.max_tokens]
        following = _following(counted) if self.order == 2 else {}
        unigram = np.bincount(counted, minlength=size) / len(counted)
        kls: list[Floats] = []
        jss: list[Floats] = []
        for start, log_q in blocks(model, ids, min(self.window, model.max_positions)):
            places = np.arange(start, start + len(log_q))
            if self.order == 1:
                p = np.broadcast_to(unigram, log_q.shape)
            else:
                places = np.array([place for place in places if int(ids[place]) in following], int)
                p = np.zeros((len(places), size))
                for row, place in enumerate(places):
                    tokens, shares = following[int(ids[place])]
                    p[row, tokens] = shares
            kl, js = distances(p, log_q[places - start])
            kls.append(kl)
            jss.append(js)
        return summed_up(("to_unigram", "to_bigram")[self.order - 1], kls, jss)


def _following(ids: Ids) -> dict[int, tuple[Ids, Floats]]:
    """What follows each token in `ids`: token -> (tokens, their shares)."""
    order = np.argsort(ids[:-1], kind="stable")
    firsts, seconds = ids[:-1][order], ids[1:][order]
    starts = np.flatnonzero(np.diff(firsts, prepend=-1))
    found = {}
    for first, group in zip(firsts[starts], np.split(seconds, starts[1:]), strict=True):
        tokens, counts = np.unique(group, return_counts=True)
        found[int(first)] = (tokens, counts / len(group))
    return found
