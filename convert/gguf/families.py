"""GGUF's architectures as what they are of: a family's config.json, under other names of tensors.

Source: ggml-org/llama.cpp, conversion/*.py (layouts), gguf-py/gguf/constants.py (keys). Matrices
are stored [out, in]; fused queries, keys and values follow each other, all heads of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..architectures import families
from ..architectures.shared.config import config_error
from ..architectures.shared.family import Described, Family
from ..architectures.shared.modules import (
    Form,
    Sources,
    Wanted,
    either,
    every_head,
    gated,
    halves,
    heads_as_rows,
    separate,
    whole,
)
from ..architectures.shared.names import Names
from ..errors import CheckpointError, quote
from ..plan import Pieces
from ..source.tensor import SourceTensor

FACTORS = "rope_freqs.weight"  # what frequencies are divided by, as LLaMA 3 scales them
_NAMES = Names(
    prefixes=(),
    modules=(
        *("token_embd", "token_embd_norm", "position_embd"),
        *("output_norm", "output", r"blk\.\d+"),
    ),
)


class Architecture(NamedTuple):
    """One of GGUF's: the family it is of, and how it says what the family's config.json does.

    `keys` maps keys of config.json to those of the metadata, which must be there; `optional` to
    those that may be missing. `rotates`: "" not at all, "whole" heads, or "part" of them.
    `interleaved`: queries and keys lie as neighbours that rotate together. `flags` are keys of
    config.json that are true where the first layer has a tensor, or, after "no ", has not; `norms`
    is the one that counts the norms before a layer's two parts.
    """

    family: str
    keys: Mapping[str, str]
    optional: Mapping[str, str] = {}
    rotates: str = ""
    interleaved: bool = False
    mlp: str | Form = "ffn_up"
    attn_norm: str | Form = "attn_norm"
    mlp_norm: str = "ffn_norm"
    qk_norm: Callable[[str], Form] = whole
    flags: Mapping[str, str] = {}
    norms: str = ""
    fixed: Mapping[str, Any] = {}


def _sizes(
    mlp: str, eps: str, positions: str = "max_position_embeddings", *, rms: bool = False
) -> dict[str, str]:
    """Return the keys that every architecture has, some of them as the family names them."""
    return {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "num_attention_heads": "attention.head_count",
        positions: "context_length",
        mlp: "feed_forward_length",
        eps: f"attention.layer_norm_{'rms_' if rms else ''}epsilon",
    }


_KV_HEADS = {"num_key_value_heads": "attention.head_count_kv"}
ARCHITECTURES = {
    "gptneox": Architecture(
        "gpt_neox",
        _sizes("intermediate_size", "layer_norm_eps"),
        {"use_parallel_residual": "use_parallel_residual"},
        rotates="part",
        flags={"attention_bias": "attn_qkv.bias"},
    ),
    "gpt2": Architecture("gpt2", _sizes("n_inner", "layer_norm_epsilon")),
    "bloom": Architecture("bloom", _sizes("n_inner", "layer_norm_epsilon", "seq_length")),
    "llama": Architecture(
        "llama",
        _sizes("intermediate_size", "rms_norm_eps", rms=True),
        {**_KV_HEADS, "head_dim": "attention.key_length"},
        rotates="whole",
        interleaved=True,
        mlp=gated("ffn_gate", "ffn_up"),
        flags={"attention_bias": "attn_output.bias", "mlp_bias": "ffn_down.bias"},
    ),
    "qwen2": Architecture(
        "qwen2",
        _sizes("intermediate_size", "rms_norm_eps", rms=True),
        {**_KV_HEADS, "head_dim": "attention.key_length"},
        rotates="whole",
        mlp=gated("ffn_gate", "ffn_up"),
    ),
    "qwen3": Architecture(
        "qwen3",
        _sizes("intermediate_size", "rms_norm_eps", rms=True),
        {**_KV_HEADS, "head_dim": "attention.key_length"},
        rotates="whole",
        mlp=gated("ffn_gate", "ffn_up"),
        qk_norm=every_head,
        flags={"attention_bias": "attn_output.bias"},
    ),
    "olmo2": Architecture(
        "olmo2",
        _sizes("intermediate_size", "rms_norm_eps", rms=True),
        _KV_HEADS,
        rotates="whole",
        mlp=gated("ffn_gate", "ffn_up"),
        attn_norm="post_attention_norm",
        mlp_norm="post_ffw_norm",
        flags={"attention_bias": "attn_output.bias"},
    ),
    "stablelm": Architecture(
        "stablelm",
        _sizes("intermediate_size", "layer_norm_eps"),
        _KV_HEADS,
        rotates="part",
        mlp=gated("ffn_gate", "ffn_up"),
        qk_norm=heads_as_rows,
        flags={
            "use_qkv_bias": "attn_q.bias",
            # Not by its key: llama.cpp writes true where the config is silent, and looks at norms.
            "use_parallel_residual": "no ffn_norm.weight",
            "qk_layernorm": "attn_q_norm.weight",
        },
    ),
    "phi2": Architecture(
        "phi", _sizes("intermediate_size", "layer_norm_eps"), _KV_HEADS, rotates="part"
    ),
    # All are of the newer decoder, of which the older is a case: one key, one norm. There is no
    # falcon-rw: llama.cpp always rotates.
    "falcon": Architecture(
        "falcon",
        _sizes("ffn_hidden_size", "layer_norm_epsilon"),
        {"num_kv_heads": "attention.head_count_kv"},
        rotates="whole",
        attn_norm=either("attn_norm_2", "attn_norm"),
        mlp_norm="attn_norm",
        flags={"bias": "attn_qkv.bias"},
        norms="num_ln_in_parallel_attn",
        fixed={"new_decoder_architecture": True},
    ),
}
# Keys of an architecture that change nothing that it computes.
_SILENT = {
    *("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "expert_used_count"),
    "use_parallel_residual",  # where it is not read
}
# Keys that ask for what is not there unless they have this value.
_NEUTRAL = {"expert_count": 0, "attention.causal": True, "attention.sliding_window": 0}
# Those of heads and rotations are read whether or not a family's config.json has one for them.
_HEADS = ("attention.head_count_kv", "attention.key_length", "attention.value_length")
_ROTATION = ("rope.dimension_count", "rope.freq_base", "rope.scale_linear")
_SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}


class Read(NamedTuple):
    """What the metadata say: a config.json, and the family under GGUF's names of tensors."""

    config: dict[str, Any]
    family: Family


def read_family(metadata: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> Read:
    """Return what a GGUF file's metadata say of the model that `tensors` are.

    Raises CheckpointError, naming the key, for what is missing, invalid or unknown.
    """
    if metadata.get("general.type", "model") != "model":
        raise CheckpointError("it is an adapter or a projector, no model: give the model's file")
    name = _value(metadata, "general.architecture", str)
    if name not in ARCHITECTURES:
        raise CheckpointError(
            f"its general.architecture is {quote(name)}, known ones are "
            f"{', '.join(sorted(ARCHITECTURES))}: choose a model of one of these"
        )
    known = ARCHITECTURES[name]
    given = {
        key.removeprefix(f"{name}."): value
        for key, value in metadata.items()
        if key.startswith(f"{name}.")
    }
    _refuse_unknown(name, known, given)
    config: dict[str, Any] = {**known.fixed, "tie_word_embeddings": "output.weight" not in tensors}
    for key, source in known.keys.items():
        config[key] = _value(given, source, float if key.endswith(("eps", "epsilon")) else int)
    config |= {key: given[source] for key, source in known.optional.items() if source in given}
    for key, tensor in known.flags.items():
        there = f"blk.0.{tensor.removeprefix('no ')}" in tensors
        config[key] = there is not tensor.startswith("no ")
    if known.norms:
        config[known.norms] = 1 + ("blk.0.attn_norm_2.weight" in tensors)
    head_dim = _head_dim(known, given, config)
    if known.rotates:
        config["rope_parameters"] = _rope(known, given, head_dim)
    base = families()[known.family]
    family = dataclasses.replace(
        base,
        names=_NAMES,
        modules=_modules(known),
        layer="blk",
        heads=("output",),
        read=lambda read: _with_factors(base.read(read), tensors),
    )
    return Read(config, family)


def _value(given: Mapping[str, Any], key: str, kind: type) -> Any:
    """Return what `key` has, which is of `kind`; a whole number may stand for a float."""
    value = given.get(key)
    if value is None:
        raise CheckpointError(f"its metadata lack {key}: fetch it again")
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise CheckpointError(f"its {key} is no {kind.__name__}: fetch it again")
    return value


def _refuse_unknown(name: str, known: Architecture, given: Mapping[str, Any]) -> None:
    """Check that no key is there that may change what the model computes."""
    read = {*known.keys.values(), *known.optional.values(), *_SILENT, *_NEUTRAL, *_HEADS}
    if known.rotates:
        read |= {*_ROTATION, *(f"rope.scaling.{key}" for key in _SCALING)}
    for key, value in given.items():
        if isinstance(value, (list, np.ndarray)):
            raise CheckpointError(
                f"its {quote(f'{name}.{key}')} differs from layer to layer, which this runtime "
                "cannot: choose another model"
            )
        if key not in read or (key in _NEUTRAL and value != _NEUTRAL[key]):
            raise CheckpointError(
                f"its metadata have {quote(f'{name}.{key}')}, which this runtime does not know or "
                "cannot do: choose another model"
            )


def _head_dim(known: Architecture, given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return the dimensions of a head; raise CheckpointError for what the family cannot have."""
    heads = config["num_attention_heads"]
    usual = config["hidden_size"] // max(1, heads)
    dim = given.get("attention.key_length", usual)
    if given.get("attention.value_length", dim) != dim or (
        dim != usual and "head_dim" not in known.optional
    ):
        raise CheckpointError(
            "its heads have other sizes than hidden_size / heads, or others for keys than for "
            "values, which its family cannot have: choose another model"
        )
    if given.get("attention.head_count_kv", heads) != heads and (
        "attention.head_count_kv" not in known.optional.values()
    ):
        raise CheckpointError(
            "its heads of keys are not as many as those of queries: choose another model"
        )
    return int(_value({"attention.key_length": dim}, "attention.key_length", int))


def _rope(known: Architecture, given: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Return the rope_parameters of a config.json."""
    rotated = _value({_ROTATION[0]: head_dim} | dict(given), _ROTATION[0], int)
    if rotated != head_dim and known.rotates == "whole":
        raise CheckpointError(
            f"it rotates {rotated} of {head_dim} dimensions of a head, which its family cannot: "
            "choose another model"
        )
    rope: dict[str, Any] = {"rope_theta": given.get("rope.freq_base", 10000.0)}
    if known.rotates == "part":
        # Half a dimension more than a whole number of them, which rounding down cannot miss.
        rope["partial_rotary_factor"] = min(1.0, (rotated + 0.5) / max(1, head_dim))
    rope |= {
        key: given[f"rope.scaling.{k}"]
        for k, key in _SCALING.items()
        if f"rope.scaling.{k}" in given
    }
    if "rope.scale_linear" in given and given["rope.scale_linear"] != 1:
        rope |= {"rope_type": "linear", "factor": given["rope.scale_linear"]}
    if rope.get("rope_type", "none") == "none":
        return {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
    if rope["rope_type"] == "linear":  # files have the original context with it too
        for key in set(_SCALING.values()) - {"rope_type", "factor"}:
            rope.pop(key, None)
    return rope


def _with_factors(described: Described, tensors: Mapping[str, SourceTensor]) -> Described:
    """Return what a config.json says, with frequencies divided by FACTORS if there are any."""
    if FACTORS not in tensors or "rope_frequencies" not in described.tables:
        return described
    tensor, frequencies = tensors[FACTORS], described.tables["rope_frequencies"]
    if tensor.dtype != "F32" or tensor.shape != frequencies.shape[1:]:
        raise config_error(
            f"rotates {frequencies.size} pairs of dimensions and tensor {quote(FACTORS)} is "
            f"{tensor.dtype} of the shape {list(tensor.shape)}: fetch the file again"
        )
    factors = np.empty(frequencies.size, np.float32)
    tensor.read_rows(0, factors.size, factors.view(np.uint8).data)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise config_error(f"is scaled by tensor {quote(FACTORS)}, which is not positive: fetch it")
    divided: NDArray[np.float32] = frequencies / factors
    return described._replace(tables={**described.tables, "rope_frequencies": divided})


def _modules(known: Architecture) -> dict[str, str | Form]:
    return {
        "embed": "token_embd",
        "embed_norm": "token_embd_norm",
        "embed_positions": "position_embd",
        "final_norm": "output_norm",
        "attn_norm": known.attn_norm,
        "mlp_norm": known.mlp_norm,
        "q_norm": known.qk_norm("attn_q_norm"),
        "k_norm": known.qk_norm("attn_k_norm"),
        "qkv": _queries_keys_values(known.interleaved),
        "attn_out": "attn_output",
        "mlp_up": known.mlp,
        "mlp_down": "ffn_down",
    }


def _queries_keys_values(interleaved: bool) -> Form:
    """One module of all queries, then all keys, then all values, or one of each."""
    apart = separate("attn_q", "attn_k", "attn_v", interleaved=interleaved)

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        if not sources.has("attn_qkv", wanted):
            return apart(sources, wanted)
        rows, spec = sources.rows("attn_qkv", wanted), sources.spec
        if not interleaved:
            return (rows,)
        keys = spec["n_heads"] * spec["head_dim"]
        values = keys + spec["n_kv_heads"] * spec["head_dim"]
        rotated = rows._replace(stop=values)
        return (*halves(rotated, spec), rows._replace(start=values))

    return pieces
