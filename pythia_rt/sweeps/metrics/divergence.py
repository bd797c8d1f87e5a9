"""How far a checkpoint's predictions are from those of another step."""

from __future__ import annotations

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, metric
from pythia_rt.sweeps.metrics.distributions import blocks, distances, summed_up
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class Divergence(Metric):
    """KL(step's || checkpoint's) and JS of the full distributions after each token of a text.

    In nats, over windows that begin anew: kl_to_step<N> and js_to_step<N>; the arrays `kl` and `js`
    have each token's.
    """

    name = "divergence"
    needs = "to_step"

    text: GivenField
    to_step: int
    window: int = 512
    max_tokens: int | None = None

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Read the text with both models, window by window."""
        if reference is None:
            raise ValueError("a divergence needs the other step's model")
        vocabulary = model.spec["vocab_size"]
        if reference.spec["vocab_size"] != vocabulary:
            raise ValueError("the two steps have vocabularies of different sizes")
        ids = self.text.ids(model)[: self.max_tokens]
        window = min(self.window, model.max_positions)
        kls, jss = [], []
        pairs = zip(blocks(model, ids, window), blocks(reference, ids, window), strict=True)
        for (_, log_q), (_, log_p) in pairs:
            kl, js = distances(np.exp(log_p), log_q)
            kls.append(kl)
            jss.append(js)
        return summed_up(f"to_step{self.to_step}", kls, jss)
