"""Which of several continuations a model finds likeliest."""

from __future__ import annotations

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, mean, metric
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class Continuations(Metric):
    """Log-likelihoods of continuations of a context, and how often the right one is the likeliest.

    `file` has on each line a JSON object with "context", "continuations", a list of texts as they
    follow, and where there is a right one "answer", its place from 0. Gives accuracy and acc_norm,
    which divides by the characters of a continuation as lm-evaluation-harness does, and
    loglikelihood, the mean of the right ones' (or of all, without answers). The array
    `loglikelihoods` has all of them in order, `counts` how many each line has.
    """

    name = "continuations"

    file: GivenField
    max_lines: int | None = None

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Judge all together."""
        lines = self.file.lines("context", "continuations")[: self.max_lines]
        choices = [self._choices(line["continuations"]) for line in lines]
        pairs = [
            (str(line["context"]), choice)
            for line, found in zip(lines, choices, strict=True)
            for choice in found
        ]
        totals = np.array([score.total for score in model.score_pairs(pairs)])
        counts = np.array([len(found) for found in choices])
        parts = np.split(totals, np.cumsum(counts)[:-1])
        right, normed, likelihoods = [], [], []
        for line, found, part in zip(lines, choices, parts, strict=True):
            if (answer := line.get("answer")) is None:
                likelihoods += list(part)
                continue
            if not isinstance(answer, int) or not 0 <= answer < len(found):
                raise ValueError(
                    f"{self.file.name} has the answer {answer!r} for {len(found)} continuations"
                )
            lengths = np.array([max(1, len(choice.lstrip())) for choice in found])
            right.append(int(part.argmax()) == answer)
            normed.append(int((part / lengths).argmax()) == answer)
            likelihoods.append(part[answer])
        values: list[Value] = []
        if right:
            values = [mean("accuracy", right), mean("acc_norm", normed)]
        values.append(mean("loglikelihood", likelihoods))
        return Measured(values, {"loglikelihoods": totals, "counts": counts})

    def _choices(self, found: object) -> list[str]:
        if not isinstance(found, list) or not found or not all(isinstance(c, str) for c in found):
            raise ValueError(f"{self.file.name} has continuations that are no list of texts")
        return found
