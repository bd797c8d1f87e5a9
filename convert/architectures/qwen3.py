"""Qwen3: LLaMA's form with a norm of each head of queries and keys, and Qwen2's windows.

Source: huggingface/transformers, models/qwen3, 4.51 and later.
"""

from __future__ import annotations

from .llama import MODULES, NAMES, read_gated
from .qwen2 import QWEN_DEFAULTS, set_windows
from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import every_head


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config)
    described.fields.update(
        norm_eps=config.number("rms_norm_eps"),
        qk_norm="head",
        **config.attention_biases(),
    )
    set_windows(config, described)
    return described


FAMILY = Family(
    model_types=("qwen3",),
    title="Qwen3",
    saved_from="Qwen3ForCausalLM",
    names=NAMES,
    modules=MODULES
    | {"q_norm": every_head("self_attn.q_norm"), "k_norm": every_head("self_attn.k_norm")},
    read=read,
    defaults=QWEN_DEFAULTS | {"head_dim": 128},
)
