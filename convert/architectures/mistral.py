"""Mistral: LLaMA's form with a window in its first version.

Source: huggingface/transformers, models/mistral, 4.x and 5.x.
"""

from __future__ import annotations

from .llama import DEFAULTS, MODULES, NAMES, read_gated
from .shared.config import Config
from .shared.family import Described, Family


def read(config: Config) -> Described:
    """Return what a config.json says; null is no window, and a missing key one of 4096."""
    described = read_gated(config)
    described.fields["norm_eps"] = config.number("rms_norm_eps")
    config.refuse("layer_types", "windows of some layers", unless=None)
    if config.value("sliding_window") is not None:
        described.fields["windows"] = [config.size("sliding_window")] * described.fields["n_layers"]
    return described


FAMILY = Family(
    model_types=("mistral",),
    title="Mistral",
    saved_from="MistralForCausalLM",
    names=NAMES,
    modules=MODULES,
    read=read,
    defaults=DEFAULTS
    | {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
        "layer_types": None,
    },
)
