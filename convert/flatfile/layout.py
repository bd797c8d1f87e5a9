"""Which tensors a flat file holds, in which order, with which dtypes and shapes.

The spec and the formats decide it alone, so the writer and the reader share this table and a file
that differs from it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pythia_rt import _core

from .spec import Spec

VECTOR_MULTIPLE = 16  # vectors are zero-padded to whole SIMD vectors of 16 floats
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
# The files of a checkpoint that are kept as they are: what its text is made by.
TEXT_FILES = (
    TOKENIZER_FILE,
    TOKENIZER_CONFIG_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    GENERATION_FILE,
)


class Linear(NamedTuple):
    """A weight matrix of `rows` outputs and `cols` inputs; the embedding is one, row by token."""

    name: str
    rows: int
    cols: int
    bias: bool


class Stored(NamedTuple):
    """How one tensor of a flat file is stored: a safetensors dtype and a shape."""

    dtype: str
    shape: tuple[int, ...]


def linears(spec: Spec) -> list[Linear]:
    """Return every weight matrix that `spec` implies, in the order of the file."""
    width, inner = spec["hidden_size"], spec["n_heads"] * spec["head_dim"]
    qkv_rows = (spec["n_heads"] + 2 * spec["n_kv_heads"]) * spec["head_dim"]
    matrices = [Linear("embed", spec["vocab_size"], width, False)]
    for i in range(spec["n_layers"]):
        matrices += [
            Linear(f"layers.{i}.qkv", qkv_rows, width, spec["attention_bias"]),
            Linear(f"layers.{i}.attn_out", width, inner, spec["attention_bias"]),
            Linear(f"layers.{i}.mlp_up", spec["mlp_size"], width, spec["mlp_bias"]),
            Linear(f"layers.{i}.mlp_down", width, spec["mlp_size"], spec["mlp_bias"]),
        ]
    if not spec["tied_head"]:
        matrices.append(Linear("head", spec["vocab_size"], width, False))
    return matrices


def norms(spec: Spec) -> list[str]:
    """Return the names of the norms, each with a `.weight` and a `.bias` of hidden_size entries."""
    per_layer = [
        f"layers.{i}.{norm}" for i in range(spec["n_layers"]) for norm in ("attn_norm", "mlp_norm")
    ]
    return [*per_layer, "final_norm"]


def vectors(spec: Spec) -> dict[str, int]:
    """Return {name: entries before padding} of every norm's and bias's vector."""
    sizes = {f"{n}.{part}": spec["hidden_size"] for n in norms(spec) for part in ("weight", "bias")}
    return sizes | {f"{m.name}.bias": m.rows for m in linears(spec) if m.bias}


def stored_tensors(
    spec: Spec, formats: Mapping[str, str], files: Mapping[str, int]
) -> dict[str, Stored]:
    """Return {tensor name: how it is stored}, in the order of the file, without padding tensors.

    `formats` maps linear names to formats; `files` maps names of TEXT_FILES to their bytes.
    """
    stored: dict[str, Stored] = {}
    for name, size in vectors(spec).items():
        stored[name] = Stored("F32", (-(-size // VECTOR_MULTIPLE) * VECTOR_MULTIPLE,))
    for matrix in linears(spec):
        for part, dtype, shape in _core.packed_layout(
            formats[matrix.name], matrix.rows, matrix.cols
        ):
            stored[f"{matrix.name}.{part}"] = Stored(dtype, tuple(shape))
    for name in TEXT_FILES:
        if name in files:
            stored[name] = Stored("U8", (files[name],))
    return stored


def is_quantised(form: str) -> bool:
    """Whether the format has codes and scales, which can be chosen."""
    return len(_core.packed_layout(form, 1, 1)) > 1
