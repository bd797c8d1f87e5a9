"""Random models of any spec, straight from the core's lists: no checkpoint, no file."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.flatfile.layout import VECTOR_MULTIPLE, linears, vectors
from pythia_rt.convert.flatfile.spec import Spec, validate_spec

Tensors = dict[str, NDArray[np.uint8] | NDArray[np.float32]]


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
        "residual": "parallel",
        "mlp": "plain",
        "activation": "gelu",
        "rope": "half",
        "rotary_dim": 6,
        "rope_base": 10000.0,
        "tied_head": False,
        "attention_bias": True,
        "mlp_bias": True,
        "bos_id": 0,
        "eos_ids": [1],
    }
    return validate_spec(spec | changes)


def make_tensors(spec: Spec, form: str = "f32") -> Tensors:
    """Random tensors of all norms, biases and matrices; the same of each name in every spec."""
    tensors: Tensors = {}
    for name, size in vectors(spec).items():
        values = np.zeros(-(-size // VECTOR_MULTIPLE) * VECTOR_MULTIPLE, np.float32)
        values[:size] = _normal(name, size) + name.endswith("norm.weight")
        tensors[name] = values
    for matrix in linears(spec):
        scale = 1 if matrix.part == "embed" else matrix.columns**-0.5
        values = _normal(matrix.name, matrix.rows, matrix.columns) * np.float32(scale)
        parts = _core.pack(form, values, "F32", matrix.rows, matrix.columns)
        layout = _core.packed_layout(form, matrix.rows, matrix.columns)
        tensors |= {
            f"{matrix.name}.{part}": data for (part, _, _), data in zip(layout, parts, strict=True)
        }
    return tensors


def make_model(spec: Spec, form: str = "f32", tensors: Tensors | None = None) -> _core.Model:
    formats = {matrix.name: form for matrix in linears(spec)}
    found = make_tensors(spec, form) if tensors is None else tensors
    return _core.Model(dict(spec), formats, found, threads=2)


def logits_of(model: _core.Model, kv_format: str = "f32") -> NDArray[np.float32]:
    """What a model says of 40 tokens."""
    tokens = np.random.default_rng(1).integers(0, model.spec["n_tokens"], 40, np.int32)
    return _core.Session(model, kv_format=kv_format).logits(tokens)


def _normal(name: str, *shape: int) -> NDArray[np.float32]:
    seed = list(name.encode())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
