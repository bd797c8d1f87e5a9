"""Phi-1, Phi-1.5 and Phi-2.

Source: huggingface/transformers, models/phi, 4.37 and later.
"""

from __future__ import annotations

from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import SELF_ATTENTION, every_head
from .shared.names import Names
from .shared.rope import make_rotation
from .shared.rope_config import read_rope


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads = config.heads(kv_heads="num_key_value_heads")
    rope = make_rotation(read_rope(config, base=10000.0, fraction=0.5), heads["head_dim"])
    fields = {
        **heads,
        **rope.fields,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("intermediate_size"),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": config.number("layer_norm_eps"),
        "block": "parallel_shared",
        "qk_norm": "head" if config.flag("qk_layernorm") else "none",
        "activation": config.activation("hidden_act"),
        "qkv_bias": True,
        "attn_out_bias": True,
        "mlp_bias": True,
        "head_bias": True,
    }
    return Described(fields, rope.tables)


FAMILY = Family(
    model_types=("phi",),
    title="Phi",
    saved_from="PhiForCausalLM",
    names=Names(
        prefixes=("model.",),
        modules=("embed_tokens", r"layers\.\d+", "final_layernorm", "lm_head"),
    ),
    modules={
        "embed": "embed_tokens",
        "final_norm": "final_layernorm",
        "attn_norm": "input_layernorm",
        "qkv": SELF_ATTENTION,
        "q_norm": every_head("self_attn.q_layernorm"),
        "k_norm": every_head("self_attn.k_layernorm"),
        "attn_out": "self_attn.dense",
        "mlp_up": "mlp.fc1",
        "mlp_down": "mlp.fc2",
    },
    read=read,
    defaults={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "hidden_act": "gelu_new",
        "max_position_embeddings": 2048,
        "layer_norm_eps": 1e-5,
        "qk_layernorm": False,
        "bos_token_id": 1,
        "tie_word_embeddings": False,
    },
)
