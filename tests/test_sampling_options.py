"""Sampling checks every field in one sentence; the model passes every field on."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any

import numpy as np
import pytest

from pythia_rt import _core
from pythia_rt.sampling import Sampling, SamplingOptions, merged, numbers

NAN, INF = math.nan, math.inf

GOOD = {
    "max_new_tokens": [1, 5000, np.int64(3)],
    "temperature": [0, 0.0, 1, 1e-9, 100.0, np.float32(0.5)],
    "top_k": [0, 1, 2**40],
    "top_p": [1e-9, 0.5, 1, 1.0],
    "min_p": [0, 0.05, 1],
    "typical_p": [0.2, 1],
    "repetition_penalty": [0.001, 1.3, 1000],
    "presence_penalty": [-100, 0, 1.5, 100],
    "frequency_penalty": [-100, 0, 1.5, 100],
    "logit_bias": [{}, {3: 1.5}, {0: -INF, 7: 2}, {np.int32(4): np.float64(1)}],
    "seed": [0, 2**64 - 1, None, np.uint64(5)],
    "stop": [(), "x", ["a", "b"], iter(["q"])],
    "stop_token_ids": [(), 5, [5, 0], np.int64(5), np.array([7]), iter([2]), {3}],
}

BAD = {
    "max_new_tokens": [0, -1, 1.0, True, "3", NAN],
    "temperature": [-0.1, NAN, INF, True, "1", 1j, 10**400],
    "top_k": [-1, 2.0, True, "5"],
    "top_p": [0, -0.5, 1.0001, NAN, INF, True],
    "min_p": [-0.01, 1.5, NAN, False],
    "typical_p": [0, 2, NAN, True],
    "repetition_penalty": [0, -1, 0.0001, 1001, NAN, INF, True],
    "presence_penalty": [-101, 101, NAN, INF, True],
    "frequency_penalty": [-101, 101, NAN, -INF, True, "a"],
    "logit_bias": [[1, 2], {-1: 0.5}, {1.5: 1.0}, {True: 1.0}, {"1": 1.0}, {1: NAN}, {1: INF},
                   {1: True}, {1: "2"}, {1: -(10**400)}],
    "seed": [-1, 2**64, 1.5, True, "7"],
    "stop": ["", [""], ["a", ""], 3, [3], [b"x"], [None], "a\udcff"],
    "stop_token_ids": [-1, True, 1.0, "5", b"5", [1, -1], [None], ["5"], [2.0], [[1]], {1.5}],
}  # fmt: skip


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(k, v, id=f"{k}={v!r:.20}") for k, values in table.items() for v in values]


@pytest.mark.parametrize(("name", "value"), cases(GOOD))
def test_good_values_are_kept(name: str, value: Any) -> None:
    kept = getattr(Sampling(**{name: value}), name)
    if name == "stop":
        assert all(isinstance(stop, str) for stop in kept)
    elif name == "stop_token_ids":
        assert isinstance(kept, tuple)
        assert all(type(token) is int for token in kept)
    else:
        assert kept == value


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_bad_values_are_refused_in_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        Sampling(**{name: value})
    sentence = str(caught.value)
    assert "must" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("name", GOOD)
def test_none_is_the_default(name: str) -> None:
    assert Sampling(**{name: None}) == Sampling()
    other = Sampling(**{name: next(value for value in GOOD[name] if value is not None)})
    assert merged(other, **{name: None}) == Sampling()  # type: ignore[misc]


@pytest.mark.parametrize("name", numbers())
def test_the_core_says_what_a_number_may_be(name: str) -> None:
    bounds = numbers()[name]
    for value in (bounds.least, bounds.most):
        assert getattr(Sampling(**{name: value}), name) == value
    with pytest.raises(ValueError, match=f"^{name} must be {re.escape(bounds.range)}, not nan$"):
        Sampling(**{name: NAN})
    core = bounds.range if isinstance(bounds.least, float) else "incompatible"
    with pytest.raises((ValueError, TypeError), match=re.escape(core)):
        _core.Sampler(n_tokens=9, **{name: NAN})


def test_no_new_tokens_leads_to_what_judges_a_text() -> None:
    with pytest.raises(ValueError, match=r"at least 1, not 0: .* Model\.score .* Model\.logits"):
        Sampling(max_new_tokens=0)


def test_every_field_is_in_both_tables_and_among_the_keyword_options() -> None:
    names = {option.name for option in dataclasses.fields(Sampling)}
    assert names == set(GOOD) == set(BAD) == set(typing.get_type_hints(SamplingOptions))


def test_defaults() -> None:
    sampling = Sampling()
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p) == (128, 0.8, 0.95)
    assert (sampling.top_k, sampling.min_p, sampling.typical_p) == (0, 0, 1)
    assert (sampling.repetition_penalty, sampling.seed, sampling.stops) == (1, None, ())
    assert sampling.stop_ids == frozenset()


def test_fields_are_keywords_and_fixed() -> None:
    with pytest.raises(TypeError):
        Sampling(5)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sampling().seed = 3  # type: ignore[misc]


def test_a_later_change_of_the_callers_mapping_changes_nothing() -> None:
    bias = {1: 2.0}
    sampling = Sampling(logit_bias=bias)
    bias[1] = NAN
    assert sampling.logit_bias == {1: 2.0}


def test_a_single_stop_string_is_one_stop() -> None:
    assert Sampling(stop="ab").stops == ("ab",)


def test_biased_tokens_must_be_in_the_vocabulary() -> None:
    Sampling(logit_bias={9: 1}).check_vocabulary(10)
    with pytest.raises(ValueError, match=r"logit_bias names token 10, .* are 0 to 9"):
        Sampling(logit_bias={10: 1}).check_vocabulary(10)


def test_stop_tokens_must_be_in_the_vocabulary() -> None:
    Sampling(stop_token_ids=[9]).check_vocabulary(10)
    with pytest.raises(ValueError, match=r"stop_token_ids names token 10, .* are 0 to 9"):
        Sampling(stop_token_ids=[3, 10]).check_vocabulary(10)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_tokens", "use max_new_tokens"),
        ("max_length", "use max_new_tokens"),
        ("eos_token_id", "use stop_token_ids"),
        ("stop_strings", "use stop"),
        ("repeat_penalty", "use repetition_penalty"),
        ("do_sample", "temperature=0 is greedy"),
        ("num_beams", "no beam search"),
        ("bad_words_ids", "logit_bias={id: -inf}"),
        ("temprature", "use temperature"),
        ("topk", "use top_k"),
        ("stop_token_id", "use stop_token_ids"),
    ],
)
def test_names_of_other_libraries_and_slips_lead_to_ours(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"there is no option '{name}': ") as caught:
        merged(None, **{name: 1})  # type: ignore[misc]
    assert hint in str(caught.value)
    assert str(caught.value).endswith("the options are " + ", ".join(GOOD))


def test_a_name_like_none_of_ours_gets_the_list() -> None:
    with pytest.raises(ValueError, match="there is no option 'qqq': the options are max_new_"):
        merged(None, qqq=1)  # type: ignore[call-arg]


def test_options_replace_fields_and_are_checked() -> None:
    base = Sampling(top_k=5, seed=3)
    assert merged(base, seed=4) == Sampling(top_k=5, seed=4)
    assert merged(None) == Sampling()
    with pytest.raises(ValueError, match="top_k must be"):
        merged(base, top_k=-1)
    with pytest.raises(ValueError, match=r"sampling must be a pythia_rt\.Sampling, not dict"):
        merged({"top_k": 5})  # type: ignore[arg-type]
