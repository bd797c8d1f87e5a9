"""How far a checkpoint's predictions are from those of another step."""

from __future__ import annotations

from pythia_rt import _core
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, metric
from pythia_rt.sweeps.metrics.distributions import logits_after, summed_up, windows_of
from pythia_rt.sweeps.metrics.given import GivenField
from pythia_rt.sweeps.metrics.whole import whole


@metric
class Divergence(Metric):
    """KL(step's || checkpoint's) and JS of the full distributions after each token of a text.

    In nats, over windows that begin anew: kl_to_step<N> and js_to_step<N>; the arrays `kl` and `js`
    have each token's.
    """

    name = "divergence"
    version = 2
    needs = "to_step"

    text: GivenField
    to_step: int = whole(0)
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
        windows = windows_of(model, ids, min(self.window, reference.max_positions))
        kls, jss = [], []
        pairs = zip(logits_after(model, windows), logits_after(reference, windows), strict=True)
        for (_, ours), (_, theirs) in pairs:
            kl, _, js = _core.divergence(theirs, ours, vocabulary, threads=model.threads)
            kls.append(kl)
            jss.append(js)
        return summed_up(f"to_step{self.to_step}", kls, jss)
