"""How well a text is predicted."""

from __future__ import annotations

import math

import numpy as np

from pythia_rt.model import Model
from pythia_rt.scoring.windows import choose
from pythia_rt.sweeps.metrics.base import (
    Measured,
    Metric,
    Value,
    exponential,
    mean,
    metric,
    predicted,
)
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class Perplexity(Metric):
    """Perplexity of a text, or of a .npy of token ids, read as `Model.perplexity` reads it.

    Gives perplexity, nats_per_token, bits_per_byte (of a whole text) and top1, the share of tokens
    that were the likeliest.
    """

    name = "perplexity"

    text: GivenField
    window: int | None = None
    stride: int | None = None
    max_tokens: int | None = None

    def check(self) -> None:
        """Refuse strides that would leave tokens out, too."""
        super().check()
        if self.window is not None and self.stride is not None:
            choose(self.window, self.stride, self.window)

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Read the text once."""
        ids = predicted(model, self.text, self.max_tokens)
        (score,) = model.score([ids], window=self.window, stride=self.stride)
        nats = mean("nats_per_token", -score.log_probabilities.astype(np.float64))
        values = [exponential("perplexity", nats), nats]
        if self.text.array() is None and self.max_tokens is None:
            scale = nats.n / len(self.text.text().encode()) / math.log(2)
            error = None if nats.stderr is None else nats.stderr * scale
            values.append(Value("bits_per_byte", nats.value * scale, error, nats.n))
        values.append(mean("top1", score.is_likeliest))
        return Measured(values)
