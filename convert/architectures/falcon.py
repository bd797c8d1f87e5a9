"""Falcon: 7B, 40B, 180B and 11B, and the falcon-rw models, in old configs RefinedWeb.

Source: huggingface/transformers, models/falcon, 4.33 and later; tiiuae's configs before.
"""

from __future__ import annotations

from .shared.alibi import scaled_bfloat16_alibi
from .shared.config import Config
from .shared.family import Described, Family
from .shared.modules import either, megatron
from .shared.names import Names
from .shared.rope import make_rotation
from .shared.rope_config import read_rope


def read(config: Config) -> Described:
    """Return what a config.json says."""
    # Before it had keys of its own, a 40B config said by its model_type what it was.
    old_40b = config.data.get("model_type") == "RefinedWeb" and config.data.get("n_head_kv")
    new = bool(old_40b) or config.flag("new_decoder_architecture")
    heads = config.heads()
    if new:
        heads = config.heads(kv_heads="num_kv_heads")
    elif config.flag("multi_query"):
        heads["n_kv_heads"] = 1
    parallel = config.flag("parallel_attn")
    two_norms = config.size("num_ln_in_parallel_attn", 2 if new else 1) == 2
    block = "sequential"
    if parallel or new:
        block = "parallel" if two_norms and new else "parallel_shared"
    if new and not parallel:
        config.refuse("parallel_attn", "the new decoder without parallel attention", unless=True)
    bias, positions = config.flag("bias"), config.size("max_position_embeddings")
    fields = {
        **heads,
        "n_layers": config.size("num_hidden_layers"),
        "mlp_size": config.size("ffn_hidden_size", 4 * heads["hidden_size"]),
        "max_positions": positions,
        "norm_eps": config.number("layer_norm_epsilon"),
        "block": block,
        "activation": config.activation("activation"),
        "qkv_bias": bias,
        "attn_out_bias": bias,
        "mlp_bias": bias,
    }
    if config.flag("alibi"):
        table = scaled_bfloat16_alibi(heads["n_heads"], positions, heads["score_scale"])
        return Described(fields | {"score_bias": True}, {"score_bias": table})
    rope = make_rotation(read_rope(config, base=10000.0), heads["head_dim"])
    return Described(fields | rope.fields, rope.tables)


FAMILY = Family(
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    title="Falcon",
    saved_from="FalconForCausalLM",
    old_classes=("RWForCausalLM",),
    names=Names(
        prefixes=("transformer.",), modules=("word_embeddings", r"h\.\d+", "ln_f", "lm_head")
    ),
    modules={
        "embed": "word_embeddings",
        "final_norm": "ln_f",
        "attn_norm": either("input_layernorm", "ln_attn"),
        "mlp_norm": either("post_attention_layernorm", "ln_mlp"),
        **megatron("self_attention"),
    },
    layer="h",
    read=read,
    defaults={
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "num_kv_heads": None,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "num_ln_in_parallel_attn": None,
        "bias": False,
        "alibi": False,
        "ffn_hidden_size": None,
        "activation": "gelu",
        "max_position_embeddings": 2048,
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 11,
        "tie_word_embeddings": True,
    },
    spellings={
        "hidden_size": ("n_embed",),
        "num_hidden_layers": ("n_layer",),
        "num_attention_heads": ("n_head",),
        "num_kv_heads": ("n_head_kv",),
    },
)
