"""GPT-NeoX: Pythia, GPT-NeoX-20B, Dolly v2, RedPajama-INCITE, StableLM-alpha and their fine-tunes.

Source: huggingface/transformers, models/gpt_neox, 4.x and 5.x.
"""

from __future__ import annotations

from .shared.config import GELUS, Config, config_error
from .shared.family import Described, Family
from .shared.modules import megatron
from .shared.names import Names
from .shared.rope import make_rotation
from .shared.rope_config import read_rope


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads = config.heads()
    head_dim = heads["head_dim"]
    if config.data.get("head_dim") not in (None, head_dim):
        raise config_error(
            f"has a head_dim that is not hidden_size / num_attention_heads: set {head_dim}"
        )
    rope = read_rope(
        config,
        base=10000.0,
        fraction=0.25,
        kinds=("default",),
        old={"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"},
    )
    rotation = make_rotation(rope, head_dim)
    if not len(rotation.frequencies):
        raise config_error(
            "asks for a rotary_dim of 0, no positions at all: set a larger rotary_pct"
        )
    fields = {
        **heads,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("intermediate_size"),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": config.number("layer_norm_eps"),
        "block": "parallel" if config.flag("use_parallel_residual") else "sequential",
        "activation": config.activation("hidden_act", GELUS),
        **rotation.fields,
        **config.attention_biases(),
        "mlp_bias": True,
    }
    return Described(fields, rotation.tables)


FAMILY = Family(
    model_types=("gpt_neox",),
    title="GPT-NeoX",
    saved_from="GPTNeoXForCausalLM",
    names=Names(
        prefixes=("gpt_neox.",),
        modules=("embed_in", r"layers\.\d+", "final_layer_norm", "embed_out", "lm_head"),
        masks="attention",
    ),
    modules={
        "embed": "embed_in",
        "final_norm": "final_layer_norm",
        "attn_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        **megatron("attention"),
    },
    heads=("embed_out", "lm_head"),  # transformers 5 renamed the module, not the files
    read=read,
    defaults={
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
    },
)
