"""GPT-Neo.

Source: huggingface/transformers, models/gpt_neo, 4.x and 5.x.
"""

from __future__ import annotations

from .shared.config import Config, config_error
from .shared.family import Described, Family
from .shared.modules import separate
from .shared.names import Names


def read(config: Config) -> Described:
    """Return what a config.json says."""
    heads, n_layers = config.heads(), config.size("num_hidden_layers")
    fields = {
        **heads,
        "n_layers": n_layers,
        "mlp_size": config.size("intermediate_size", 4 * heads["hidden_size"]),
        "max_positions": config.size("max_position_embeddings"),
        "norm_eps": config.number("layer_norm_epsilon"),
        "activation": config.activation("activation_function"),
        "learned_positions": True,
        "score_scale": 1.0,
        "windows": _windows(config, n_layers),
        "attn_out_bias": True,
        "mlp_bias": True,
    }
    return Described(fields)


def _windows(config: Config, n_layers: int) -> list[int]:
    """Return the window of each layer, 0 for all; none at all where every layer sees all."""
    known = {"global": 0, "local": config.size("window_size")}
    kinds = _kinds(config.value("attention_types"), n_layers)
    listed = config.data.get("attention_layers")
    if kinds is None or len(kinds) != n_layers or not set(kinds) <= set(known):
        raise config_error(
            "has attention_types that are not one of global and local for each layer: "
            "fetch it again"
        )
    if listed is not None and listed != kinds:
        raise config_error(
            "contradicts itself, attention_layers are not what attention_types say: "
            "remove the wrong one"
        )
    windows = [known[kind] for kind in kinds]
    return windows if any(windows) else []


def _kinds(groups: object, n_layers: int) -> list[str] | None:
    """Return the names in [[[name, ...], times], ...], at most n_layers and a few, or None."""
    found: list[str] = []
    for group in groups if isinstance(groups, list) else [None]:
        if not isinstance(group, list) or len(group) != 2 or not isinstance(group[0], list):
            return None
        names, times = group
        if type(times) is not int or not 0 <= times <= n_layers:
            return None
        if not all(isinstance(name, str) for name in names) or len(names) * times > n_layers:
            return None
        found += names * times
    return found


FAMILY = Family(
    model_types=("gpt_neo",),
    title="GPT-Neo",
    saved_from="GPTNeoForCausalLM",
    names=Names(
        prefixes=("transformer.",),
        modules=("wte", "wpe", r"h\.\d+", "ln_f", "lm_head"),
        masks="attn.attention",
    ),
    modules={
        "embed": "wte",
        "embed_positions": "wpe",
        "final_norm": "ln_f",
        "attn_norm": "ln_1",
        "mlp_norm": "ln_2",
        "qkv": separate("attn.attention.q_proj", "attn.attention.k_proj", "attn.attention.v_proj"),
        "attn_out": "attn.attention.out_proj",
        "mlp_up": "mlp.c_fc",
        "mlp_down": "mlp.c_proj",
    },
    layer="h",
    read=read,
    defaults={
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": None,
        "attention_types": [[["global", "local"], 12]],
        "window_size": 256,
        "activation_function": "gelu_new",
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 50256,
        "tie_word_embeddings": True,
    },
    spellings={"num_hidden_layers": ("num_layers",), "num_attention_heads": ("num_heads",)},
)
