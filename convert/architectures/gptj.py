"""GPT-J.

Source: huggingface/transformers, models/gptj, 4.x and 5.x.
"""

from __future__ import annotations

from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import separate
from .shared.names import Names
from .shared.rope import make_rotation
from .shared.rope_config import RopeConfig


def read(config: Config) -> Described:
    """Return what a config.json says. The base of its frequencies is no key."""
    heads = config.heads()
    dim = config.size("rotary_dim")
    rope = make_rotation(RopeConfig(10000.0, 1.0, "default", {}), dim)
    fields = {
        **heads,
        **rope.fields,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("n_inner", 4 * heads["hidden_size"]),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": config.number("layer_norm_epsilon"),
        "block": "parallel_shared",
        "activation": config.activation("activation_function"),
        "mlp_bias": True,
        "head_bias": True,
    }
    return Described(fields, rope.tables)


FAMILY = Family(
    model_types=("gptj",),
    title="GPT-J",
    saved_from="GPTJForCausalLM",
    names=Names(
        prefixes=("transformer.",), modules=("wte", r"h\.\d+", "ln_f", "lm_head"), masks="attn"
    ),
    modules={
        "embed": "wte",
        "final_norm": "ln_f",
        "attn_norm": "ln_1",
        "qkv": separate("attn.q_proj", "attn.k_proj", "attn.v_proj", interleaved=True),
        "attn_out": "attn.out_proj",
        "mlp_up": "mlp.fc_in",
        "mlp_down": "mlp.fc_out",
    },
    layer="h",
    rotates_neighbours=True,
    read=read,
    defaults={
        "hidden_size": 4096,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "rotary_dim": 64,
        "n_inner": None,
        "activation_function": "gelu_new",
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 50256,
        "tie_word_embeddings": False,
    },
    spellings={
        "hidden_size": ("n_embd",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "max_position_embeddings": ("n_positions",),
    },
)
