"""BLOOM and BLOOMZ.

Source: huggingface/transformers, models/bloom, 4.x and 5.x.
"""

from __future__ import annotations

from .shared.alibi import alibi
from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import megatron
from .shared.names import Names

MAX_POSITIONS = 2048  # as it was trained; no key says so, and seq_length is there for people


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads = config.heads()
    config.refuse(
        "apply_residual_connection_post_layernorm", "a residual stream of the norms' outputs"
    )
    positions = config.size("seq_length", MAX_POSITIONS)
    fields = {
        **heads,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("n_inner", 4 * heads["hidden_size"]),
        "max_positions": positions,
        "norm_eps": config.number("layer_norm_epsilon"),
        "activation": "gelu_tanh",
        "embed_norm": True,
        "score_bias": True,
        "qkv_bias": True,
        "attn_out_bias": True,
        "mlp_bias": True,
    }
    return Described(fields, {"score_bias": alibi(heads["n_heads"], positions)})


FAMILY = Family(
    model_types=("bloom",),
    title="BLOOM",
    saved_from="BloomForCausalLM",
    names=Names(
        prefixes=("transformer.",),
        modules=(
            *("word_embeddings", "word_embeddings_layernorm"),
            *(r"h\.\d+", "ln_f", "lm_head"),
        ),
    ),
    modules={
        "embed": "word_embeddings",
        "embed_norm": "word_embeddings_layernorm",
        "final_norm": "ln_f",
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        **megatron("self_attention"),
    },
    layer="h",
    read=read,
    defaults={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "n_inner": None,
        "seq_length": None,
        "layer_norm_epsilon": 1e-5,
        "apply_residual_connection_post_layernorm": False,
        "bos_token_id": 1,
        "tie_word_embeddings": True,
    },
    spellings={
        "hidden_size": ("n_embed",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head", "num_heads"),
    },
)
