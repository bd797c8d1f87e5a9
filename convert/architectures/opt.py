"""OPT, also OPT-350m, whose norms come after its blocks and whose embedding is narrower.

Source: huggingface/transformers, models/opt, 4.x and 5.x.
"""

from __future__ import annotations

from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import SELF_ATTENTION, Form, from_row, projected
from .shared.names import Names

# The first rows of its positions' table stand for padding.
FIRST_POSITION = 2


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads = config.heads()
    config.refuse("layer_norm_elementwise_affine", "norms without weights", unless=True)
    before, bias = config.flag("do_layer_norm_before"), config.flag("enable_bias")
    fields = {
        **heads,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("ffn_dim"),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": 1e-5,
        "block": "sequential" if before else "post",
        "final_norm": before and not config.flag("_remove_final_layer_norm"),
        "activation": config.activation("activation_function"),
        "learned_positions": True,
        "qkv_bias": bias,
        "attn_out_bias": bias,
        "mlp_bias": bias,
    }
    hidden = heads["hidden_size"]
    width = config.size("word_embed_proj_dim", hidden)
    modules: dict[str, Form] = {}
    if width != hidden:
        # The projections become part of the embedding and the head.
        modules = {
            "embed": projected("embed_tokens", width, "project_in", transposed=True),
            "head": projected("lm_head", width, "project_out", otherwise="embed_tokens"),
        }
    return Described(fields, modules=modules)


FAMILY = Family(
    model_types=("opt",),
    title="OPT",
    saved_from="OPTForCausalLM",
    names=Names(
        prefixes=("model.decoder.", "decoder."),
        modules=(
            *("embed_tokens", "embed_positions", "project_in", "project_out"),
            *(r"layers\.\d+", "final_layer_norm", "lm_head"),
        ),
    ),
    modules={
        "embed": "embed_tokens",
        "embed_positions": from_row("embed_positions", FIRST_POSITION),
        "final_norm": "final_layer_norm",
        "attn_norm": "self_attn_layer_norm",
        "mlp_norm": "final_layer_norm",
        "qkv": SELF_ATTENTION,
        "attn_out": "self_attn.out_proj",
        "mlp_up": "fc1",
        "mlp_down": "fc2",
    },
    read=read,
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "activation_function": "relu",
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "bos_token_id": 2,
        "tie_word_embeddings": True,
    },
)
