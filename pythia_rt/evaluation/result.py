"""The result of an evaluation: numbers with names, to JSON and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.errors import quote

MAX_TEXT = 200  # characters of a name in a report
_ARRAYS = {"token_divergences", "position_losses"}


@dataclass(frozen=True)
class Estimate:
    """A mean over tokens, or what follows from one, and its standard error.

    The error takes the tokens as independent, as is usual; it is None for a single token.
    """

    value: float
    error: float | None


@dataclass(frozen=True)
class Side:
    """One of the models: what it was made from and how it ran."""

    source: str
    recipe: str  # of the weights' formats
    data_sha256: str  # of the flat file's data
    isa: str
    kv_format: str


@dataclass(frozen=True)
class Comparison:
    """How a model differs from its reference.

    Divergences are KL(reference || model) in nats per token. `perplexity_change` is a fraction of
    the reference's perplexity, and its error that of the paired difference, much smaller than
    those of the two perplexities. `logit_difference` is the largest absolute one, and
    `relative_logit_difference` that by the reference's largest absolute logit, None if that is 0.
    `weight_errors` is {matrix: sqrt(sum (w - w_ref)^2 / sum w_ref^2)}, None if not asked for.
    """

    reference: Side
    perplexity: Estimate
    perplexity_change: Estimate
    divergence: Estimate
    divergence_p99: float
    divergence_max: float
    top1_agreement: float  # the part of the tokens where both have the same most likely one
    logit_difference: float
    relative_logit_difference: float | None
    weight_errors: dict[str, float] | None


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text and, if there was one, how far it is from a reference.

    `tokens` were read in windows of `window` tokens, `stride` apart; `predicted` of them had a
    token before them in their window and count for the perplexity, `compared` distributions for
    the comparison. `tokens_sha256` is over the ids as little-endian int32.

    The arrays are for plots and no part of `to_dict`: the divergence of each compared token, and
    the mean negative log-likelihood of the token after each position of the window (NaN where
    nothing was predicted).
    """

    model: Side
    tokens: int
    tokens_sha256: str
    window: int
    stride: int
    predicted: int
    compared: int
    perplexity: Estimate
    comparison: Comparison | None
    token_divergences: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)
    position_losses: NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the arrays, as JSON values."""
        facts: dict[str, Any] = {
            "model": dict(vars(self.model)),
            "tokens": self.tokens,
            "tokens_sha256": self.tokens_sha256,
            "window": self.window,
            "stride": self.stride,
            "predicted": self.predicted,
            "compared": self.compared,
            "perplexity": dict(vars(self.perplexity)),
            "comparison": None,
        }
        if self.comparison is not None:
            facts["comparison"] = {
                name: dict(vars(value)) if isinstance(value, (Side, Estimate)) else value
                for name, value in vars(self.comparison).items()
            }
        return facts

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` described; its arrays are lost.

        Raises ValueError, saying in a few words what is wrong, for anything else.
        """
        _check_keys(facts, set(cls.__dataclass_fields__) - _ARRAYS, "it")
        comparison = facts["comparison"]
        return cls(
            model=_side(facts["model"], "its model"),
            tokens=_count(facts["tokens"], "tokens"),
            tokens_sha256=_text(facts["tokens_sha256"], "tokens_sha256"),
            window=_count(facts["window"], "window"),
            stride=_count(facts["stride"], "stride"),
            predicted=_count(facts["predicted"], "predicted"),
            compared=_count(facts["compared"], "compared"),
            perplexity=_estimate(facts["perplexity"], "perplexity"),
            comparison=None if comparison is None else _comparison(comparison),
        )


def _comparison(facts: Any) -> Comparison:
    _check_keys(facts, set(Comparison.__dataclass_fields__), "its comparison")
    relative, weights = facts["relative_logit_difference"], facts["weight_errors"]
    if weights is not None and not isinstance(weights, Mapping):
        raise ValueError("weight_errors is no object")
    return Comparison(
        reference=_side(facts["reference"], "its reference"),
        perplexity=_estimate(facts["perplexity"], "the reference's perplexity"),
        perplexity_change=_estimate(facts["perplexity_change"], "perplexity_change"),
        divergence=_estimate(facts["divergence"], "divergence"),
        divergence_p99=_number(facts["divergence_p99"], "divergence_p99"),
        divergence_max=_number(facts["divergence_max"], "divergence_max"),
        top1_agreement=_number(facts["top1_agreement"], "top1_agreement"),
        logit_difference=_number(facts["logit_difference"], "logit_difference"),
        relative_logit_difference=None
        if relative is None
        else _number(relative, "relative_logit_difference"),
        weight_errors=None if weights is None else _weight_errors(weights),
    )


def _weight_errors(errors: Mapping[Any, Any]) -> dict[str, float]:
    return {_text(name, "a matrix"): _number(e, "a weight error") for name, e in errors.items()}


def _side(facts: Any, what: str) -> Side:
    names = set(Side.__dataclass_fields__)
    _check_keys(facts, names, what)
    return Side(**{name: _text(facts[name], f"{name} of {what}") for name in names})


def _estimate(facts: Any, what: str) -> Estimate:
    _check_keys(facts, {"value", "error"}, what)
    error = facts["error"]
    return Estimate(_number(facts["value"], what), None if error is None else _number(error, what))


def _check_keys(facts: Any, keys: set[str], what: str) -> None:
    if not isinstance(facts, Mapping):
        raise ValueError(f"{what} is no object")
    if set(facts) != keys:
        name = min(set(facts) ^ keys)
        raise ValueError(f"{what} {'lacks' if name in keys else 'has an unknown'} {quote(name)}")


def _count(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{what} is no count")
    return value


def _number(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not -1e308 < value < 1e308 or not math.isfinite(value):
        raise ValueError(f"{what} is no finite number")
    return float(value)


def _text(value: Any, what: str) -> str:
    # A report may come from anybody's file, and is shown on terminals.
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise ValueError(f"{what} is no printable text of at most {MAX_TEXT} characters")
    return value
