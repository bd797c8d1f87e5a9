"""What is measured at each token, in float64 and over the whole vocabulary.

The vocabulary includes the padding rows beyond the tokenizer's ids: the model computes them, so
their share of the probability is part of its prediction, and transformers counts them too.

Divergences are numpy's, of the exponentials that losses need as well: `_core.divergence`, which
gives the same to 1e-11, takes its own, and `evaluate` with it a third more of the processor's time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [n, vocabulary]
Floats = NDArray[np.float64]

# Values of one block of rows, whose few copies in float64 stay in a cache of megabytes.
_BLOCK_VALUES = 1 << 17


class NotFiniteError(ValueError):
    """Logits that are NaN or infinite; `side` is 0 for the model and 1 for its reference."""

    def __init__(self, side: int, row: int) -> None:
        super().__init__(f"row {row} is not finite")
        self.side = side
        self.row = row


@dataclass
class Tally:
    """The measures of all tokens so far.

    `losses` and `reference_losses` are negative log-likelihoods of the text's tokens, in nats;
    `divergences` are KL(reference || model), in nats. `position_loss` and `position_count` sum the
    losses by position in the window.
    """

    window: int
    losses: list[Floats] = field(default_factory=list)
    reference_losses: list[Floats] = field(default_factory=list)
    divergences: list[Floats] = field(default_factory=list)
    agreements: int = 0
    largest_difference: float = 0.0
    largest_logit: float = 0.0  # of the reference

    def __post_init__(self) -> None:
        self.position_loss = np.zeros(self.window)
        self.position_count = np.zeros(self.window, np.int64)

    def add(
        self,
        logits: Logits,
        reference: Logits | None,
        following: NDArray[np.int32],
        position: int,
        skip: int,
    ) -> None:
        """Add the logits [n, vocabulary] at the positions from `position` on of a window.

        `following` has the token after each of them, and is one shorter where the window ends.
        The first `skip` rows were compared before and count only for what they predict. Raises
        NotFiniteError.
        """
        step = max(1, _BLOCK_VALUES // logits.shape[1])
        for start in range(0, len(logits), step):
            rows = slice(start, start + step)
            self._add_block(
                logits[rows],
                None if reference is None else reference[rows],
                following[rows],
                position,
                start,
                max(0, skip - start),
            )

    def _add_block(
        self,
        logits: Logits,
        reference: Logits | None,
        following: NDArray[np.int32],
        position: int,
        start: int,
        skip: int,
    ) -> None:
        values = logits.astype(np.float64)
        _check_finite(values, 0, start)
        scale, _ = _normalise(values)
        predicting = np.arange(len(following))
        losses = scale[predicting] - values[predicting, following]
        self.losses.append(losses)
        places = slice(position + start, position + start + len(losses))
        self.position_loss[places] += losses
        self.position_count[places] += 1
        if reference is None:
            return

        truth = reference.astype(np.float64)
        _check_finite(truth, 1, start)
        true_scale, probabilities = _normalise(truth)
        self.reference_losses.append(true_scale[predicting] - truth[predicting, following])
        difference = truth - values
        divergences = np.einsum("ij,ij->i", probabilities, difference) - (true_scale - scale)
        # Rounding alone can take the divergence of nearly equal distributions below 0.
        self.divergences.append(np.maximum(divergences, 0.0)[skip:])
        same = logits.argmax(axis=1) == reference.argmax(axis=1)
        self.agreements += int(same[skip:].sum())
        if len(difference) > skip:
            largest = float(np.abs(difference[skip:]).max())
            self.largest_difference = max(self.largest_difference, largest)
            self.largest_logit = max(self.largest_logit, float(np.abs(truth[skip:]).max()))


def _normalise(values: Floats) -> tuple[Floats, Floats]:
    """ln(sum(exp(values))) [n] and softmax(values) [n, vocabulary]."""
    top = values.max(axis=1, keepdims=True)
    weights = np.exp(values - top)
    total = weights.sum(axis=1, keepdims=True)
    weights /= total
    return (top + np.log(total))[:, 0], weights


def _check_finite(values: Floats, side: int, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        raise NotFiniteError(side, start + int(bad[0]))
