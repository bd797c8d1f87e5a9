"""The neutral spec: what a model is made of, as orthogonal choices, and nothing about its source.

It is JSON in the flat file and a dictionary everywhere else; the core reads the same one, and has
the list of its fields: their types, bounds and choices, what they must be to each other, and what
each says (`FIELDS["rotary_dim"].what`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from pythia_rt import _core


class Spec(TypedDict):
    """The fields of the core's list, for type checkers; a test compares the two."""

    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_size: int
    mlp_size: int
    vocab_size: int
    n_tokens: int
    max_positions: int
    norm: str
    norm_eps: float
    block: str
    embed_norm: bool
    final_norm: bool
    mlp: str
    activation: str
    rotary_dim: int
    rope_factor: float
    learned_positions: bool
    score_scale: float
    score_bias: bool
    qk_norm: str
    windows: list[int]
    tied_head: bool
    qkv_bias: bool
    attn_out_bias: bool
    mlp_bias: bool
    head_bias: bool
    bos_id: int
    eos_ids: list[int]


FIELDS = {field.name: field for field in _core.spec_fields()}
CHOICES = {name: tuple(field.choices) for name, field in FIELDS.items() if field.choices}
MAX_TOKENS = int(FIELDS["vocab_size"].most)  # no vocabulary has more


def validate_spec(data: Mapping[str, Any]) -> Spec:
    """Return `data` as a Spec, or raise ValueError with what is wrong with it, in a few words."""
    spec = dict(data)
    _core.validate_spec(spec)
    return cast(Spec, spec)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite int or float (bools are not numbers here)."""
    return type(value) in (int, float) and -1e300 < value < 1e300
