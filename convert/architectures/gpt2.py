"""GPT-2.

Source: huggingface/transformers, models/gpt2, 4.x and 5.x. Its matrices are stored [in, out].
"""

from __future__ import annotations

from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import conv1d
from .shared.names import Names


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads = config.heads()
    config.refuse("scale_attn_weights", "scores without a scale", unless=True)
    config.refuse("scale_attn_by_inverse_layer_idx", "another scale of scores in each layer")
    config.refuse("add_cross_attention", "attention to another text")
    fields = {
        **heads,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("n_inner", 4 * heads["hidden_size"]),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": config.number("layer_norm_epsilon"),
        "activation": config.activation("activation_function"),
        "learned_positions": True,
        "qkv_bias": True,
        "attn_out_bias": True,
        "mlp_bias": True,
    }
    return Described(fields)


FAMILY = Family(
    model_types=("gpt2",),
    title="GPT-2",
    saved_from="GPT2LMHeadModel",
    names=Names(
        prefixes=("transformer.",),
        modules=("wte", "wpe", r"h\.\d+", "ln_f", "lm_head"),
        masks="attn",
    ),
    modules={
        "embed": "wte",
        "embed_positions": "wpe",
        "final_norm": "ln_f",
        "attn_norm": "ln_1",
        "mlp_norm": "ln_2",
        "qkv": conv1d("attn.c_attn"),
        "attn_out": conv1d("attn.c_proj"),
        "mlp_up": conv1d("mlp.c_fc"),
        "mlp_down": conv1d("mlp.c_proj"),
    },
    layer="h",
    stores_columns=True,
    read=read,
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "n_inner": None,
        "activation_function": "gelu_new",
        "max_position_embeddings": 1024,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "bos_token_id": 50256,
        "tie_word_embeddings": True,
    },
    spellings={
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "max_position_embeddings": ("n_positions",),
    },
)
