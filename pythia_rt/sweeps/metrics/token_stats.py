"""What a model thinks of every token of a text."""

from __future__ import annotations

import numpy as np

from pythia_rt.insides import token_stats
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, mean, metric
from pythia_rt.sweeps.metrics.distributions import windows_of
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class TokenStats(Metric):
    """Log-probability, entropy, rank and top-1 of each token of a text but the first of a window.

    Windows begin anew. Gives surprisal (in nats), entropy (of the distribution before the token,
    in nats), median_rank and top1; the arrays `log_probability` float32, `entropy` float32, `rank`
    int32 (how many tokens are likelier) and `token` int32 have each one's.
    """

    name = "token_stats"
    version = 2

    text: GivenField
    window: int = 512
    max_tokens: int | None = None

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Read the text once."""
        ids = self.text.ids(model)[: self.max_tokens]
        windows = windows_of(model, ids, self.window)
        if max(map(len, windows), default=0) < 2:
            raise ValueError(f"{self.text.name} has less than two tokens, which predict nothing")
        found = token_stats(model, tuple(windows), window=len(windows[0]))
        tokens, own, entropy, rank, _ = (np.concatenate(each) for each in zip(*found, strict=True))
        values = [
            mean("surprisal", -own),
            mean("entropy", entropy),
            Value("median_rank", float(np.median(rank)), None, len(rank)),
            mean("top1", rank == 0),
        ]
        arrays = {"log_probability": own, "entropy": entropy, "rank": rank, "token": tokens}
        return Measured(values, arrays)
