"""Reads a GPT-NeoX config.json, in every spelling transformers has written, into a spec.

Source: huggingface/transformers, models/gpt_neox/configuration_gpt_neox.py, 4.x and 5.x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import CheckpointError, quote
from ...flatfile.spec import Spec, is_number, validate_spec

# transformers writes only what differs from these, so a missing key means exactly this value.
DEFAULTS: dict[str, Any] = {
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
}
DEFAULT_ROTARY_FRACTION = 0.25
DEFAULT_ROPE_BASE = 10000.0

# The two functions that transformers' many names stand for (transformers, activations.py).
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}
_ROPE_DICTIONARIES = ("rope_parameters", "rope_scaling")


def read_config(
    config: Mapping[str, Any],
    *,
    vocab_size: int,
    n_tokens: int | None,
    eos_ids: Sequence[int] = (),
) -> Spec:
    """Return the spec of a GPT-NeoX config.json.

    `vocab_size` is the number of rows of the embedding (the config's may be smaller or larger);
    `n_tokens` the number of ids of the tokenizer, None without one; `eos_ids` those of the tokens
    that end a text. Ids without a row are left out: the model cannot write them. Raises
    CheckpointError, naming the key, when a value is invalid, unknown to this runtime, or spelt
    twice with two values.
    """
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if width % heads:
        raise _error(f"divides hidden_size {width} into {heads} heads, which leaves a rest: fix it")
    head_dim = width // heads
    if config.get("head_dim") not in (None, head_dim):
        raise _error(
            f"has a head_dim that is not hidden_size / num_attention_heads: set {head_dim}"
        )
    fraction, base = _read_rope(config)
    rotary_dim = int(head_dim * fraction)
    if rotary_dim == 0:
        raise _error("asks for a rotary_dim of 0, no positions at all: set a larger rotary_pct")
    ends = [i for i in eos_ids if 0 <= i < vocab_size]
    bos = _value(config, "bos_token_id")
    attention_bias = _flag(config, "attention_bias")
    spec = {
        "architecture": "gpt_neox",
        "n_layers": _size(config, "num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": heads,
        "head_dim": head_dim,
        "hidden_size": width,
        "mlp_size": _size(config, "intermediate_size"),
        "vocab_size": vocab_size,
        "n_tokens": vocab_size if n_tokens is None else min(n_tokens, vocab_size),
        "max_positions": _size(config, "max_position_embeddings"),
        "norm": "layer",
        "norm_eps": _number(config, "layer_norm_eps"),
        "block": "parallel" if _flag(config, "use_parallel_residual") else "sequential",
        "mlp": "plain",
        "activation": _read_activation(config),
        "rope": "half",
        "rotary_dim": rotary_dim,
        "rope_base": base,
        "tied_head": _flag(config, "tie_word_embeddings"),
        "qkv_bias": attention_bias,
        "attn_out_bias": attention_bias,
        "mlp_bias": True,
        "head_bias": False,
        # GPT-NeoX puts nothing before the text; without its own id, the text's separator serves.
        "bos_id": bos if bos is not None else ends[0] if ends else 0,
        "eos_ids": ends,
    }
    try:
        return validate_spec(spec)
    except ValueError as reason:
        raise _error(f"describes a model this runtime does not know, {reason}: fix it") from None


def _error(what: str) -> CheckpointError:
    return CheckpointError(f"config.json {what}")


def _value(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key, DEFAULTS[key])


def _size(config: Mapping[str, Any], key: str) -> int:
    value = _value(config, key)
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise _error(f"has no valid {key}: set it to a positive whole number")
    return value


def _number(config: Mapping[str, Any], key: str) -> float:
    value = _value(config, key)
    if not is_number(value):
        raise _error(f"has no valid {key}: set it to a number")
    return float(value)


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = _value(config, key)
    if type(value) is not bool:
        raise _error(f"has no valid {key}: set it to true or false")
    return value


def _read_activation(config: Mapping[str, Any]) -> str:
    name = _value(config, "hidden_act")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        shown = quote(name) if isinstance(name, str) else "not a name"
        raise _error(f"has a hidden_act that is {shown}: known ones are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _read_rope(config: Mapping[str, Any]) -> tuple[float, float]:
    """Return the rotary fraction of a head and the base of the frequencies."""
    found: dict[str, dict[str, Any]] = {"partial_rotary_factor": {}, "rope_theta": {}}
    for name in _ROPE_DICTIONARIES:
        for key, value in _rope_dictionary(config, name).items():
            found[key][f"{name}.{key}"] = value
    for key, old in (("partial_rotary_factor", "rotary_pct"), ("rope_theta", "rotary_emb_base")):
        found[key] |= {k: config[k] for k in (key, old) if config.get(k) is not None}
    fraction = _agreed(found["partial_rotary_factor"], DEFAULT_ROTARY_FRACTION)
    if fraction > 1:
        raise _error("rotates more than the whole head: set rotary_pct to at most 1")
    return fraction, _agreed(found["rope_theta"], DEFAULT_ROPE_BASE)


def _rope_dictionary(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fraction and base that a rope dictionary gives; refuse whatever else it asks."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _error(f"has a {name} that is not a dictionary: remove it or fetch the file again")
    given = {key: v for key, v in value.items() if v is not None}
    for kind in [given.pop(key) for key in ("rope_type", "type") if key in given]:
        if kind != "default":
            shown = quote(kind) if isinstance(kind, str) else "not a name"
            raise _error(f"asks for rope_type {shown} in {name}: only 'default' is supported")
    unknown = sorted(set(given) - {"rope_theta", "partial_rotary_factor"})
    if unknown:
        raise _error(f"has {quote(unknown[0])} in {name}, which is not supported: remove it")
    return given


def _agreed(spellings: Mapping[str, Any], default: float) -> float:
    """Return the one value that every spelling gives, in their order of precedence."""
    for key, value in spellings.items():
        if not is_number(value) or value <= 0:
            raise _error(f"has no valid {key}: set it to a positive number")
    first = next(iter(spellings), None)
    for key, value in spellings.items():
        if first is not None and value != spellings[first]:
            raise _error(
                f"contradicts itself, {first} is {spellings[first]} and {key} is {value}: "
                "remove the wrong one"
            )
    return float(spellings[first]) if first is not None else default
