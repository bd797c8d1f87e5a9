"""The mask of what may come next: what a logit_bias of minus infinity for all others gives."""

import math
import threading
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from oracle.sampling import Options
from oracle.sampling import Sampler as Oracle
from test_sampling import CASES, INF, f32, i32, sampler, situations

from pythia_rt._core import Sampler


def mask_of(ids: Any, n_tokens: int, others: bool = False) -> NDArray[np.uint32]:
    """The mask that allows `ids`; the bits beyond n_tokens are what `others` says."""
    bits = np.full(-(-n_tokens // 32) * 32, others)
    bits[:n_tokens] = False
    bits[list(ids)] = True
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32)


def banned(ids: Any, n_tokens: int, options: dict[str, Any]) -> dict[str, Any]:
    """`options` with a bias that bans all but `ids`."""
    bias = dict.fromkeys(set(range(n_tokens)) - set(ids), -INF)
    return options | {"logit_bias": options["logit_bias"] | bias}


@settings(deadline=None, max_examples=examples(250))
@given(situations(), st.data())
def test_a_mask_is_a_bias_of_minus_infinity(
    situation: tuple[int, dict[str, Any], list[int], list[list[float]]], data: st.DataObject
) -> None:
    """The draw, and by the tokens drawn after it the state of the generator too."""
    n_tokens, options, prompt, rows = situation
    usable = [i for i in range(n_tokens) if all(row[i] > -INF for row in rows)]
    if not usable:
        return
    ids = data.draw(st.sets(st.integers(0, n_tokens - 1))) | {data.draw(st.sampled_from(usable))}
    mask = mask_of(ids, n_tokens, data.draw(st.booleans()))
    ours, theirs = sampler(n_tokens, **options), sampler(n_tokens, **banned(ids, n_tokens, options))
    oracle = Oracle(n_tokens, Options(**options))
    for each in (ours, theirs):
        each.accept_prompt(i32(prompt))
    oracle.accept_prompt(prompt)
    for row in rows:
        ours.allow(mask)
        oracle.allow(mask.tolist())
        token = ours.sample(f32(row))
        assert token == theirs.sample(f32(row)) == oracle.sample(row)
        assert token in ids


@pytest.mark.parametrize("n_tokens", [1, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("name", CASES)
def test_masks_that_change_from_token_to_token(name: str, n_tokens: int) -> None:
    """With every step of the list, and without a mask in between: it holds for one draw."""
    generator = np.random.default_rng(n_tokens)
    bias = {t: b for t, b in CASES[name].get("logit_bias", {}).items() if 0 < t < n_tokens}
    options = CASES[name] | {"logit_bias": bias, "seed": 6}
    ours, oracle = sampler(n_tokens, **options), Oracle(n_tokens, Options(**options))
    for step in range(12):
        row = f32(generator.normal(0, 2, n_tokens + 3))
        if step % 3 != 2:
            ids = {0, *np.flatnonzero(generator.random(n_tokens) < generator.random())}
            mask = mask_of(ids, n_tokens)
            ours.allow(mask)
            mask[:] = 0  # it was copied
            oracle.allow(mask_of(ids, n_tokens).tolist())
        assert ours.sample(row) == oracle.sample(row.tolist())


def test_a_mask_that_leaves_nothing_fails_and_draws_nothing() -> None:
    for temperature in (0.0, 1.0):
        ours, fresh = (sampler(40, temperature=temperature, seed=4) for _ in range(2))
        row = f32(np.random.default_rng(1).normal(0, 1, 44))
        row[39] = -INF
        for mask in (mask_of([], 40, others=True), mask_of([39], 40)):
            ours.allow(mask)
            with pytest.raises(RuntimeError, match=r"^the mask allows .*, so no token is left$"):
                ours.sample(row)
        # It was for that one call.
        assert [ours.sample(row) for _ in range(9)] == [fresh.sample(row) for _ in range(9)]
        banning = sampler(40, temperature=temperature, logit_bias={7: -INF})
        banning.allow(mask_of([7], 40))
        with pytest.raises(RuntimeError, match="so no token is left"):
            banning.sample(row)


def test_a_mask_does_not_hide_logits_that_are_none() -> None:
    for temperature in (0.0, 1.0):
        ours = sampler(3, temperature=temperature)
        ours.allow(mask_of([0], 3))
        with pytest.raises(RuntimeError, match="token 2 is not a number"):
            ours.sample(f32([0, 0, math.nan]))
        assert ours.sample(f32([-INF, 0, -INF])) == 1


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (1, 2), ()])
def test_masks_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    ours = sampler(33, temperature=0.0)
    with pytest.raises(ValueError, match=r"^a mask must be .* of 2 uint32, not "):
        ours.allow(np.zeros(shape, np.uint32))
    assert ours.sample(f32([*range(33)])) == 32


def test_two_threads_that_share_a_sampler_take_turns() -> None:
    ours = Sampler(n_tokens=64, temperature=0.0)
    row = f32(np.arange(64))
    seen: set[int] = set()

    def draw(token: int) -> None:
        for _ in range(200):
            ours.allow(mask_of([token], 64))
            seen.add(ours.sample(row))

    threads = [threading.Thread(target=draw, args=(token,)) for token in (3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= {3, 5, 63}


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32])
def test_masks_of_other_numbers_are_refused(kind: type) -> None:
    with pytest.raises(TypeError, match="uint32"):
        sampler(33).allow(np.zeros(2, kind))
