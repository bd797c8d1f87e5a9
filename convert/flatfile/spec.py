"""The neutral spec: what a model is made of, as orthogonal choices, and nothing about its source.

It is JSON in the flat file and a dictionary everywhere else; the core reads the same one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict, cast


class Spec(TypedDict):
    """Sizes are counts of elements; see DESIGN for how the choices combine into blocks."""

    architecture: str  # where it came from; for people, the runtime does not look at it
    n_layers: int
    n_heads: int
    n_kv_heads: int  # divides n_heads
    head_dim: int
    hidden_size: int
    mlp_size: int
    vocab_size: int  # rows of the embedding
    n_tokens: int  # ids the tokenizer knows; the rows beyond are padding
    max_positions: int
    norm: str
    norm_eps: float
    residual: str
    mlp: str
    activation: str
    rope: str
    rotary_dim: int  # even, at most head_dim
    rope_base: float
    tied_head: bool  # the head is the embedding
    attention_bias: bool  # of qkv and attn_out
    mlp_bias: bool
    bos_id: int
    eos_ids: list[int]


CHOICES = {
    "norm": ("layer",),
    "residual": ("parallel", "sequential"),
    "mlp": ("plain",),
    "activation": ("gelu", "gelu_tanh"),
    "rope": ("half",),
}
_SIZES = (
    "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_size", "mlp_size", "vocab_size",
    "n_tokens", "max_positions", "rotary_dim",
)  # fmt: skip
_POSITIVE = ("norm_eps", "rope_base")
_FLAGS = ("tied_head", "attention_bias", "mlp_bias")
# Far above any model, far below where products of two sizes leave 64 bits.
MAX_SIZE = 1 << 24


def validate_spec(data: Mapping[str, Any]) -> Spec:
    """Return `data` as a Spec, or raise ValueError with what is wrong with it, in a few words."""
    keys = set(Spec.__annotations__)
    if set(data) != keys:
        missing, surplus = sorted(keys - set(data)), sorted(set(data) - keys)
        raise ValueError(f"its fields differ from the known ones: {(missing or surplus)[0]!r}")
    if type(data["architecture"]) is not str:
        raise ValueError("architecture is not a name")
    for field, allowed in CHOICES.items():
        if not isinstance(data[field], str) or data[field] not in allowed:
            raise ValueError(f"{field} is none of {', '.join(allowed)}")
    for field in _SIZES:
        if type(data[field]) is not int or not 1 <= data[field] <= MAX_SIZE:
            raise ValueError(f"{field} is not a whole number from 1 to {MAX_SIZE}")
    for field in _POSITIVE:
        if not is_number(data[field]) or not 0 < data[field] < math.inf:
            raise ValueError(f"{field} is not a positive number")
    for field in _FLAGS:
        if type(data[field]) is not bool:
            raise ValueError(f"{field} is neither true nor false")
    spec = cast(Spec, dict(data))
    _check_relations(spec)
    return spec


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float (bools are not numbers here)."""
    return type(value) in (int, float) and -1e300 < value < 1e300


def _check_relations(spec: Spec) -> None:
    if spec["n_heads"] % spec["n_kv_heads"]:
        raise ValueError(
            f"n_heads {spec['n_heads']} is no multiple of n_kv_heads {spec['n_kv_heads']}"
        )
    if spec["rotary_dim"] % 2 or spec["rotary_dim"] > spec["head_dim"]:
        raise ValueError(
            f"rotary_dim {spec['rotary_dim']} is odd or above the head size {spec['head_dim']}"
        )
    if spec["n_tokens"] > spec["vocab_size"]:
        raise ValueError(
            f"the tokenizer has {spec['n_tokens']} ids and the model {spec['vocab_size']} rows"
        )
    ids = [spec["bos_id"], *spec["eos_ids"]] if isinstance(spec["eos_ids"], list) else [None]
    if not all(type(i) is int and 0 <= i < spec["vocab_size"] for i in ids):
        raise ValueError("bos_id or eos_ids are not ids of the vocabulary")
