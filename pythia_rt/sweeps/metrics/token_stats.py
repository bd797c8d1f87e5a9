"""What a model thinks of every token of a text."""

from __future__ import annotations

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, mean, metric
from pythia_rt.sweeps.metrics.distributions import blocks
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class TokenStats(Metric):
    """Log-probability, entropy, rank and top-1 of each token of a text but the first of a window.

    Windows begin anew. Gives surprisal (in nats), entropy (of the distribution before the token,
    in nats), median_rank and top1; the arrays `log_probability` float32, `entropy` float32, `rank`
    int32 (how many tokens are likelier) and `token` int32 have each one's.
    """

    name = "token_stats"

    text: GivenField
    window: int = 512
    max_tokens: int | None = None

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Read the text once."""
        ids = self.text.ids(model)[: self.max_tokens]
        window = min(self.window, model.max_positions)
        log_probabilities, entropies, ranks, tokens = [], [], [], []
        for start, log_q in blocks(model, ids, window):
            places = np.arange(start, start + len(log_q))
            inside = ((places + 1) % window != 0) & (places + 1 < len(ids))
            log_q, following = log_q[inside], ids[places[inside] + 1]
            own = log_q[np.arange(len(following)), following]
            log_probabilities.append(own)
            entropies.append(-(np.exp(log_q) * log_q).sum(axis=1))
            ranks.append((log_q > own[:, None]).sum(axis=1))
            tokens.append(following)
        own, entropy, rank = map(np.concatenate, (log_probabilities, entropies, ranks))
        if not len(own):
            raise ValueError(f"{self.text.name} has less than two tokens, which predict nothing")
        values = [
            mean("surprisal", -own),
            mean("entropy", entropy),
            Value("median_rank", float(np.median(rank)), None, len(rank)),
            mean("top1", rank == 0),
        ]
        arrays = {
            "log_probability": own.astype(np.float32),
            "entropy": entropy.astype(np.float32),
            "rank": rank.astype(np.int32),
            "token": np.concatenate(tokens),
        }
        return Measured(values, arrays)
