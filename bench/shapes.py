"""The shapes of the Pythia models, for random checkpoints on machines that hold no real ones."""

from __future__ import annotations

from typing import Any, NamedTuple


class Shape(NamedTuple):
    """What differs from one Pythia model to another."""

    layers: int
    width: int
    heads: int
    vocabulary: int = 50304


PYTHIA = {
    "14m": Shape(6, 128, 4),
    "31m": Shape(6, 256, 8),
    "70m": Shape(6, 512, 8),
    "160m": Shape(12, 768, 12),
    "410m": Shape(24, 1024, 16),
    "1b": Shape(16, 2048, 8),
    "1.4b": Shape(24, 2048, 16),
    "2.8b": Shape(32, 2560, 32),
    "6.9b": Shape(32, 4096, 32, 50432),
    "12b": Shape(36, 5120, 40, 50688),
}


def config(name: str) -> dict[str, Any]:
    """Return the config.json of the model of that name in PYTHIA."""
    shape = PYTHIA[name]
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": shape.width,
        "initializer_range": 0.02,
        "intermediate_size": 4 * shape.width,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": shape.vocabulary,
    }
