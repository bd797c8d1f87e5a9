"""Whether the last word of passages is foreseen, as LAMBADA asks."""

from __future__ import annotations

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, exponential, mean, metric
from pythia_rt.sweeps.metrics.given import GivenField


@metric
class LastWords(Metric):
    """Accuracy and perplexity of the last word of each text, given all before its last space.

    `file` has a JSON object {"text": ...} on each line. As in lm-evaluation-harness' lambada: the
    answer is right if all its tokens were the likeliest, and the perplexity is of words.
    """

    name = "last_words"

    file: GivenField
    max_texts: int | None = None

    def check(self) -> None:
        """Refuse lines that are no texts with a last word."""
        self._pairs()

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Judge all last words together."""
        scores = model.score_pairs(self._pairs())
        nats = mean("nats_per_word", (-score.total for score in scores))
        right = mean("last_words", (score.is_greedy for score in scores))
        return Measured([right, exponential("word_perplexity", nats)])

    def _pairs(self) -> list[tuple[str, str]]:
        """What stands before each last word, and that."""
        pairs = []
        for line in self.file.lines("text")[: self.max_texts]:
            context, space, word = str(line["text"]).rpartition(" ")
            if not space or not word:
                raise ValueError(f"{self.file.name} has a text without a last word: {line!r:.80}")
            pairs.append((context, " " + word))
        return pairs
