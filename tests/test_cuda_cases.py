"""One small case for each way through CUDA's kernels, against the scalar backend, bit for bit.

What test_backends.py draws at random, fixed and quick: planted defects (tests/cuda/mutations.py)
and the thread sanitizer, are tried on these.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from backends import (
    EMULATED,
    ORDERS,
    _emulated,
    _testing,
    assert_same_bits,
    make_reference,
    normal,
    pack,
    product,
    set_order,
)

from pythia_rt.convert.flatfile.spec import CHOICES

FORMATS: list[str] = _testing.format_names()
KV_FORMATS: list[str] = _testing.kv_format_names()
every_format = pytest.mark.parametrize("form", FORMATS)
every_cache = pytest.mark.parametrize("form", KV_FORMATS)
# All orders, or those that the variable lists.
CHOSEN = os.environ.get("PYTHIA_RT_ORDERS", ",".join(ORDERS)).split(",")


@pytest.fixture(autouse=True, params=CHOSEN)
def order(request: pytest.FixtureRequest) -> None:
    set_order((request.param, 7))


def compare(run: Any) -> None:
    """`run(backend, module)` on the emulated device and on the scalar backend."""
    assert_same_bits(run(EMULATED.make(), _emulated), run(make_reference(), _testing))


def multiply(form: str, count: int, columns: int, epilogue: str) -> None:
    values = normal(1, count, columns)
    before = normal(2, count, 40) if epilogue == "add" else None

    def run(backend: Any, module: Any) -> Any:
        return backend.linear([product(module, form, 3, 40, values, epilogue, True)], before)

    compare(run)


@every_format
def test_few_rows(form: str) -> None:
    """More groups of columns than two rounds of warps take, blocks that are half empty."""
    multiply(form, 3, 2200, "add")


@every_format
def test_many_rows(form: str) -> None:
    multiply(form, 20, 330, "gelu")


@pytest.mark.parametrize("epilogue", ["store", "add", *CHOICES["activation"]])
def test_finishing(epilogue: str) -> None:
    rows, before = normal(1, 3, 300), normal(2, 3, 300)
    compare(lambda backend, _: backend.finish(epilogue, rows, before))


@pytest.mark.parametrize("count", [3, 18], ids=["few", "many"])
@pytest.mark.parametrize("form", ["q4", "f16"])
def test_gating(form: str, count: int) -> None:
    values = normal(1, count, 70)

    def run(backend: Any, module: Any) -> Any:
        gated = product(module, form, 3, 288 * 2, values, "silu", True, True)
        return backend.linear([product(module, form, 5, 40, values, "store", False), gated])

    compare(run)


@pytest.mark.parametrize("count", [2, 18], ids=["few", "many"])
@pytest.mark.parametrize("forms", [("q4", "q5"), ("f16", "f32")], ids=["q4-q5", "f16-f32"])
def test_into_the_same_rows(count: int, forms: tuple[str, str]) -> None:
    inputs = normal(1, count, 70), normal(2, count, 130)
    before = normal(3, count, 40)

    def run(backend: Any, module: Any) -> Any:
        pairs = zip(forms, inputs, strict=True)
        return backend.linear(
            [product(module, form, 4, 40, values, "add", True) for form, values in pairs], before
        )

    compare(run)


@pytest.mark.parametrize("width", [100, 6300])
@pytest.mark.parametrize("has_bias", [True, False], ids=["layer", "rms"])
def test_norms(width: int, has_bias: bool) -> None:
    rows, vectors = normal(1, 2, width), [normal(i, width) for i in range(2, 6)]
    if not has_bias:
        vectors[1::2] = [None, None]
    compare(lambda backend, _: backend.norm_pair(rows, *vectors, 1e-5))


@pytest.mark.parametrize(("n_parts", "width"), [(5, 100), (1, 1500)])
@pytest.mark.parametrize("has_bias", [True, False], ids=["layer", "rms"])
def test_heads_are_normed(n_parts: int, width: int, has_bias: bool) -> None:
    size = n_parts * width
    rows, weight, bias = normal(1, 3, size + 7), normal(2, size), normal(3, size)
    vectors = weight, bias if has_bias else None
    compare(lambda backend, _: backend.norm_parts(rows, 3, size, n_parts, *vectors, 1e-5))


@every_format
def test_embedding(form: str) -> None:
    parts = pack(form, 1, 37, 130)
    compare(lambda backend, _: backend.embed(form, parts, 37, 130, [36, 0, 17]))


def test_gathering() -> None:
    rows = normal(1, 5, 70)
    compare(lambda backend, _: backend.gather(rows, [4, 0, 4]))


def test_scores() -> None:
    values = normal(1, 3, 40)

    def run(backend: Any, module: Any) -> Any:
        head = product(module, "q6", 2, 600, values, "store", False)
        return backend.score(head, [0, 599, 511])

    compare(run)


def attend(
    form: str,
    prompts: tuple[int, int],
    later: tuple[int, int],
    *,
    head_dim: int = 20,
    group: int = 2,
    repeats: int = -1,
    **scoring: Any,
) -> None:
    """Two sequences, then some tokens more of each."""
    angles = normal(9, 300, 4, magnitude=10)
    layout = {"n_heads": group, "n_kv_heads": 1, "head_dim": head_dim} | scoring
    tables = {"cosines": np.cos(angles), "sines": np.sin(angles)}

    def run(backend: Any, _: Any) -> Any:
        numbers = [backend.add_sequence(form, 1, head_dim, 1, 150) for _ in range(2)]
        rows = normal(1, sum(prompts), (group + 2) * head_dim)
        results = [backend.attend(numbers, prompts, rows, **layout, **tables)]
        for step in range(3):
            values = normal(2 + step, sum(later), (group + 2) * head_dim)
            results.append(
                backend.attend(numbers, later, values, repeats=repeats, **layout, **tables)
            )
        return results, [backend.cache_bits(number) for number in numbers]

    compare(run)


@every_cache
def test_attention_of_prompts(form: str) -> None:
    """Tiles of queries, across the end of a block of positions."""
    attend(form, (120, 17), (9, 10))


@every_cache
def test_attention_of_single_tokens(form: str) -> None:
    attend(form, (127, 3), (1, 1))


@every_cache
def test_attention_of_wide_heads(form: str) -> None:
    """Keys and values that come through shared memory in several stages."""
    attend(form, (70, 3), (1, 1), head_dim=136)


@every_cache
def test_attention_of_groups(form: str) -> None:
    """Rows of a tile that are heads and positions, and do not fill it."""
    attend(form, (20, 17), (3, 10), group=5)


@every_cache
def test_attention_of_large_groups(form: str) -> None:
    """More queries of single tokens than one block of threads has."""
    attend(form, (20, 17), (1, 1), group=11)


@every_cache
@pytest.mark.parametrize("count", [1, 20], ids=["few", "many"])
def test_attention_to_what_lies_before_a_window(form: str, count: int) -> None:
    """It is not finite, in the block of positions where the window begins."""
    layout = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 20, "window": 100}
    tables = dict.fromkeys(("cosines", "sines"), np.zeros((170, 0), np.float32))
    prompt = normal(1, 140, 80)
    prompt[30:41, 40:] = np.nan

    def run(backend: Any, _: Any) -> Any:
        number = backend.add_sequence(form, 1, 20, 1, 170)
        backend.attend([number], [140], prompt, **layout, **tables)
        found = backend.attend([number], [count], normal(2, count, 80), **layout, **tables)[0]
        assert np.isfinite(found).all()
        return found

    compare(run)


@every_cache
def test_attention_in_a_window(form: str) -> None:
    """It begins in one block of positions and ends in the next."""
    attend(form, (130, 3), (9, 10), window=100)
    attend(form, (130, 3), (1, 1), window=100)
    attend(form, (140, 3), (1, 1), window=6)  # it begins in both for queries side by side


def test_attention_with_a_bias() -> None:
    bias = normal(3, 2, 150, magnitude=3)
    attend("f32", (120, 17), (9, 10), bias=bias)
    attend("f32", (120, 17), (1, 1), bias=bias)


def test_single_tokens_recorded() -> None:
    attend("f16", (127, 3), (1, 1), repeats=3)
