"""Small random GPT-NeoX checkpoints of any shape, in every kind of file they come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench import checkpoint

SOURCES = ("safetensors", "sharded", "bin", "sharded bin")


def make_config(*, heads: int = 2, head_dim: int = 32, **changes: Any) -> dict[str, Any]:
    """Return a config.json in the spelling of the Pythia models, of two layers."""
    return {
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "hidden_size": heads * head_dim,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "intermediate_size": 4 * heads * head_dim,
        "vocab_size": 128,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        **changes,
    }


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    *,
    source: str = "safetensors",
    dtype: str = "float32",
    seed: int = 0,
    buffers: bool = False,
    prefix: bool = True,
) -> Path:
    """Write a random checkpoint and return its folder.

    `source` is one of SOURCES, `dtype` one of bench.checkpoint.DTYPES. With `buffers` it has the
    masks and frequencies that old saves have; without `prefix` it lacks "gpt_neox.", as base models
    do. Only plain safetensors are written without torch.
    """
    shards = 3 if source.startswith("sharded") else 1
    checkpoint.write(folder, config, dtype=dtype, shards=shards, seed=seed)
    if source.endswith("bin") or buffers or not prefix:
        _rewrite(folder, config, to_bin=source.endswith("bin"), buffers=buffers, prefix=prefix)
    return folder


def _rewrite(
    folder: Path, config: dict[str, Any], *, to_bin: bool, buffers: bool, prefix: bool
) -> None:
    """Write each safetensors file of the folder anew, changed as `write_checkpoint` says."""
    import torch
    from safetensors.torch import load_file, save_file

    places = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        if buffers and "gpt_neox.final_layer_norm.bias" in tensors:
            tensors.update(_buffers(config))
        if not prefix:
            tensors = {name.removeprefix("gpt_neox."): data for name, data in tensors.items()}
        path.unlink()
        if to_bin:
            path = path.with_name(path.name.replace("model", "pytorch_model", 1))
            path = path.with_suffix(".bin")
            torch.save(tensors, path)
        else:
            save_file(tensors, path)
        places.update(dict.fromkeys(tensors, path.name))
    listing = folder / "model.safetensors.index.json"
    if listing.exists():
        if to_bin:
            listing.unlink()
            listing = folder / "pytorch_model.bin.index.json"
        listing.write_text(json.dumps({"metadata": {}, "weight_map": places}))


def _buffers(config: dict[str, Any]) -> dict[str, Any]:
    """What old versions of transformers saved beside the weights, {name: torch tensor}."""
    import torch

    positions = config["max_position_embeddings"]
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    found = {}
    for i in range(config["num_hidden_layers"]):
        attention = f"gpt_neox.layers.{i}.attention"
        mask = torch.ones(1, 1, positions, positions, dtype=torch.uint8).tril()
        found[f"{attention}.bias"] = mask
        found[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        found[f"{attention}.rotary_emb.inv_freq"] = torch.ones(int(head_dim * 0.25) // 2)
    return found
