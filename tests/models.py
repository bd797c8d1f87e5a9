"""Random models of any spec, straight from the core's lists: no checkpoint, no file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert import FlatFile
from pythia_rt.convert.flatfile.layout import VECTOR_MULTIPLE, linears, tables, vectors
from pythia_rt.convert.flatfile.spec import CHOICES, FIELDS, Spec, validate_spec

Tensors = dict[str, NDArray[np.uint8] | NDArray[np.float32]]
Form = str | Mapping[str, str]  # of all matrices, or of each part of the model


def make_spec(**changes: Any) -> Spec:
    """The spec of a model with awkward sizes."""
    spec = {
        "architecture": "random",
        "n_layers": 2,
        "n_heads": 6,
        "n_kv_heads": 2,
        "head_dim": 12,
        "hidden_size": 40,
        "mlp_size": 88,
        "vocab_size": 83,
        "n_tokens": 80,
        "max_positions": 64,
        "norm": "layer",
        "norm_eps": 1e-5,
        "block": "parallel",
        "embed_norm": False,
        "final_norm": True,
        "mlp": "plain",
        "activation": "gelu",
        "rotary_dim": 6,
        "rope_factor": 1.0,
        "learned_positions": False,
        "score_scale": 12**-0.5,
        "score_bias": False,
        "qk_norm": "none",
        "windows": [],
        "tied_head": False,
        "qkv_bias": True,
        "attn_out_bias": True,
        "mlp_bias": True,
        "head_bias": False,
        "bos_id": 0,
        "eos_ids": [1],
    }
    if changes.get("mlp") == "gated":
        spec["mlp_size"] = 80  # whole blocks of 16, but no whole group of 64
    return validate_spec(spec | changes)


def covering_specs() -> list[Spec]:
    """Specs of which every two choices, of different fields, that may stand together are in one.

    All combinations would be hundreds, and thousands with a few more fields.
    """
    variants: dict[str, list[Any]] = {name: list(values) for name, values in CHOICES.items()}
    variants |= {n: [False, True] for n, f in FIELDS.items() if f.type == "bool"}
    pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(variants, 2)
        for x in variants[a]
        for y in variants[b]
    }
    random = np.random.default_rng(0)
    specs, fruitless = [], 0
    while pairs and fruitless < 100:  # what is left then contradicts itself
        draws = [
            {name: values[random.integers(len(values))] for name, values in variants.items()}
            for _ in range(20)
        ]
        valid = [draw for draw in draws if _is_valid(draw)]
        best = max(valid, key=lambda draw: len(pairs & _pairs(draw)), default={})
        fruitless = 0 if pairs & _pairs(best) else fruitless + 1
        if not fruitless:
            pairs -= _pairs(best)
            specs.append(make_spec(**best))
    return specs


def _pairs(draw: dict[str, Any]) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    return set(itertools.combinations(draw.items(), 2))


def _is_valid(changes: dict[str, Any]) -> bool:
    try:
        make_spec(**changes)
    except ValueError:
        return False
    return True


def make_weights(spec: Spec) -> dict[str, NDArray[np.float32]]:
    """Random norms, biases, tables and matrices; the same of each name in every spec."""
    weights = {
        name: _normal(name, size) + name.endswith("norm.weight")
        for name, size in vectors(spec).items()
    }
    for table in tables(spec):
        weights[table.name] = _table(table.name, table.rows, table.columns)
    for matrix in linears(spec):
        scale = 1 if matrix.component == "embed" else matrix.columns**-0.5
        weights[matrix.name] = _normal(matrix.name, matrix.rows, matrix.columns) * np.float32(scale)
    return weights


def make_tensors(
    spec: Spec, form: Form = "f32", weights: Mapping[str, NDArray[np.float32]] | None = None
) -> Tensors:
    """The same, or other weights, padded and packed as a flat file has them."""
    weights = make_weights(spec) if weights is None else weights
    tensors: Tensors = {
        name: np.pad(weights[name], (0, -size % VECTOR_MULTIPLE))
        for name, size in vectors(spec).items()
    }
    tensors |= {table.name: weights[table.name] for table in tables(spec)}
    for matrix in linears(spec):
        of_matrix = form if isinstance(form, str) else form[matrix.component]
        parts = _core.pack(of_matrix, weights[matrix.name], "F32", matrix.rows, matrix.columns)
        layout = _core.packed_layout(of_matrix, matrix.rows, matrix.columns)
        tensors |= {
            f"{matrix.name}.{part}": data for (part, _, _), data in zip(layout, parts, strict=True)
        }
    return tensors


def contents(file: FlatFile) -> dict[str, NDArray[np.float32]]:
    """The same of an f32 file."""
    found = {
        name: file.tensors[name].view(np.float32)[:n] for name, n in vectors(file.spec).items()
    }
    for table in tables(file.spec):
        stored_table = file.tensors[table.name].view(np.float32)
        found[table.name] = stored_table.reshape(table.rows, table.columns)
    for matrix in linears(file.spec):
        parts = [part for part, _, _ in _core.packed_layout("f32", matrix.rows, matrix.columns)]
        stored = [file.tensors[f"{matrix.name}.{part}"] for part in parts]
        found[matrix.name] = _core.unpack("f32", stored, matrix.rows, matrix.columns)
    return found


def make_model(
    spec: Spec,
    form: Form = "f32",
    tensors: Tensors | None = None,
    *,
    module: Any = _core,
    threads: int = 2,
    **options: Any,
) -> _core.Model:
    """A model, of another extension's if `module` is not the core."""
    formats = {m.name: form if isinstance(form, str) else form[m.component] for m in linears(spec)}
    found = make_tensors(spec, form) if tensors is None else tensors
    model: _core.Model = module.Model(dict(spec), formats, found, threads=threads, **options)
    return model


def logits_of(model: _core.Model, kv_format: str = "f32") -> NDArray[np.float32]:
    """What a model says of 40 tokens."""
    return _core.Session(model, kv_format=kv_format).logits(some_tokens(model.spec))


def some_tokens(spec: Mapping[str, Any]) -> NDArray[np.int32]:
    """40 tokens."""
    return np.random.default_rng(1).integers(0, spec["n_tokens"], 40, np.int32)


def _table(name: str, rows: int, columns: int) -> NDArray[np.float32]:
    if name == "rope_frequencies":
        return (10000.0 ** (-np.arange(columns) / columns)).astype(np.float32)[None]
    return _normal(name, rows, columns)


def _normal(name: str, *shape: int) -> NDArray[np.float32]:
    seed = list(name.encode())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
