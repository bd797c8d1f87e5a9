"""Which tensors a flat file holds, in which order, with which dtypes and shapes.

The spec and the formats decide it alone: the core has the list of norms and matrices, which its
loader walks too, and how a format is stored. The writer and the reader share this table, and a file
that differs from it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pythia_rt import _core
from pythia_rt._core import Linear as Linear  # for whoever walks the layout
from pythia_rt._core import Norm as Norm
from pythia_rt._core import Table as Table

from .spec import Spec

VECTOR_MULTIPLE = 16  # vectors are zero-padded to whole SIMD vectors of 16 floats
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
# A folder of more of them; its files are kept as facts alone (text_facts.py).
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"
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
# Where there is no tokenizer.json it is built of these (convert/text/tokenizer_sources.py).
VOCABULARY_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
SENTENCEPIECE_FILE = "tokenizer.model"
TOKENIZER_SOURCES = (VOCABULARY_FILE, MERGES_FILE, SENTENCEPIECE_FILE)


class Stored(NamedTuple):
    """How one tensor of a flat file is stored: a safetensors dtype and a shape."""

    dtype: str
    shape: tuple[int, ...]


def norms(spec: Spec) -> list[Norm]:
    """Return every norm that `spec` implies, in the order of the file."""
    return _core.norms(dict(spec))


def linears(spec: Spec) -> list[Linear]:
    """Return every weight matrix that `spec` implies, in the order of the file."""
    return _core.linears(dict(spec))


def tables(spec: Spec) -> list[Table]:
    """Return every table that `spec` implies, in the order of the file."""
    return _core.tables(dict(spec))


def vectors(spec: Spec) -> dict[str, int]:
    """Return {name: entries before padding} of every norm's and bias's vector."""
    sizes = {}
    for norm in norms(spec):
        sizes[f"{norm.name}.weight"] = norm.size
        if norm.bias:
            sizes[f"{norm.name}.bias"] = norm.size
    return sizes | {f"{m.name}.bias": m.rows for m in linears(spec) if m.bias}


def stored_tensors(
    spec: Spec,
    formats: Mapping[str, str],
    basis: Mapping[str, Stored],
    files: Mapping[str, int],
) -> dict[str, Stored]:
    """Return {tensor name: how it is stored}, in the order of the file, without padding tensors.

    `formats` maps linear names to formats; `basis` has what the file has of basis.py; `files` maps
    names of TEXT_FILES to their bytes.
    """
    stored: dict[str, Stored] = {}
    for name, size in vectors(spec).items():
        stored[name] = Stored("F32", (-(-size // VECTOR_MULTIPLE) * VECTOR_MULTIPLE,))
    for table in tables(spec):
        stored[table.name] = Stored("F32", (table.rows, table.columns))
    for matrix in linears(spec):
        for part, dtype, shape in _core.packed_layout(
            formats[matrix.name], matrix.rows, matrix.columns
        ):
            stored[f"{matrix.name}.{part}"] = Stored(dtype, tuple(shape))
    stored |= basis
    for name in TEXT_FILES:
        if name in files:
            stored[name] = Stored("U8", (files[name],))
    return stored


def is_quantised(form: str) -> bool:
    """Whether the format has codes and scales, which can be chosen."""
    return len(_core.packed_layout(form, 1, 1)) > 1
