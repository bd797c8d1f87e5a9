"""StableLM-3B-4E1T and StableLM 2: LLaMA's names, with layer norms and a rotated part of a head.

Source: huggingface/transformers, models/stablelm, 4.x and 5.x.
"""

from __future__ import annotations

from .llama import DEFAULTS, MODULES, NAMES, read_gated
from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import norm_per_head


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config, fraction=0.25)
    parallel = config.flag("use_parallel_residual")
    described.fields.update(
        norm="layer",
        norm_eps=config.number("layer_norm_eps"),
        block="parallel_shared" if parallel else "sequential",
        qk_norm="head" if config.flag("qk_layernorm") else "none",
        qkv_bias=config.flag("use_qkv_bias"),
    )
    return described


FAMILY = Family(
    model_types=("stablelm",),
    title="StableLM",
    saved_from="StableLmForCausalLM",
    names=NAMES,
    modules=MODULES
    | {
        "q_norm": norm_per_head("self_attn.q_layernorm.norms"),
        "k_norm": norm_per_head("self_attn.k_layernorm.norms"),
    },
    read=read,
    defaults=DEFAULTS
    | {
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "use_qkv_bias": False,
        "qk_layernorm": False,
        "use_parallel_residual": False,
    },
)
