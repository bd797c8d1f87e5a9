"""What attention heads look at."""

from __future__ import annotations

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, metric
from pythia_rt.sweeps.metrics.whole import whole

KINDS = ("previous", "duplicate", "induction")


@metric
class HeadScores(Metric):
    """`pythia_rt.insides.head_scores` of every kind, on `rows` sequences of `length` random tokens
    that come twice, of the ids from `low` to below `high`, by default all that the tokenizer has.

    Gives previous_head, duplicate_head and induction_head, each the largest of all heads; the
    arrays `previous`, `duplicate` and `induction`, float32 [layers, heads], have every head's.
    """

    name = "head_scores"

    rows: int = 8
    length: int = whole(2, default=64)
    seed: int = whole(0, default=0)
    low: int = whole(0, default=0)
    high: int | None = None

    def check(self) -> None:
        """Refuse ids of which there is none."""
        if self.high is not None and self.high <= self.low:
            raise ValueError(f"there are no ids from low {self.low} to below high {self.high}")

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Draw the tokens, and see where each head looks."""
        from pythia_rt.insides import head_scores

        if 2 * self.length > model.max_positions:
            raise ValueError(
                f"length {self.length} of head_scores does not fit twice into the context of "
                f"{model.max_positions} tokens: choose a shorter one"
            )
        high = model.spec["n_tokens"] if self.high is None else self.high
        if not 0 <= self.low < high <= model.spec["vocab_size"]:
            raise ValueError(f"the model has no ids from low {self.low} to below high {high}")
        draw = np.random.default_rng(self.seed)
        drawn = draw.integers(self.low, high, (self.rows, self.length), dtype=np.int32)
        texts = list(np.concatenate([drawn, drawn], axis=1))
        arrays = {kind: head_scores(model, texts, kind) for kind in KINDS}
        n = 2 * drawn.size
        values = [Value(f"{k}_head", float(found.max()), None, n) for k, found in arrays.items()]
        return Measured(values, arrays)
