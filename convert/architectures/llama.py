"""LLaMA 1, 2 and 3, Alpaca, Vicuna, TinyLlama, SmolLM and whatever else has their form.

Source: huggingface/transformers, models/llama, 4.x and 5.x.
"""

from __future__ import annotations

from typing import Any

from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import INTERLEAVED_SELF_ATTENTION, SELF_ATTENTION, Form, gated
from .shared.names import Names
from .shared.rope import make_rotation
from .shared.rope_config import read_rope

NAMES = Names(prefixes=("model.",), modules=("embed_tokens", r"layers\.\d+", "norm", "lm_head"))
MODULES: dict[str, str | Form] = {
    "embed": "embed_tokens",
    "final_norm": "norm",
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "qkv": SELF_ATTENTION,
    "attn_out": "self_attn.o_proj",
    "mlp_up": gated("mlp.gate_proj", "mlp.up_proj"),
    "mlp_down": "mlp.down_proj",
}
DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "interleaved_rotation": False,
}


def read_gated(config: Config, fraction: float = 1.0) -> Described:
    """Return what LLaMA's keys say, of families that have them; `fraction` is rotated."""
    heads = config.heads(kv_heads="num_key_value_heads", head_dim="head_dim")
    rope = make_rotation(read_rope(config, base=10000.0, fraction=fraction), heads["head_dim"])
    fields = {
        **heads,
        **rope.fields,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("intermediate_size"),
        "max_positions": config.size("max_position_embeddings"),
        "norm": "rms",
        "mlp": "gated",
        "activation": config.activation("hidden_act"),
    }
    return Described(fields, rope.tables)


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config)
    described.fields.update(
        norm_eps=config.number("rms_norm_eps"),
        **config.attention_biases(),
        mlp_bias=config.flag("mlp_bias"),
    )
    # No key of transformers: how Meta's own files are (source/meta.py).
    if config.flag("interleaved_rotation"):
        return described._replace(modules={"qkv": INTERLEAVED_SELF_ATTENTION})
    return described


FAMILY = Family(
    model_types=("llama",),
    title="LLaMA",
    saved_from="LlamaForCausalLM",
    old_classes=("LLaMAForCausalLM",),
    names=NAMES,
    modules=MODULES,
    read=read,
    defaults=DEFAULTS,
)
