"""What the header of a flat file says beside its tensors; the reader and the writer share it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

ALIGNMENT = 64  # bytes; the data and every tensor start on a multiple of it
PADDING_PREFIX = "padding."
# 2: formats below 8 bits have 8-bit scales. 3: what a text is made by is resolved, in `text`, an
# object to which later writers may add keys, as readers leave out those that they do not know.
# 4: the spec has the choices of other architectures than GPT-NeoX.
VERSION = 4
# Metadata keys, without their prefix; every value is a string.
KEYS = (
    "version",  # of the file format, a decimal number
    "spec",  # JSON, see spec.Spec
    "text",  # JSON, see text_facts.TextFacts
    "formats",  # JSON {linear name: format}
    "recipe",  # the formats as they were asked for, for people
    "source",  # hub id or folder name
    "revision",  # "" when the source has none
    "source_digests",  # JSON {file name: SHA-256 in hexadecimal}
    "data_sha256",  # of everything after the header
    "producer",  # program and version
)
REPORT = "report"  # JSON: how the file was measured against its source; most files have none
MAX_REPORT_BYTES = 1 << 20
# A number that no entry of a key or value exceeds (quantise.kv_range); not in old files.
KV_BOUND = "kv_bound"
# The width of the MLP's inside in the source, a decimal number, where it is gated: the file's is
# whole tiles; not in old files.
MLP_SIZE = "mlp_size"
# JSON {label: {"name", "weight"}} of the adapters and task vectors that were merged into the
# source; the digests of their files have the label before their names.
MERGED = "merged"
# The formats in which values were quantised before they were converted, for people; of GGUF files.
QUANTISED = "quantised_before"
# JSON {"values", "raw": SHA-256 of the source's tensors together, "tensors": {name: how that of its
# values begins}}, see source.value_digests; of files that were made of one checkpoint.
VALUE_DIGESTS = "value_digests"
# Why there is no tokenizer, for people; of files without one.
NO_TOKENIZER = "no_tokenizer"
PREFIX = "pythia_rt."


def metadata_entries(values: Mapping[str, str]) -> dict[str, str]:
    """Return `values`, all KEYS and maybe others of this file, as a flat file's metadata."""
    others = (KV_BOUND, MLP_SIZE, MERGED, QUANTISED, VALUE_DIGESTS, NO_TOKENIZER, REPORT)
    keys = [*KEYS, *(key for key in others if key in values)]
    return {PREFIX + key: values[key] for key in keys}


def to_json(value: Any) -> str:
    """Return `value` as the compact JSON of a metadata entry."""
    return json.dumps(value, separators=(",", ":"))
