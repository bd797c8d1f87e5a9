"""How much of training rows a model knows by heart, as the Pythia paper measures it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, mean, metric
from pythia_rt.sweeps.metrics.given import GivenField

_TOGETHER = 256  # texts that are written in passes of their own


@metric
class Memorisation(Metric):
    """The share of a row's tokens that greedy writing gives back: 32 after a prompt of 32.

    `rows` is a .npy of token ids [n, at least prompt + length], as Pythia's training data comes, or
    a text, which is cut into rows. Tokens that end texts are never written, as in the paper's
    script. Gives memorisation, the mean score, and extractable, the share of rows with all tokens;
    the array `score` has each row's.
    """

    name = "memorisation"

    rows: GivenField
    prompt: int = 32
    length: int = 32
    max_rows: int | None = None

    def check(self) -> None:
        """Refuse rows that are too short, too."""
        super().check()
        if (found := self.rows.array()) is not None:
            self._check_width(found)

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Write every row's continuation."""
        rows = self._rows(model)
        forbidden = {int(token): -math.inf for token in model.spec["eos_ids"]}
        shares = []
        for begin in range(0, len(rows), _TOGETHER):
            piece = rows[begin : begin + _TOGETHER]
            texts = model.generate(
                [row[: self.prompt] for row in piece],
                temperature=0,
                max_new_tokens=self.length,
                stop_token_ids=[],
                logit_bias=forbidden,
            )
            written = np.array([text.tokens for text in texts], np.int32)
            shares += list((written == piece[:, self.prompt :]).mean(axis=1))
        score = np.array(shares)
        values = [mean("memorisation", score), mean("extractable", score == 1)]
        return Measured(values, {"score": score})

    def _rows(self, model: Model) -> NDArray[np.int32]:
        """Token ids [n, prompt + length]."""
        width = self.prompt + self.length
        found = self.rows.array()
        if found is None:
            ids = model._ids(self.rows.text())
            found = ids[: len(ids) // width * width].reshape(-1, width)
        self._check_width(found)
        rows = found[: self.max_rows, :width]
        return model._ids(rows.reshape(-1)).reshape(rows.shape)

    def _check_width(self, found: NDArray[Any]) -> None:
        width = self.prompt + self.length
        if found.ndim != 2 or found.shape[1] < width or not len(found):
            raise ValueError(
                f"{self.rows.name} has token ids of shape {found.shape}: memorisation needs rows "
                f"of at least {width}"
            )
