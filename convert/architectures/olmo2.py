"""OLMo 2: norms of what attention and MLP put out, and of a token's queries and keys.

Source: huggingface/transformers, models/olmo2, 4.47 and later.
"""

from __future__ import annotations

from .llama import DEFAULTS, MODULES, NAMES, read_gated
from .shared.config import Config
from .shared.family import Described, Family


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config)
    described.fields.update(
        norm_eps=config.number("rms_norm_eps"),
        block="output",
        qk_norm="row",
        **config.attention_biases(),
    )
    return described


FAMILY = Family(
    model_types=("olmo2",),
    title="OLMo 2",
    saved_from="Olmo2ForCausalLM",
    names=NAMES,
    modules=MODULES
    | {
        "attn_norm": "post_attention_layernorm",
        "mlp_norm": "post_feedforward_layernorm",
        "q_norm": "self_attn.q_norm",
        "k_norm": "self_attn.k_norm",
    },
    read=read,
    defaults=DEFAULTS | {"bos_token_id": None, "rms_norm_eps": 1e-5},
)
