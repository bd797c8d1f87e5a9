"""Every operation of every backend against the scalar one, bit for bit.

The scalar kernels are compared with numpy in double precision in test_kernels.py; here the same
bodies run on every instruction set, on CUDA's kernels under the emulator in every order of threads,
and, marked gpu, on a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from backends import (
    ORDERS,
    SUBJECTS,
    Subject,
    _testing,
    assert_same_bits,
    make_reference,
    normal,
    pack,
    product,
    set_order,
)
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import make_spec
from numpy.typing import NDArray

from pythia_rt.convert.flatfile.layout import is_quantised
from pythia_rt.convert.flatfile.spec import CHOICES

Floats = NDArray[np.float32]
FORMATS: list[str] = _testing.format_names()
KV_FORMATS: list[str] = _testing.kv_format_names()
QUANTISED = list(filter(is_quantised, FORMATS))

REFERENCE = make_reference()

thorough = settings(max_examples=examples(12), deadline=None)
every_backend = pytest.mark.parametrize("subject", SUBJECTS)
every_format = pytest.mark.parametrize("form", FORMATS)
every_cache = pytest.mark.parametrize("form", KV_FORMATS)

seeds = st.integers(0, 2**32 - 1)
orders = st.tuples(st.sampled_from(ORDERS), st.integers(1, 2**30))
# Around the sizes where tiles, warps and blocks of threads end.
widths = st.one_of(
    st.integers(1, 200), st.sampled_from([63, 64, 65, 127, 256, 320, 512, 520, 1088, 2120, 4160])
)
outputs = st.one_of(st.integers(1, 150), st.sampled_from([16, 31, 32, 33, 48, 128, 129, 256, 272]))
counts = st.one_of(st.integers(1, 20), st.sampled_from([1, 2, 7, 8, 9, 31, 64, 65, 100]))


@every_backend
@every_format
@thorough
@given(
    rows=outputs,
    columns=widths,
    count=counts,
    epilogue=st.sampled_from(["store", "add", *CHOICES["activation"]]),
    has_bias=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_linear(
    subject: Subject, form: str, rows: int, columns: int, count: int, epilogue: str,
    has_bias: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    set_order(order)
    values = normal(seed, count, columns)
    before = normal(seed + 2, count, rows) if epilogue == "add" else None

    def run(backend: Any, module: Any) -> Any:
        case = product(module, form, seed + 3, rows, values, epilogue, has_bias)
        return backend.linear([case], before)

    assert_same_bits(run(subject.make(), subject.module), run(REFERENCE, _testing))


@every_backend
@every_format
@thorough
@given(
    rows=outputs,
    columns=st.integers(1, 200),
    count=counts,
    epilogue=st.sampled_from(["store", "add", *CHOICES["activation"]]),
    in_place=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_a_product_in_two_steps(
    subject: Subject, form: str, rows: int, columns: int, count: int, epilogue: str,
    in_place: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    """What a product does on its way out is the same done afterwards, elsewhere or in place."""
    set_order(order)
    values = normal(seed, count, columns)
    before = normal(seed + 2, count, rows) if epilogue == "add" else None
    backend = subject.make()

    def multiply(epilogue: str, before: Any) -> Any:
        return backend.linear(
            [product(subject.module, form, seed + 3, rows, values, epilogue, True)], before
        )[0]

    in_place = in_place and epilogue != "add"
    results = multiply("store", None)
    assert_same_bits(
        backend.finish(epilogue, results, before, in_place), multiply(epilogue, before)
    )


@every_backend
@thorough
@given(count=counts, width=widths, part=st.tuples(st.floats(0, 1), st.floats(0, 1)), seed=seeds)
def test_writing_some_columns(
    subject: Subject, count: int, width: int, part: tuple[float, float], seed: int
) -> None:
    first, end = sorted(round(width * p) for p in part)
    first = min(first, width - 1)
    rows = normal(seed, count, width)
    columns = normal(seed + 1, count, max(end - first, 1))
    expected = rows.copy()
    expected[:, first : first + columns.shape[1]] = columns
    assert_same_bits(subject.make().write_columns(rows, first, columns), expected)
    for writes in (False, True):
        found, seen = subject.make().on_host(expected, first, columns.shape[1], writes)
        assert_same_bits(seen, columns)
        changed = expected.copy()
        if writes:
            numbers = np.arange(count, dtype=np.float32)[:, None]
            changed[:, first : first + columns.shape[1]] = 2 * columns + numbers
        assert_same_bits(found, changed)


@every_backend
@thorough
@given(
    forms=st.tuples(st.sampled_from(FORMATS), st.sampled_from(FORMATS)),
    sizes=st.tuples(outputs, widths, outputs, widths),
    count=counts,
    joined=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_two_products(
    subject: Subject, forms: tuple[str, str], sizes: tuple[int, int, int, int], count: int,
    joined: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    """Into rows of their own, or one after the other into the same."""
    set_order(order)
    first_rows, first_columns, second_rows, second_columns = sizes
    second_rows = first_rows if joined else second_rows
    first_in, second_in = (
        normal(seed, count, first_columns),
        normal(seed + 1, count, second_columns),
    )
    before = normal(seed + 2, count, first_rows) if joined else None
    epilogues = ("add", "add") if joined else ("store", "gelu")

    def run(backend: Any, module: Any) -> Any:
        cases = [
            product(module, forms[0], seed + 3, first_rows, first_in, epilogues[0], True),
            product(module, forms[1], seed + 5, second_rows, second_in, epilogues[1], False),
        ]
        return backend.linear(cases, before)

    assert_same_bits(run(subject.make(), subject.module), run(REFERENCE, _testing))


@every_backend
@every_format
@thorough
@given(
    pairs=st.integers(1, 9),
    columns=st.integers(1, 200),
    count=counts,
    epilogue=st.sampled_from(CHOICES["activation"]),
    has_bias=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_a_gated_product(
    subject: Subject, form: str, pairs: int, columns: int, count: int, epilogue: str,
    has_bias: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    """Alone, beside another product, and in two steps: the same bits, which are act(gate) * up."""
    set_order(order)
    values = normal(seed, count, columns)
    backend, module = subject.make(), subject.module

    def case(epilogue: str, gated: bool) -> Any:
        return product(module, form, seed + 3, 32 * pairs, values, epilogue, has_bias, gated)

    (raw,) = REFERENCE.linear(
        [product(_testing, form, seed + 3, 32 * pairs, values, "store", has_bias)]
    )
    tiles = raw.reshape(count, pairs, 2, 16)
    gate = REFERENCE.finish(epilogue, np.ascontiguousarray(tiles[:, :, 0]).reshape(count, -1))
    expected = gate * tiles[:, :, 1].reshape(count, -1)
    (found,) = backend.linear([case(epilogue, True)])
    assert_same_bits(found, expected)
    assert_same_bits(backend.finish_gated(epilogue, raw), expected)
    both = backend.linear([case("store", False), case(epilogue, True)])
    assert_same_bits(both, [raw, expected])


@every_backend
@every_format
@thorough
@given(rows=outputs, columns=widths, count=counts, seed=seeds, order=orders)
def test_embed(
    subject: Subject, form: str, rows: int, columns: int, count: int, seed: int,
    order: tuple[str, int],
) -> None:  # fmt: skip
    set_order(order)
    parts = pack(form, seed, rows, columns)
    tokens = np.random.default_rng(seed).integers(0, rows, count).tolist()
    expected = REFERENCE.embed(form, parts, rows, columns, tokens)
    assert_same_bits(subject.make().embed(form, parts, rows, columns, tokens), expected)


@every_backend
@thorough
@given(columns=widths, count=counts, most=st.integers(1, 300), seed=seeds, order=orders)
def test_embed_with_positions(
    subject: Subject, columns: int, count: int, most: int, seed: int, order: tuple[str, int]
) -> None:
    set_order(order)
    random = np.random.default_rng(seed)
    tokens, places = random.integers(0, 7, count).tolist(), random.integers(0, most, count).tolist()
    parts, table = pack("f16", seed, 7, columns), normal(seed + 1, most, columns)
    matrix = ("f16", parts, 7, columns)
    embedded = REFERENCE.embed(*matrix, tokens)
    backend = subject.make()
    assert_same_bits(backend.embed(*matrix, tokens, table, places), embedded + table[places])
    assert_same_bits(backend.embed(*matrix, [], table, places), table[places])


@every_backend
@thorough
@given(count=counts, width=widths, wanted=st.integers(1, 40), seed=seeds, order=orders)
def test_gather(
    subject: Subject, count: int, width: int, wanted: int, seed: int, order: tuple[str, int]
) -> None:
    set_order(order)
    rows = normal(seed, count, width)
    index = np.random.default_rng(seed).integers(0, count, wanted).tolist()
    assert_same_bits(subject.make().gather(rows, index), rows[index])


@every_backend
@thorough
@given(
    form=st.sampled_from(FORMATS),
    vocabulary=st.one_of(st.integers(1, 700), st.sampled_from([511, 512, 513, 1500])),
    columns=st.integers(1, 70),
    count=st.sampled_from([1, 2, 9, 33]),
    seed=seeds,
    order=orders,
)
def test_score(
    subject: Subject, form: str, vocabulary: int, columns: int, count: int, seed: int,
    order: tuple[str, int],
) -> None:  # fmt: skip
    set_order(order)
    values = normal(seed, count, columns)
    targets = np.random.default_rng(seed).integers(0, vocabulary, count).tolist()

    def run(backend: Any, module: Any) -> Any:
        return backend.score(
            product(module, form, seed, vocabulary, values, "store", False), targets
        )

    assert_same_bits(run(subject.make(), subject.module), run(REFERENCE, _testing))


head_dims = st.one_of(st.integers(1, 100), st.sampled_from([20, 32, 64, 80, 96, 128, 256]))
# What each pass appends to each of up to three sequences: single tokens, prompts, blocks' ends.
passes = st.lists(
    st.lists(st.sampled_from([0, 1, 1, 2, 5, 16, 17, 40, 127, 128, 130]), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
)


@every_backend
@every_cache
@thorough
@given(
    head_dim=head_dims,
    kv_heads=st.integers(1, 2),
    shared=st.sampled_from([1, 2, 3, 5, 8]),
    rotated=st.sampled_from([0.0, 0.25, 1.0]),
    layers=st.integers(1, 2),
    steps=passes,
    sharpness=st.sampled_from([1.0, 10.0, 1000.0]),
    rewound=st.booleans(),
    window=st.sampled_from([0, 0, 1, 100, 128, 129]),
    biased=st.booleans(),
    seed=seeds,
    order=orders,
)
def test_attention(
    subject: Subject, form: str, head_dim: int, kv_heads: int, shared: int, rotated: float,
    layers: int, steps: list[list[int]], sharpness: float, rewound: bool, window: int,
    biased: bool, seed: int, order: tuple[str, int],
) -> None:  # fmt: skip
    """Passes over several sequences whose caches fill up, in the last of the layers."""
    set_order(order)
    if head_dim > 100 or shared > 2:
        steps = [[min(count, 40) for count in counts] for counts in steps]
    half = int(head_dim * rotated) // 2
    angles = normal(seed, 600, half, magnitude=10)
    tables = np.cos(angles), np.sin(angles)
    heads = kv_heads * shared
    layout = {"n_heads": heads, "n_kv_heads": kv_heads, "head_dim": head_dim}
    scoring = {
        "scale": head_dim**-0.5,
        "window": window,
        "bias": normal(seed, heads, 600, magnitude=3) if biased else None,
    }

    def run(backend: Any) -> Any:
        results = []
        numbers = [
            backend.add_sequence(form, kv_heads, head_dim, layers, capacity)
            for capacity in (530, 544, 600)
        ]
        for step, wanted in enumerate(steps):
            rows = [(number, count) for number, count in zip(numbers, wanted, strict=True) if count]
            if not rows:
                continue
            chosen, counted = zip(*rows, strict=True)
            values = normal(seed + step, sum(counted), (heads + 2 * kv_heads) * head_dim)
            values[:, : heads * head_dim] *= np.float32(sharpness)
            results.append(
                backend.attend(
                    chosen, counted, values,
                    cosines=tables[0], sines=tables[1], layer=layers - 1, **layout, **scoring,
                )
            )  # fmt: skip
            if rewound and step == 1:
                for number in numbers:
                    backend.rewind(number, 1)
        return results, [backend.cache_bits(number) for number in numbers]

    assert_same_bits(run(subject.make()), run(make_reference()))


@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("window", [6, 100])
@every_cache
@every_backend
def test_what_lies_before_a_window_is_not_seen(
    subject: Subject, form: str, window: int, count: int
) -> None:
    """Keys and values there that are not finite, in the block of positions where it begins."""
    heads, head_dim, first = 3, 20, 140
    angles = np.zeros((200, 0), np.float32)
    prompt, later = (normal(i, n, (heads + 2) * head_dim) for i, n in ((1, first), (2, count)))
    hidden = first + 1 - window  # positions that no later row sees: but for some of the first rows
    spoilt = 3 if count > 1 else 0

    def run(backend: Any, planted: bool) -> Floats:
        values = prompt.copy()
        if planted:
            for i, value in enumerate((np.nan, -np.inf, np.inf)):
                values[hidden - 3 + i + spoilt, heads * head_dim :] = value
        layout = {"n_heads": heads, "n_kv_heads": 1, "head_dim": head_dim, "window": window}
        number = backend.add_sequence(form, 1, head_dim, 1, 180)
        tables = {"cosines": angles, "sines": angles}
        backend.attend([number], [first], values, **layout, **tables)
        found: Floats = backend.attend([number], [count], later, **layout, **tables)[0]
        return found

    expected = run(make_reference(), planted=False)
    assert np.isfinite(expected).all()
    for make in (subject.make, make_reference):
        found = run(make(), planted=True)
        assert not np.isfinite(found[:spoilt]).all(axis=1).any()
        assert_same_bits(found[spoilt:], expected[spoilt:])


@every_backend
@every_cache
@thorough
@given(head_dim=st.sampled_from([16, 20, 64]), steps=st.integers(3, 9), seed=seeds, order=orders)
def test_a_pass_that_comes_again(
    subject: Subject, form: str, head_dim: int, steps: int, seed: int, order: tuple[str, int]
) -> None:
    """Single tokens of two sequences, as a device may record and replay them."""
    set_order(order)
    angles = normal(seed, 300, head_dim // 4, magnitude=10)
    layout = {"n_heads": 2, "n_kv_heads": 1, "head_dim": head_dim}
    tables = {"cosines": np.cos(angles), "sines": np.sin(angles)}

    def run(backend: Any) -> Any:
        numbers = [backend.add_sequence(form, 1, head_dim, 1, 160) for _ in range(2)]
        prompt = normal(seed, 124 + 3, 4 * head_dim)  # a block of positions ends on the way
        backend.attend(numbers, (124, 3), prompt, **layout, **tables)
        results = []
        for step in range(steps):
            values = normal(seed + step, 2, 4 * head_dim)
            turn = numbers if step % 3 else numbers[::-1]
            results.append(backend.attend(turn, (1, 1), values, repeats=5, **layout, **tables))
        return results

    assert_same_bits(run(subject.make()), run(make_reference()))


@pytest.mark.parametrize("mlp", CHOICES["mlp"])
def test_all_that_a_pass_takes_is_counted(mlp: str) -> None:
    counted, taken = _testing.activation_bytes(dict(make_spec(mlp=mlp)))
    assert counted == taken
