"""Which of several continuations a model finds likeliest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, mean, metric
from pythia_rt.sweeps.metrics.given import GivenField


class _Asked(NamedTuple):
    """A line of the file."""

    context: str
    choices: list[str]
    answer: int | None  # a place in `choices`


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

    def check(self) -> None:
        """Refuse lines without continuations, and answers that are none of them."""
        self._asked()

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Judge all together."""
        asked = self._asked()
        pairs = [(each.context, choice) for each in asked for choice in each.choices]
        totals = np.array([score.total for score in model.score_pairs(pairs)])
        counts = np.array([len(each.choices) for each in asked])
        parts = np.split(totals, np.cumsum(counts)[:-1])
        right, normed, likelihoods = [], [], []
        for each, part in zip(asked, parts, strict=True):
            if each.answer is None:
                likelihoods += list(part)
                continue
            lengths = np.array([max(1, len(choice.lstrip())) for choice in each.choices])
            right.append(int(part.argmax()) == each.answer)
            normed.append(int((part / lengths).argmax()) == each.answer)
            likelihoods.append(part[each.answer])
        values: list[Value] = []
        if right:
            values = [mean("accuracy", right), mean("acc_norm", normed)]
        values.append(mean("loglikelihood", likelihoods))
        return Measured(values, {"loglikelihoods": totals, "counts": counts})

    def _asked(self) -> list[_Asked]:
        found = []
        for line in self.file.lines("context", "continuations")[: self.max_lines]:
            choices, answer = line["continuations"], line.get("answer")
            if (
                not isinstance(choices, list)
                or not choices
                or not all(isinstance(choice, str) for choice in choices)
            ):
                raise ValueError(f"{self.file.name} has continuations that are no list of texts")
            if answer is not None and (
                not isinstance(answer, int) or not 0 <= answer < len(choices)
            ):
                raise ValueError(
                    f"{self.file.name} has the answer {answer!r} for {len(choices)} continuations"
                )
            found.append(_Asked(str(line["context"]), choices, answer))
        return found
