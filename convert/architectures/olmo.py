"""OLMo 1: LLaMA's form with layer norms that have no weights.

Source: huggingface/transformers, models/olmo, 4.x and 5.x.
"""

from __future__ import annotations

from .llama import DEFAULTS, MODULES, NAMES, read_gated
from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import constant_norm


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config)
    config.refuse("clip_qkv", "queries, keys and values that are clipped", unless=None)
    described.fields.update(norm="layer", norm_eps=1e-5, **config.attention_biases())
    return described


NORMS = dict.fromkeys(("attn_norm", "mlp_norm", "final_norm"), constant_norm())

FAMILY = Family(
    model_types=("olmo",),
    title="OLMo",
    saved_from="OlmoForCausalLM",
    names=NAMES,
    modules=MODULES | NORMS,
    read=read,
    defaults=DEFAULTS | {"bos_token_id": None, "clip_qkv": None},
)
