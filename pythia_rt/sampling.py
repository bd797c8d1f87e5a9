"""Sampling: how the next token is chosen and when writing stops.

`Sampling` is the one list of options: its fields carry their range and their help text, and the
command line makes its options from them.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments of `Model.generate` and `Model.stream`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop: str | Iterable[str]


def _option(default: Any, read: Callable[[str, Any], Any], doc: str) -> Any:
    """A dataclass field that remembers how to check its value and what to say in --help."""
    factory: dict[str, Any] = {"default_factory": dict} if default == {} else {"default": default}
    return field(**factory, metadata={"read": read, "doc": doc})


def _integer(accepts: Callable[[int], bool], what: str) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        # bool is an int to Python; True as a count is a slip, not a wish.
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise ValueError(f"{name} must be {what}, not {value!r}")
        if not accepts(int(value)):
            raise ValueError(f"{name} must be {what}, not {value}")
        return int(value)

    return read


def _real(accepts: Callable[[float], bool], what: str) -> Callable[[str, Any], float]:
    def read(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise ValueError(f"{name} must be {what}, not {value!r}")
        if not accepts(float(value)):  # every comparison with NaN is false, so NaN ends here
            raise ValueError(f"{name} must be {what}, not {value}")
        return float(value)

    return read


def _read_seed(name: str, value: Any) -> int | None:
    if value is None:
        return None
    return _integer(lambda n: 0 <= n < 2**64, "a whole number from 0 to 2**64 - 1, or None")(
        name, value
    )


def _read_bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must map token ids to numbers, not {value!r}")
    read_id = _integer(lambda n: n >= 0, "a token id")
    read_bias = _real(lambda x: x < math.inf, "a number (minus infinity forbids the token)")
    return {
        read_id(f"each key of {name}", token): read_bias(f"{name}[{token}]", bias)
        for token, bias in value.items()
    }


def _read_stop(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (str, Iterable)):
        raise ValueError(f"{name} must be a string or several strings, not {value!r}")
    stops = (value,) if isinstance(value, str) else tuple(value)
    for stop in stops:
        if not isinstance(stop, str):
            raise ValueError(f"{name} must hold strings only, not {stop!r}")
        if not stop:
            raise ValueError(f"{name} must not hold an empty string: it would end every text")
    return stops


_SHARE = _real(lambda x: 0 < x <= 1, "a number above 0 and at most 1 (1 switches it off)")
_PENALTY = _real(lambda x: -100 <= x <= 100, "a number from -100 to 100 (0 switches it off)")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to choose tokens. Every field is checked: a bad one is a ValueError of one sentence.

    The steps run in this order (csrc/sampling/steps.inc): penalties and bias on the raw logits,
    then temperature, then the filters. The same seed gives the same tokens on every machine.
    """

    max_new_tokens: int = _option(
        128,
        _integer(lambda n: n >= 1, "a whole number of at least 1"),
        "Write at most this many tokens.",
    )
    temperature: float = _option(
        0.8,
        _real(lambda x: 0 <= x < math.inf, "a finite number of at least 0 (0 is greedy)"),
        "Divide the logits by this; 0 always takes the likeliest token.",
    )
    top_k: int = _option(
        0,
        _integer(lambda n: n >= 0, "a whole number of at least 0 (0 switches it off)"),
        "Choose among the k likeliest tokens only; 0 switches it off.",
    )
    top_p: float = _option(
        0.95,
        _SHARE,
        "Choose among the likeliest tokens that reach this probability; 1 switches it off.",
    )
    min_p: float = _option(
        0.0,
        _real(lambda x: 0 <= x <= 1, "a number from 0 to 1 (0 switches it off)"),
        "Drop tokens less likely than this share of the likeliest one; 0 switches it off.",
    )
    typical_p: float = _option(
        1.0,
        _SHARE,
        "Keep the tokens nearest to the expected surprise up to this probability; "
        "1 switches it off.",
    )
    repetition_penalty: float = _option(
        1.0,
        _real(lambda x: 0.001 <= x <= 1000, "a number from 0.001 to 1000 (1 switches it off)"),
        "Make tokens of the prompt and the text less likely by this factor; 1 switches it off.",
    )
    presence_penalty: float = _option(
        0.0, _PENALTY, "Take this from the logit of every token already written; 0 switches it off."
    )
    frequency_penalty: float = _option(
        0.0, _PENALTY, "Take this from a token's logit each time it was written; 0 switches it off."
    )
    logit_bias: Mapping[int, float] = _option(
        {}, _read_bias, "Add VALUE to the logit of token ID (-inf forbids it); may be repeated."
    )
    seed: int | None = _option(
        0, _read_seed, "Seed of the random numbers; None takes one from the operating system."
    )
    stop: str | Iterable[str] = _option(
        (), _read_stop, "End the text before this string; may be repeated."
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            value = option.metadata["read"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)  # frozen: set only here

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        return tuple(self.stop)

    def check_vocabulary(self, n_tokens: int) -> None:
        """Raise ValueError if a biased token id is not one of the model's `n_tokens` tokens."""
        for token in self.logit_bias:
            if token >= n_tokens:
                raise ValueError(
                    f"logit_bias names token {token}, but the tokens are 0 to {n_tokens - 1}"
                )


def merged(base: Sampling | None, **options: Unpack[SamplingOptions]) -> Sampling:
    """`base` (or the defaults) with some fields replaced, all checked."""
    names = [option.name for option in fields(Sampling)]
    for name in options:
        if name not in names:
            raise ValueError(f"there is no option {name!r}: the options are {', '.join(names)}")
    if base is not None and not isinstance(base, Sampling):
        raise ValueError(f"sampling must be a pythia_rt.Sampling, not {type(base).__name__}")
    return replace(base or Sampling(), **options)
