"""The core's lists reach Python whole, and everything in them is used: nothing here is by hand.

Who adds a field, a choice, a tensor or a format to a list finds it tested, or a test that fails.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from models import logits_of, make_model, make_spec, make_tensors
from oracle import formats as format_oracle
from oracle import kernels as kernel_oracle
from oracle import kv_formats as kv_oracle

from pythia_rt import _core
from pythia_rt.cli.source_options import FORMATS
from pythia_rt.convert.flatfile.layout import is_quantised, linears, norms, tables
from pythia_rt.convert.flatfile.spec import CHOICES, FIELDS, Spec, validate_spec
from pythia_rt.loading import Loading

ROOT = Path(__file__).resolve().parent.parent

WHOLE, NUMBERS, FLAGS, TEXTS = (
    [name for name, field in FIELDS.items() if field.type == kind and not field.choices]
    for kind in ("int", "float", "bool", "str")
)
LISTS = [name for name, field in FIELDS.items() if field.type == "list[int]"]

# Choices and flags of which there are several: what a model computes depends on them.
VARIANTS = {
    **{name: list(values) for name, values in CHOICES.items()},
    **{name: [False, True] for name in FLAGS},
}


def refusal(field: str, value: Any) -> str:
    """What validate_spec says of a spec whose field has this value."""
    with pytest.raises(ValueError, match=f"^{field} ") as caught:
        validate_spec(make_spec() | {field: value})
    return str(caught.value)


def test_type_checkers_see_the_fields() -> None:
    types = {"str": str, "int": int, "float": float, "bool": bool, "list[int]": list[int]}
    listed = [(name, types[field.type]) for name, field in FIELDS.items()]
    assert list(get_type_hints(Spec).items()) == listed


def test_every_field_is_one_of_a_kind() -> None:
    kinds = [*WHOLE, *NUMBERS, *FLAGS, *TEXTS, *LISTS, *CHOICES]
    assert sorted(kinds) == sorted(FIELDS)
    assert all(field.what for field in FIELDS.values())


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_is_needed(field: str) -> None:
    spec = dict(make_spec())
    del spec[field]
    with pytest.raises(ValueError, match=f"it lacks the field '{field}'"):
        _core.validate_spec(spec)
    with pytest.raises(ValueError, match=f"it has an unknown field, '{field}s?_2'"):
        _core.validate_spec(dict(make_spec()) | {f"{field}_2": 1})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, {}, "\ud800", b"x", 1j, [0.5], [None], np.int64(1)])
def test_a_value_of_another_kind_is_refused(field: str, value: Any) -> None:
    assert refusal(field, value).isprintable()


@pytest.mark.parametrize("field", WHOLE)
def test_bounds_of_whole_numbers(field: str) -> None:
    least, most = int(FIELDS[field].least), int(FIELDS[field].most)
    expected = f"{field} is not a whole number from {least} to {most}"
    for value in (least - 1, most + 1, -(10**30), 10**30, True, float(least), str(least)):
        assert refusal(field, value) == expected
    for value in (least, most):  # it may not go with the others
        try:
            validate_spec(make_spec() | {field: value})
        except ValueError as error:
            assert str(error) != expected


@pytest.mark.parametrize("field", NUMBERS)
def test_bounds_of_numbers(field: str) -> None:
    most = FIELDS[field].most
    for value in (0, -1.0, most, math.inf, -math.inf, math.nan, 10**400, True, "1"):
        assert "is not a number above 0 and below" in refusal(field, value)
    for value in (1e-30, most * 0.99):
        assert validate_spec(make_spec() | {field: value}) == make_spec() | {field: value}


@pytest.mark.parametrize("field", FLAGS)
@pytest.mark.parametrize("value", [0, 1, "true"])
def test_flags_are_nothing_else(field: str, value: Any) -> None:
    assert refusal(field, value) == f"{field} is neither true nor false"


@pytest.mark.parametrize("field", CHOICES)
@pytest.mark.parametrize("value", ["", "unknown", 0])
def test_unknown_choices_are_refused_with_those_known(field: str, value: Any) -> None:
    assert refusal(field, value) == f"{field} is none of {', '.join(CHOICES[field])}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_kv_heads": 4}, "n_heads 6 is no multiple of n_kv_heads 4"),
        ({"rotary_dim": 5}, "rotary_dim 5 is odd or above the head size 12"),
        ({"rotary_dim": 14}, "rotary_dim 14 is odd or above the head size 12"),
        ({"windows": [1, 2, 3]}, "windows has 3 entries, and there are 2 layers"),
        (
            {"rotary_dim": 0, "rope_factor": 2},
            "rope_factor is 2, and nothing rotates where rotary_dim is 0",
        ),
        (
            {"tied_head": True, "head_bias": True},
            "head_bias is set, and a tied head, the embedding, has none",
        ),
        ({"n_tokens": 84}, "the tokenizer has 84 ids and the model 83 rows"),
        ({"bos_id": 83}, "bos_id 83 is no id of the vocabulary"),
        ({"eos_ids": [1, 83]}, "eos_ids has 83, no id of the vocabulary"),
    ],
)
def test_fields_that_contradict_each_other(changes: dict[str, Any], words: str) -> None:
    for check in (_core.validate_spec, _core.linears, lambda s: _core.Model(s, {}, {})):
        with pytest.raises(ValueError, match=f"^{words}$"):
            check(dict(make_spec()) | changes)


@pytest.mark.parametrize("field", VARIANTS)
def test_every_choice_makes_another_model(field: str) -> None:
    specs = [make_spec(**{field: value}) for value in VARIANTS[field]]
    found = [logits_of(make_model(spec)) for spec in specs]
    assert all(np.isfinite(logits).all() for logits in found)
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one - other).max() > 1e-5


@pytest.mark.parametrize("rotary_dim", [0, 12])
def test_none_or_all_of_a_head_may_rotate(rotary_dim: int, isa: str) -> None:
    logits = logits_of(make_model(make_spec(rotary_dim=rotary_dim)))
    assert np.isfinite(logits).all()
    assert np.abs(logits - logits_of(make_model(make_spec()))).max() > 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_the_binder_takes_what_the_layout_lists(tied: bool) -> None:
    spec = make_spec(tied_head=tied, learned_positions=tied, score_bias=tied)
    tensors = make_tensors(spec)
    for name in tensors:
        rest = {other: data for other, data in tensors.items() if other != name}
        with pytest.raises(ValueError, match=f"the tensor '{name}' is missing"):
            make_model(spec, tensors=rest)
        cut = tensors | {name: tensors[name][:-4]}
        with pytest.raises(ValueError, match=f"the tensor '{name}' has "):
            make_model(spec, tensors=cut)
    more = tensors | {"layers.2.qkv.weight": next(iter(tensors.values()))}
    with pytest.raises(ValueError, match=r"'layers\.2\.qkv\.weight' belongs to no part"):
        make_model(spec, tensors=more)


@pytest.mark.parametrize("block", CHOICES["block"])
def test_what_a_matrix_reads_is_in_the_layout_and_of_its_width(block: str) -> None:
    spec = make_spec(block=block)
    outputs = {norm.name: norm.size for norm in norms(spec)}
    for matrix in linears(spec):
        if matrix.reads:
            # Attention turns queries, keys and values into as many as there are queries.
            attended = spec["n_heads"] * spec["head_dim"]
            width = attended if matrix.role == "attn_out" else outputs[matrix.reads]
            assert matrix.columns == width
        else:
            reads_stream = block in ("post", "output") and matrix.role in ("qkv", "mlp_up")
            assert reads_stream or matrix.component == "embed"
        outputs[matrix.name] = matrix.rows
        expected = f"layers.{matrix.layer}.{matrix.role}" if matrix.layer >= 0 else matrix.role
        assert matrix.name == expected


@pytest.mark.parametrize("block", CHOICES["block"])
def test_a_layer_alone_takes_the_tensors_of_a_layer_and_shows_what_its_matrices_see(
    block: str,
) -> None:
    spec = make_spec(block=block)
    prefix = "layers.1."
    shared = {table.name for table in tables(spec) if table.shared}
    tensors = {
        name.removeprefix(prefix): data
        for name, data in make_tensors(spec).items()
        if name.startswith(prefix) or name in shared
    }
    matrices = [matrix for matrix in linears(spec) if matrix.layer == 1]
    layer = _core.Layer(dict(spec), {m.role: "f32" for m in matrices}, tensors)
    hidden = np.ones((3, spec["hidden_size"]), np.float32)
    _, captured = layer.run(hidden, capture=True)
    assert {m.role: (3, m.columns) for m in matrices} == {k: v.shape for k, v in captured.items()}


def test_every_format_stays_near_floats(weight_format: str, isa: str) -> None:
    spec = make_spec()
    exact, found = logits_of(make_model(spec)), logits_of(make_model(spec, weight_format))
    bits = _core.bits_per_weight(weight_format)
    # A bit more halves the error; activations of 8 bits stay behind the quantised ones.
    assert np.abs(found - exact).max() < np.abs(exact).max() * 2 ** (2.5 - min(bits, 9))


@pytest.mark.parametrize("kv_format", _core.kv_format_names())
def test_every_cache_format_stays_near_floats(kv_format: str, isa: str) -> None:
    model = make_model(make_spec())
    exact, found = logits_of(model), logits_of(model, kv_format)
    assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_the_oracle_knows_every_item() -> None:
    formats = _core.format_names()
    assert list(filter(is_quantised, formats)) == list(format_oracle.BITS)
    assert [f for f in formats if not is_quantised(f)] == list(format_oracle.DTYPES)
    assert set(kernel_oracle.EPILOGUES) == {"store", "add", *CHOICES["activation"]}
    assert set(kv_oracle.DTYPES) == set(_core.kv_format_names())


def test_a_spec_of_a_file_is_read_in_its_own_order() -> None:
    spec = dict(reversed(make_spec().items()))
    assert json.dumps(validate_spec(spec)) == json.dumps(spec)


def test_every_operation_of_a_backend_is_compared() -> None:
    """Those that a device does in a pass: tests/native calls them for tests that compare."""
    header = (ROOT / "csrc" / "backend" / "backend.h").read_text(encoding="utf-8")
    bindings = (ROOT / "tests/native/testing/backends.cc").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    operations = re.findall(r"virtual void (\w+)\(", header.partition("virtual void pass(")[2])
    assert len(operations) > 10
    methods = re.findall(r"\.def\(\"(\w+)\",\s+&TestBackend::", bindings)
    assert [name for name in operations if f"backend_->{name}(" not in bindings] == []
    assert [name for name in methods if f".{name}(" not in tests] == []


def test_the_documents_name_every_item() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    isas = re.findall(r'"(\w+)\|', (ROOT / "cmake" / "isas.cmake").read_text(encoding="utf-8"))
    names = [*_core.format_names(), *_core.kv_format_names(), *isas]
    assert [name for name in names if f"`{name}`" not in readme] == []
    checkpoints = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    families = [path.stem for path in (ROOT / "convert" / "architectures").glob("[a-z]*.py")]
    assert [name for name in families if f"| `{name}` |" not in checkpoints] == []
    (doc,) = (each.metadata["doc"] for each in fields(Loading) if each.name == "kv_format")
    assert doc == f"Format of the KV cache: {', '.join(_core.kv_format_names())}."
    assert ", ".join(_core.format_names()) == FORMATS
