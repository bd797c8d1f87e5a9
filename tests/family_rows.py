"""Which tiny checkpoints the tests of families make: sizes, and what their configs change."""

from __future__ import annotations

from typing import Any, NamedTuple

Config = dict[str, Any]

# Sizes of every family; each spells them as it does. Heads and widths are awkward on purpose.
LLAMA_LIKE = {
    "hidden_size": 60,
    "intermediate_size": 88,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
SHORT = {"n_embd": 56, "n_layer": 2, "n_head": 4, "n_positions": 128}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
FALCON = {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 320,
}
OPT = {
    "hidden_size": 60,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "ffn_dim": 100,
    "max_position_embeddings": 128,
}
NEO = {
    "hidden_size": 48,
    "num_layers": 2,
    "num_heads": 3,
    "attention_types": [[["global", "local"], 1]],
    "max_position_embeddings": 320,
}
BLOOM = {"hidden_size": 60, "n_layer": 2, "n_head": 5, "seq_length": 320}
OLD_NEOX = {
    "hidden_size": 60,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "max_position_embeddings": 128,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
    },
}


class Row(NamedTuple):
    """One row of the table: a config class of transformers, and what its variants change."""

    config: str
    base: Config
    variants: tuple[Config, ...]
    length: int = 70  # tokens that are compared


ROWS: dict[str, Row] = {
    "GPT-NeoX": Row(
        "GPTNeoXConfig",
        OLD_NEOX,
        (
            {},
            {"use_parallel_residual": False, "hidden_act": "gelu_fast"},
            {"attention_bias": False},
            {"tie_word_embeddings": True},
        ),
    ),
    "LLaMA": Row(
        "LlamaConfig",
        LLAMA_LIKE,
        (
            {},
            {"num_key_value_heads": None, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
            {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
            {"rope_parameters": LLAMA3, "num_attention_heads": 5, "num_key_value_heads": 1},
            {"rope_parameters": LINEAR, "tie_word_embeddings": True, "intermediate_size": 96},
            {"rope_parameters": YARN},
        ),
    ),
    "Mistral": Row(
        "MistralConfig",
        LLAMA_LIKE | {"max_position_embeddings": 320},
        (
            {"sliding_window": None},
            {"sliding_window": 16},
            {"head_dim": 16, "sliding_window": 150},
            {"tie_word_embeddings": True, "sliding_window": 1},
        ),
        200,
    ),
    "Qwen2": Row(
        "Qwen2Config",
        LLAMA_LIKE,
        (
            {"tie_word_embeddings": True},
            {"num_attention_heads": 10, "num_key_value_heads": 2},
            {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
            {"rope_parameters": YARN, "hidden_size": 56, "num_attention_heads": 7}
            | {"num_key_value_heads": 1},
        ),
    ),
    "Qwen3": Row(
        "Qwen3Config",
        LLAMA_LIKE | {"head_dim": 12},
        (
            {"tie_word_embeddings": True},
            {"head_dim": 32, "num_attention_heads": 5, "num_key_value_heads": 1},
            {"attention_bias": True, "head_dim": 18},
            {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
            {"rope_parameters": YARN, "head_dim": 16},
        ),
    ),
    "Falcon-7B": Row(
        "FalconConfig",
        FALCON,
        (
            {},
            {"hidden_size": 71 * 4, "num_attention_heads": 71},
            {"tie_word_embeddings": False, "ffn_hidden_size": 100},
            {"bias": True, "multi_query": False},
        ),
    ),
    "Falcon-40B": Row(
        "FalconConfig",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
        (
            {},
            {"num_kv_heads": 6},
            {"num_ln_in_parallel_attn": 1, "bias": True},
            {"tie_word_embeddings": False, "num_kv_heads": 1},
        ),
    ),
    "falcon-rw": Row(
        "FalconConfig",
        FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        (
            {},
            {"hidden_size": 64, "num_attention_heads": 8},
            {"tie_word_embeddings": False, "ffn_hidden_size": 100},
            {"parallel_attn": True, "bias": False},
        ),
        300,
    ),
    "GPT-J": Row(
        "GPTJConfig",
        SHORT | {"rotary_dim": 8},
        (
            {},
            {"rotary_dim": 14},
            {"n_head": 2, "rotary_dim": 4, "n_inner": 100},
            {"activation_function": "gelu", "n_head": 7},
        ),
    ),
    "GPT-Neo": Row(
        "GPTNeoConfig",
        NEO,
        (
            {},
            {"attention_types": [[["global"], 1], [["local"], 1]], "window_size": 20},
            {"attention_types": [[["global"], 2]], "intermediate_size": 100},
            {"tie_word_embeddings": False, "window_size": 1},
        ),
        300,
    ),
    "OPT": Row(
        "OPTConfig",
        OPT,
        (
            {},
            {"tie_word_embeddings": False, "num_attention_heads": 3},
            {"enable_bias": False},
            {"_remove_final_layer_norm": True, "activation_function": "gelu"},
        ),
        126,
    ),
    "OPT-350m": Row(
        "OPTConfig",
        OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24},
        (
            {},
            {"word_embed_proj_dim": 60},
            {"tie_word_embeddings": False},
            {"do_layer_norm_before": True},
        ),
    ),
    "BLOOM": Row(
        "BloomConfig",
        BLOOM,
        (
            {},
            {"n_head": 12},
            {"tie_word_embeddings": False, "hidden_size": 64, "n_head": 8},
            {"layer_norm_epsilon": 1e-3, "n_head": 3},
        ),
        300,
    ),
    "GPT-2": Row(
        "GPT2Config",
        SHORT,
        (
            {},
            {"n_head": 7, "n_inner": 100},
            {"tie_word_embeddings": False},
            {"activation_function": "gelu", "layer_norm_epsilon": 1e-3},
        ),
        126,
    ),
    "Phi": Row(
        "PhiConfig",
        LLAMA_LIKE | {"num_key_value_heads": None, "num_attention_heads": 5},
        (
            {},
            {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 72},
            {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.4}}
            | {"hidden_size": 100},
            {"hidden_act": "gelu"},
            {"qk_layernorm": True, "num_key_value_heads": 2, "num_attention_heads": 6}
            | {"hidden_size": 72},
        ),
    ),
    "StableLM": Row(
        "StableLmConfig",
        LLAMA_LIKE | {"hidden_size": 96},
        (
            {},
            {"use_qkv_bias": True, "num_key_value_heads": 6},
            {"use_parallel_residual": True},
            {"use_parallel_residual": True, "qk_layernorm": True},
            {"tie_word_embeddings": True, "num_attention_heads": 4}
            | {"rope_parameters": {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        ),
    ),
    "OLMo": Row(
        "OlmoConfig",
        LLAMA_LIKE | {"pad_token_id": None},
        (
            {},
            {"num_key_value_heads": None, "tie_word_embeddings": True},
            {"attention_bias": True},
            {"rope_parameters": LINEAR},
        ),
    ),
    "OLMo 2": Row(
        "Olmo2Config",
        LLAMA_LIKE | {"pad_token_id": None},
        (
            {},
            {"num_key_value_heads": None, "tie_word_embeddings": True},
            {"attention_bias": True, "num_attention_heads": 5, "num_key_value_heads": 1},
            {"rope_parameters": YARN, "rms_norm_eps": 1e-3},
        ),
    ),
}
