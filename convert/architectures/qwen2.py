"""Qwen2 and Qwen2.5: LLaMA's form with biases of queries, keys and values, and of nothing else.

Source: huggingface/transformers, models/qwen2, 4.x and 5.x.
"""

from __future__ import annotations

from .llama import DEFAULTS, MODULES, NAMES, read_gated
from .shared.config import Config, config_error
from .shared.family import Described, Family


def read(config: Config) -> Described:
    """Return what a config.json says."""
    described = read_gated(config)
    described.fields.update(norm_eps=config.number("rms_norm_eps"), qkv_bias=True)
    set_windows(config, described)
    return described


def set_windows(config: Config, described: Described) -> None:
    """Add what the config says of windows, if there are any."""
    windows = _windows(config, described.fields["n_layers"])
    if any(windows):
        described.fields["windows"] = windows


def _windows(config: Config, n_layers: int) -> list[int]:
    """Return the window of each layer, 0 for none: as listed, or that of the last layers."""
    window = config.value("sliding_window")
    if not config.flag("use_sliding_window") or window is None:
        return [0] * n_layers
    window, kinds = config.size("sliding_window"), config.value("layer_types")
    if kinds is None:
        first = config.size("max_window_layers") if config.value("max_window_layers") else 0
        return [window if i >= first else 0 for i in range(n_layers)]
    known = {"full_attention": 0, "sliding_attention": window}
    names = set(map(str, kinds)) if isinstance(kinds, list) else {""}
    if not names <= set(known) or len(kinds) != n_layers:
        raise config_error(
            "has layer_types that are not one of full_attention and sliding_attention for each "
            "layer: fetch it again"
        )
    return [known[kind] for kind in kinds]


QWEN_DEFAULTS = DEFAULTS | {
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "bos_token_id": None,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}

FAMILY = Family(
    model_types=("qwen2",),
    title="Qwen2",
    saved_from="Qwen2ForCausalLM",
    names=NAMES,
    modules=MODULES,
    read=read,
    defaults=QWEN_DEFAULTS,
)
