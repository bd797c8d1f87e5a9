"""The sampling steps and the sampler: token for token what tests/oracle/sampling.py says."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.sampling import (
    MersenneTwister64,
    Options,
    portable_exp,
    portable_log,
)
from oracle.sampling import Sampler as Oracle

from pythia_rt._core import Sampler, SamplingOption, sampling_options

INF = math.inf
OFF = dataclasses.asdict(Options())

# Every step alone, then in company; each value must change something for the tests below to hold.
ALONE: dict[str, dict[str, Any]] = {
    "repetition_penalty": {"repetition_penalty": 1.3},
    "presence_penalty": {"presence_penalty": 0.7},
    "frequency_penalty": {"frequency_penalty": 0.4},
    "logit_bias": {"logit_bias": {0: 2.5, 3: -INF, 5: -1.0}},
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.6},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "default": {"temperature": 0.8, "top_p": 0.95},
    "truncations": {"temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "typical_p": 0.8},
    "penalties": {"repetition_penalty": 0.8, "presence_penalty": -0.5, "frequency_penalty": 0.3},
    "everything": {key: value for kwargs in ALONE.values() for key, value in kwargs.items()}
    | {"temperature": 0.9},
}
CASES = ALONE | TOGETHER


def sampler(n_tokens: int, **options: Any) -> Sampler:
    """A sampler with all steps off but those of `options`."""
    return Sampler(n_tokens=n_tokens, **(OFF | options))


def f32(values: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)


def i32(values: Sequence[int]) -> NDArray[np.int32]:
    return np.asarray(values, dtype=np.int32)


def drawn(logits: Sequence[float], times: int = 400, **options: Any) -> set[int]:
    """The tokens that come up in `times` independent draws from the same logits."""
    return {sampler(len(logits), seed=seed, **options).sample(f32(logits)) for seed in range(times)}


def logs(*probabilities: float) -> list[float]:
    """Logits with these probabilities."""
    return [math.log(p) for p in probabilities]


def test_oracle_generator_is_the_standards() -> None:
    generator = MersenneTwister64()
    numbers = [generator() for _ in range(10_000)]
    assert numbers[-1] == 9981545732273789042  # C++17, [rand.predef]


@settings(deadline=None)
@given(st.floats(-708, 709))
def test_oracle_exp_is_accurate(x: float) -> None:
    assert abs(portable_exp(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x))


@settings(deadline=None)
@given(st.floats(1e-300, 1e300))
def test_oracle_log_is_accurate(x: float) -> None:
    assert abs(portable_log(x) - math.log(x)) <= 4 * math.ulp(math.log(x))


# Ties, both infinitely unlikely and equal ones, are what an implementation gets wrong.
LOGITS = st.one_of(
    st.floats(-30, 30, width=32), st.sampled_from([-2.0, -1.0, 0.0, 0.0, 1.0, 2.0, -INF])
)
SHARES = st.one_of(st.just(1.0), st.floats(2.0**-30, 1.0), st.sampled_from([0.25, 0.5, 0.75]))


@st.composite
def situations(draw: st.DrawFn) -> tuple[int, dict[str, Any], list[int], list[list[float]]]:
    """(n_tokens, options, prompt, logits of some steps with padding rows)."""
    n_tokens = draw(st.integers(1, 40))
    ids = st.integers(0, n_tokens - 1)
    biases = st.one_of(st.floats(-100, 100, width=32), st.just(-1e30))
    options: dict[str, Any] = {
        "temperature": draw(st.one_of(st.sampled_from([0.0, 1.0, 0.5]), st.floats(1e-5, 1e4))),
        "top_k": draw(st.integers(0, 45)),
        "top_p": draw(SHARES),
        "min_p": draw(st.one_of(st.just(0.0), st.floats(0, 1))),
        "typical_p": draw(SHARES),
        "repetition_penalty": draw(st.one_of(st.just(1.0), st.floats(0.001, 1000))),
        "presence_penalty": draw(st.one_of(st.just(0.0), st.floats(-100, 100))),
        "frequency_penalty": draw(st.one_of(st.just(0.0), st.floats(-100, 100))),
        "logit_bias": {
            k: float(f32([v])[0]) for k, v in draw(st.dictionaries(ids, biases)).items()
        },
        "seed": draw(st.integers(0, 2**64 - 1)),
    }
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.lists(LOGITS, min_size=n_tokens, max_size=n_tokens))
        row[draw(ids)] = draw(st.floats(-30, 30, width=32))  # something is allowed
        rows.append(row + [60.0] * draw(st.integers(0, 3)))
    assert options.keys() == OFF.keys()
    return n_tokens, options, draw(st.lists(ids, max_size=8)), rows


@settings(deadline=None, max_examples=examples(250))
@given(situations())
def test_tokens_equal_the_oracles(
    situation: tuple[int, dict[str, Any], list[int], list[list[float]]],
) -> None:
    n_tokens, options, prompt, rows = situation
    ours, oracle = sampler(n_tokens, **options), Oracle(n_tokens, Options(**options))
    ours.accept_prompt(i32(prompt))
    oracle.accept_prompt(prompt)
    tokens = [ours.sample(f32(row)) for row in rows]
    assert tokens == [oracle.sample(row) for row in rows]
    assert max(tokens) < n_tokens


@pytest.mark.parametrize("name", CASES)
def test_a_long_text_equals_the_oracles(name: str) -> None:
    options = CASES[name] | {"seed": 11}
    ours, oracle = sampler(50, **options), Oracle(50, Options(**options))
    ours.accept_prompt(i32([3, 1, 4]))
    ours.accept_prompt(i32([1, 5]))
    oracle.accept_prompt([3, 1, 4, 1, 5])
    rows = f32(np.random.default_rng(0).normal(0, 2, (100, 64)))
    assert [ours.sample(row) for row in rows] == [oracle.sample(row.tolist()) for row in rows]


@pytest.mark.parametrize("spread", [0.01, 0.5, 4.0], ids=["flat", "wide", "peaked"])
@pytest.mark.parametrize("name", [*CASES, "large top_k"])
def test_a_full_vocabulary_equals_the_oracle(name: str, spread: float) -> None:
    n_tokens = 5003
    options = CASES.get(name, {"top_k": 2000}) | {"seed": 5}
    ours, oracle = sampler(n_tokens, **options), Oracle(n_tokens, Options(**options))
    normal = np.random.default_rng(1).normal(0, spread, (3, n_tokens + 29))
    rows = f32(np.round(normal, 2))  # many ties
    assert [ours.sample(row) for row in rows] == [oracle.sample(row.tolist()) for row in rows]


@pytest.mark.parametrize("share", [1 - 2.0**-20, 1 - 2.0**-30, 1 - 2.0**-53])
@pytest.mark.parametrize("spread", [0.001, 1.0, 30.0])
@pytest.mark.parametrize("name", ["top_p", "typical_p"])
def test_shares_that_leave_hardly_anything_out(name: str, spread: float, share: float) -> None:
    """Where it takes every candidate that counts, and what counts for nothing beside them."""
    n_tokens = 3001
    ours = sampler(n_tokens, seed=7, **{name: share})
    oracle = Oracle(n_tokens, Options(seed=7, **{name: share}))
    rows = f32(np.random.default_rng(2).normal(0, spread, (3, n_tokens)))
    rows[:, ::7] = -INF
    assert [ours.sample(row) for row in rows] == [oracle.sample(row.tolist()) for row in rows]


@pytest.mark.parametrize("name", CASES)
def test_every_option_changes_the_tokens(name: str) -> None:
    rows = f32(np.random.default_rng(2).normal(0, 2, (200, 50)))
    with_step, without = sampler(50, **CASES[name]), sampler(50)
    for each in (with_step, without):
        each.accept_prompt(i32(range(25)))
    assert [with_step.sample(row) for row in rows] != [without.sample(row) for row in rows]


def test_the_same_seed_gives_these_tokens_on_every_machine() -> None:
    logits = f32([i * 37 % 101 / 16 for i in range(100)])
    ours = sampler(100, temperature=0.9, top_p=0.9, repetition_penalty=1.2, seed=2**63 + 1)
    tokens = [ours.sample(logits) for _ in range(12)]
    assert tokens == [98, 79, 62, 51, 16, 40, 76, 30, 49, 5, 8, 90]


@pytest.mark.parametrize("share", ["top_p", "min_p"])
def test_exp_and_log_equal_the_oracles_to_the_last_bit(share: str) -> None:
    """Two tokens, and shares on either side of where the second one is dropped."""
    for x in np.linspace(-0.9, -0.1, 40, dtype=np.float32).tolist():
        likelier = portable_exp(0.0) / (1.0 + portable_exp(x))
        value = likelier if share == "top_p" else portable_exp(x)
        for _ in range(3):
            value = math.nextafter(value, 0.0)
        for _ in range(7):
            options: dict[str, Any] = {share: value, "seed": 9}
            ours, oracle = sampler(2, **options), Oracle(2, Options(**options))
            ids = {ours.sample(f32([0.0, x])) for _ in range(60)}
            assert ids == {token for token, _ in oracle.candidates([0.0, x])}
            value = math.nextafter(value, 1.0)


def test_other_seeds_give_other_tokens() -> None:
    texts = set()
    for seed in (0, 1, 2**32, 2**64 - 1):
        ours = sampler(1000, seed=seed)
        texts.add(tuple(ours.sample(f32(np.zeros(1000))) for _ in range(5)))
    assert len(texts) == 4


def chi_square(counts: Sequence[int], probabilities: Sequence[float]) -> float:
    n = sum(counts)
    pairs = zip(counts, probabilities, strict=True)
    return sum((count - n * p) ** 2 / (n * p) for count, p in pairs)


def test_draws_follow_the_distribution() -> None:
    logits = np.array([0.3, -1.0, 1.2, 0.0, -0.4, 2.0, 0.9, -2.0])
    ours = sampler(8, temperature=0.8, seed=3)
    counts = np.bincount([ours.sample(f32(logits)) for _ in range(20_000)], minlength=8).tolist()

    def at(temperature: float) -> list[float]:
        weights = np.exp(logits / temperature)
        return list(weights / weights.sum())

    critical = 29.88  # 7 degrees of freedom, one good sampler in 10,000 fails
    assert chi_square(counts, at(0.8)) < critical
    assert chi_square(counts, at(0.85)) > critical  # the test would notice


def test_samplers_in_turn_draw_what_each_draws_alone() -> None:
    """They work in the same memory: of other sizes, orders and masks, and after a failure."""
    random = np.random.default_rng(3)
    cases = [(n, CASES[name] | {"seed": n}) for n in (64, 700, 7) for name in CASES]
    logits = [f32(random.normal(0, 3, (12, n))) for n, _ in cases]
    alone = [
        [one.sample(row) for row in rows]
        for (n, options), rows in zip(cases, logits, strict=True)
        for one in [sampler(n, **options)]
    ]
    together = [sampler(n, **options) for n, options in cases]
    found: list[list[int]] = [[] for _ in cases]
    for i in range(12):
        for one, tokens, rows in zip(together, found, logits, strict=True):
            tokens.append(one.sample(rows[i]))
        masked = sampler(64)
        masked.allow(np.array([1 << i, 0], np.uint32))
        assert masked.sample(logits[0][i]) == i
        with pytest.raises(RuntimeError, match="not a number"):
            masked.sample(f32([math.nan] * 64))
    assert found == alone


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    assert sampler(5, temperature=0.0).sample(f32([1, 3, 2, 3, 3])) == 1
    assert sampler(5, temperature=0.0).sample(f32([-INF, -INF, -5, -5, -INF])) == 2
    assert sampler(2, temperature=0.0).sample(f32([-0.0, 0.0])) == 0


@pytest.mark.parametrize("n", [1, 255, 256, 257, 511, 1000, 50277])
def test_greedy_over_many_tokens(n: int) -> None:
    generator = np.random.default_rng(n)
    ours = sampler(n, temperature=0.0)
    for distinct in (2, 40, 10**6):  # of two values nearly all are equals of the largest
        logits = generator.integers(0, distinct, n).astype(np.float32)
        assert ours.sample(logits) == int(logits.argmax())
    for token in {0, n // 2, n - 1}:
        logits = np.full(n, -INF, np.float32)
        logits[token] = -3.0
        assert ours.sample(logits) == token
        logits[token] = math.nan
        with pytest.raises(RuntimeError, match=f"token {token} is not a number"):
            ours.sample(logits)


def test_greedy_comes_after_penalties_and_bias() -> None:
    logits = f32([2, 1, 0])
    assert sampler(3, temperature=0.0, logit_bias={0: -INF}).sample(logits) == 1
    assert sampler(3, temperature=0.0, logit_bias={2: 3.0}).sample(logits) == 2
    for options in ({"presence_penalty": 1.5}, {"frequency_penalty": 0.6}):
        ours = sampler(3, temperature=0.0, **options)
        ours.accept_prompt(i32([0, 0, 0]))  # counts for the repetition penalty only
        assert ours.sample(logits) == 0
    ours = sampler(3, temperature=0.0, frequency_penalty=0.6)
    assert [ours.sample(logits) for _ in range(4)] == [0, 0, 1, 0]


def test_repetition_penalty_makes_negative_logits_less_likely_too() -> None:
    ours = sampler(2, temperature=0.0, repetition_penalty=2.0)
    ours.accept_prompt(i32([0]))
    assert ours.sample(f32([-1.0, -1.5])) == 1


def test_top_k_breaks_ties_by_id() -> None:
    assert drawn([0, 1, 1, 1], top_k=2) == {1, 2}
    assert drawn([0, 1, 1, 1], top_k=1) == {1}
    assert drawn([0, 0, 0], top_k=0) == drawn([0, 0, 0], top_k=9) == {0, 1, 2}


def test_top_p_includes_the_token_that_crosses() -> None:
    logits = logs(0.5, 0.3, 0.2)
    assert drawn(logits, top_p=0.49) == {0}
    assert drawn(logits, top_p=0.51) == {0, 1}
    assert drawn(logits, top_p=0.81) == {0, 1, 2}
    assert drawn([1, 1, 1, 1], top_p=0.5) == {0, 1}
    assert drawn(logits, top_p=1e-300) == {0}


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = logs(0.5, 0.3, 0.2)
    assert drawn(logits, min_p=0.61) == {0}
    assert drawn(logits, min_p=0.59) == {0, 1}
    assert drawn(logits, min_p=0.39) == {0, 1, 2}
    assert drawn([1, 1, 0], min_p=1.0) == {0, 1}
    assert drawn([1, 1, 0], min_p=5e-324) == {0, 1, 2}


def test_typical_p_may_drop_the_likeliest() -> None:
    # Entropy 1.28 nats; information 0.69, 1.39, 2.08 and 2.08 (twice): 1 is nearest, 0 is next.
    logits = logs(0.5, 0.25, 0.125, 0.125)
    assert drawn(logits, typical_p=0.2) == {1}
    assert drawn(logits, typical_p=0.7) == {0, 1}
    assert drawn(logits, typical_p=0.8) == {0, 1, 2}


@pytest.mark.parametrize("name", CASES)
def test_padding_and_masked_tokens_are_never_drawn(name: str) -> None:
    logits = f32([0.5, -INF, 0.1, 0.3, -INF, 0.2, 9.0, 9.0])
    ours = sampler(6, **CASES[name])
    assert {ours.sample(logits) for _ in range(500)} <= {0, 2, 3, 5}


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1.7e308])
def test_extreme_temperatures(temperature: float) -> None:
    found = drawn([3.4e38, -3.4e38, 3.4e38, -INF], times=100, temperature=temperature)
    assert found == ({0, 1, 2} if temperature > 1e100 else {0, 2})


def beyond(option: SamplingOption) -> list[float]:
    """Numbers that the option may not be."""
    if isinstance(option.least, int):
        return [option.least - 1]
    ends = [math.nextafter(option.least, -INF), math.nextafter(option.most, INF)]
    return [*ends, -INF, INF, math.nan]


def test_every_option_is_tested_alone() -> None:
    options = {"logit_bias", *(option.name for option in sampling_options())}
    assert (
        {name for kwargs in ALONE.values() for name in kwargs} == options == OFF.keys() - {"seed"}
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [(o.name, v) for o in sampling_options() for v in beyond(o)]
    + [("n_tokens", 0), ("n_tokens", -5)]
    + [("logit_bias", {v: 1.0}) for v in (-1, 7)]
    + [("logit_bias", {0: v}) for v in (math.nan, INF)],
)
def test_bad_options_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{option} .*must .*, not ") as caught:
        Sampler(**({"n_tokens": 7} | OFF | {option: value}))
    number = next(iter(value.items())) if isinstance(value, dict) else (value, value)
    said = str(caught.value).rsplit(" ", 1)[-1]
    assert any(said == f"{part:g}" for part in number)


def test_bad_tokens_and_logits_are_refused() -> None:
    ours = sampler(3)
    for token in (-1, 3):
        with pytest.raises(ValueError, match=f"token 1 of the prompt .* 0 and 2, not {token}$"):
            ours.accept_prompt(i32([0, token]))
    with pytest.raises(ValueError, match="each of the 3 tokens, not 2"):
        ours.sample(f32([0, 0]))


def test_logits_without_a_softmax_fail_and_change_nothing() -> None:
    ours, fresh = (sampler(3, presence_penalty=1.0, seed=4) for _ in range(2))
    for row, message in [
        ([-INF] * 3, "all logits are minus infinity"),
        ([0, math.nan, 0], "token 1 is not a number"),
        ([0, 0, INF], "token 2 is plus infinity"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ours.sample(f32(row))
    good = f32([0.1, 0.2, 0.3, math.nan])  # padding may hold anything
    assert [ours.sample(good) for _ in range(20)] == [fresh.sample(good) for _ in range(20)]


def test_a_bias_that_bans_everything_left_fails() -> None:
    with pytest.raises(RuntimeError, match="logit_bias bans every token"):
        sampler(3, logit_bias={0: -INF}).sample(f32([0, -INF, -INF]))


@pytest.mark.parametrize("name", ["repetition_penalty", *list(ALONE)[5:], "truncations"])
def test_the_oracle_agrees_with_transformers(name: str) -> None:
    """A second referee for the steps that transformers has, in its own order of them."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    options = Options(**CASES[name])
    oracle = Oracle(200, options)
    oracle.accept_prompt([3, 1, 4, 1, 5])
    chain = []
    if options.repetition_penalty != 1:
        penalty = processors.RepetitionPenaltyLogitsProcessor(options.repetition_penalty)
        chain.append(penalty)
    chain.append(processors.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        chain.append(processors.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        chain.append(processors.TopPLogitsWarper(options.top_p))
    if options.min_p:
        chain.append(processors.MinPLogitsWarper(options.min_p))
    if options.typical_p < 1:
        chain.append(processors.TypicalLogitsWarper(options.typical_p))
    for row in np.random.default_rng(3).normal(0, 3, (20, 200)):
        scores = torch.tensor(row)[None]
        for process in chain:
            scores = process(torch.tensor([[3, 1, 4, 1, 5]]), scores)
        theirs = torch.softmax(scores, -1)[0].numpy()
        ours = np.zeros(200)
        for token, probability in oracle.probabilities(row.tolist()).items():
            ours[token] = probability
        np.testing.assert_array_equal(ours > 0, theirs > 0)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)
