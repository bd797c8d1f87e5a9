"""Sampling: how the next token is chosen and when writing stops.

`Sampling` is the one list of options: its fields carry their range and their help text, and the
command line makes its options from them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict, cast

from pythia_rt.convert.errors import Sentence, shown
from pythia_rt.options import Options, integer, option, real, replaced

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt import _core


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling` as keyword arguments of `Model.generate` and `Model.stream`.

    None stands for a field's default, as in `Sampling`.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Iterable[str] | None
    stop_token_ids: int | Iterable[int] | None


def _read_bias(name: str, value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must map token ids to numbers, not {shown(value)}")
    read_bias = real(lambda x: x < math.inf, "a number (minus infinity forbids the token)")
    return {
        _TOKEN_ID(f"each key of {name}", token): read_bias(f"{name}[{token}]", bias)
        for token, bias in value.items()
    }


def _read_stop(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (str, Iterable)):
        raise ValueError(f"{name} must be a string or several strings, not {shown(value)}")
    stops = (value,) if isinstance(value, str) else tuple(value)
    for stop in stops:
        if not isinstance(stop, str):
            raise ValueError(f"{name} must hold strings only, not {shown(stop)}")
        if not stop:
            raise ValueError(f"{name} must not hold an empty string: it would end every text")
        if any("\ud800" <= letter <= "\udfff" for letter in stop):
            raise ValueError(f"{name} must not hold a lone surrogate, which no text has")
    return stops


def _read_stop_ids(name: str, value: Any) -> tuple[int, ...]:
    if isinstance(value, Integral):
        value = (value,)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a token id or several of them, not {shown(value)}")
    return tuple(_TOKEN_ID(f"each of {name}", token) for token in value)


def _read_new_tokens(name: str, value: Any) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool) and value == 0:
        raise ValueError(
            Sentence(
                f"{name} must be at least 1, not 0: to judge a text that is there, use Model.score "
                "for its log-probabilities or Model.logits",
                f"{name} must be at least 1, not 0: to judge a text that is there, use "
                "pythia-rt evaluate",
            )
        )
    return integer(lambda n: n >= 1, "a whole number of at least 1")(name, value)


_TOKEN_ID = integer(lambda n: n >= 0, "a token id")
_SEED = integer(lambda n: 0 <= n < 2**64, "a whole number from 0 to 2**64 - 1")


@functools.cache
def numbers() -> Mapping[str, _core.SamplingOption]:
    """The options that the core's sampler has too, with what they may be."""
    from pythia_rt import _core  # not for a command's help

    return {each.name: each for each in _core.sampling_options()}


def _read_number(name: str, value: Any) -> float:
    bounds = numbers()[name]
    check = integer if isinstance(bounds.least, int) else real
    return check(lambda x: bounds.least <= x <= bounds.most, bounds.range)(name, value)


@dataclass(frozen=True, kw_only=True)
class Sampling(Options):
    """How to choose tokens. Every field is checked: a bad one is a ValueError of one sentence.

    None stands for the default in every field, so a client may pass on what it was not given. The
    default seed is a new one for each text, which `Generation.seed` tells.

    The steps run in this order (csrc/sampling/steps.inc): penalties and bias on the raw logits,
    then temperature, then the filters. The same seed gives the same tokens on every
    machine.
    """

    max_new_tokens: int = option(
        128,
        _read_new_tokens,
        "Write at most this many tokens.",
    )
    temperature: float = option(
        0.8,
        _read_number,
        "Divide the logits by this; 0 always takes the likeliest token.",
    )
    top_k: int = option(
        0,
        _read_number,
        "Choose among the k likeliest tokens only; 0 switches it off.",
    )
    top_p: float = option(
        0.95,
        _read_number,
        "Choose among the likeliest tokens that reach this probability; 1 switches it off.",
    )
    min_p: float = option(
        0.0,
        _read_number,
        "Drop tokens less likely than this share of the likeliest one; 0 switches it off.",
    )
    typical_p: float = option(
        1.0,
        _read_number,
        "Keep the tokens nearest to the expected surprise up to this probability; "
        "1 switches it off.",
    )
    repetition_penalty: float = option(
        1.0,
        _read_number,
        "Make tokens of the prompt and the text less likely by this factor; 1 switches it off.",
    )
    presence_penalty: float = option(
        0.0,
        _read_number,
        "Take this from the logit of every token already written; 0 switches it off.",
    )
    frequency_penalty: float = option(
        0.0,
        _read_number,
        "Take this from a token's logit each time it was written; 0 switches it off.",
    )
    logit_bias: Mapping[int, float] = option(
        {}, _read_bias, "Add VALUE to the logit of token ID (-inf forbids it); may be repeated."
    )
    seed: int | None = option(
        None, _SEED, "Seed of the random numbers; None takes one from the operating system."
    )
    stop: str | Iterable[str] = option(
        (), _read_stop, "End the text before this string; may be repeated."
    )
    stop_token_ids: int | Iterable[int] = option(
        (), _read_stop_ids, "End the text at token ID, as at the end token; may be repeated."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings, however they were given."""
        return tuple(self.stop)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The token ids that end the text, however they were given."""
        ids: Any = self.stop_token_ids
        return frozenset(ids)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise ValueError if an option names an id without a row among the model's `vocab_size`.

        That of a padding row may be named, as in a prompt (prompt.py), and changes nothing.
        """
        for name, tokens in (("logit_bias", self.logit_bias), ("stop_token_ids", self.stop_ids)):
            for token in tokens:
                if token >= vocab_size:
                    raise ValueError(
                        f"{name} names token {token}, but the tokens are 0 to {vocab_size - 1}"
                    )


def merged(base: Sampling | None, **options: Unpack[SamplingOptions]) -> Sampling:
    """`base` (or the defaults) with some fields replaced, all checked."""
    return replaced(Sampling, base, options)


def one_for_each(
    sampling: Sampling | Sequence[Sampling] | None, count: int
) -> Sequence[Sampling | None]:
    """A Sampling for each of `count` prompts, of one for all, one for each, or none."""
    if not isinstance(sampling, (list, tuple)):
        return [cast("Sampling | None", sampling)] * count
    if len(sampling) != count:
        raise ValueError(f"there are {len(sampling)} Samplings for {count} prompts: give one each")
    return sampling
