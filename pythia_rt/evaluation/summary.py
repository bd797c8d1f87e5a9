"""What a tally of all tokens amounts to: means, their standard errors, and the comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pythia_rt.evaluation.measures import Floats, Tally
from pythia_rt.evaluation.result import Comparison, Estimate, Side


def compare(tally: Tally, reference: Side, weight_errors: Mapping[str, float] | None) -> Comparison:
    """How the tallied model differs from `reference`, whose logits were tallied beside it."""
    losses, true_losses = np.concatenate(tally.losses), np.concatenate(tally.reference_losses)
    divergences = np.concatenate(tally.divergences)
    # Paired: both models predict the same tokens, so most of the spread is common to them.
    ratio = perplexity(losses - true_losses)
    relative = None
    if tally.largest_logit > 0:
        relative = tally.largest_difference / tally.largest_logit
    return Comparison(
        reference=reference,
        perplexity=perplexity(true_losses),
        perplexity_change=Estimate(ratio.value - 1, ratio.error),
        divergence=mean(divergences),
        divergence_p99=float(np.percentile(divergences, 99)),
        divergence_max=float(divergences.max()),
        top1_agreement=tally.agreements / len(divergences),
        logit_difference=tally.largest_difference,
        relative_logit_difference=relative,
        weight_errors=None if weight_errors is None else dict(weight_errors),
    )


def mean(values: Floats) -> Estimate:
    """The mean of independent values."""
    n = len(values)
    error = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else None
    return Estimate(float(values.mean()), error)


def perplexity(losses: Floats) -> Estimate:
    """exp of the mean; its error is that of the mean times the slope there (the delta method)."""
    loss = mean(losses)
    if loss.value > 700:
        raise ValueError(
            f"the mean loss is {loss.value:.0f} nats per token, so the perplexity is no number: "
            "the weights are damaged, fetch them again"
        )
    value = math.exp(loss.value)
    return Estimate(value, None if loss.error is None else loss.error * value)
