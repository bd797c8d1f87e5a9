"""Small GPT-NeoX checkpoints for the converter's tests, in every form a checkpoint can have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

LAYERS, HEADS, HEAD_DIM, MLP, VOCAB, IDS = 2, 3, 24, 80, 100, 90
WIDTH = HEADS * HEAD_DIM
KINDS = ("safetensors", "sharded", "bin", "sharded bin", "legacy bin")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def make_config(**changes: Any) -> dict[str, Any]:
    """Return a config.json in the oldest spelling, as the Pythia models have it."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": MLP,
        "hidden_act": "gelu",
        "rotary_pct": 0.25,
        "rotary_emb_base": 10000,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "vocab_size": 123,
        **changes,
    }


def make_tensors(dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the state dict of GPTNeoXForCausalLM, with the buffers that old saves have."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    tensors = {"gpt_neox.embed_in.weight": random(VOCAB, WIDTH)}
    for i in range(LAYERS):
        layer = f"gpt_neox.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}{norm}.weight"] = random(WIDTH)
            tensors[f"{layer}{norm}.bias"] = random(WIDTH)
        for name, rows, columns in (
            ("attention.query_key_value", 3 * WIDTH, WIDTH),
            ("attention.dense", WIDTH, WIDTH),
            ("mlp.dense_h_to_4h", MLP, WIDTH),
            ("mlp.dense_4h_to_h", WIDTH, MLP),
        ):
            tensors[f"{layer}{name}.weight"] = random(rows, columns)
            tensors[f"{layer}{name}.bias"] = random(rows)
        tensors[f"{layer}attention.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
        tensors[f"{layer}attention.masked_bias"] = torch.tensor(-1e9).to(dtype)
        tensors[f"{layer}attention.rotary_emb.inv_freq"] = torch.ones(3)
    tensors["gpt_neox.final_layer_norm.weight"] = random(WIDTH)
    tensors["gpt_neox.final_layer_norm.bias"] = random(WIDTH)
    tensors["embed_out.weight"] = random(VOCAB, WIDTH)
    return tensors


def make_tokenizer(ids: int = IDS) -> dict[str, Any]:
    """Return a tokenizer.json with `ids` ids, the last of which is an added token."""
    return {
        "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(ids - 1)}, "merges": []},
        "added_tokens": [{"id": ids - 1, "content": "<|end|>"}],
    }


def write_checkpoint(
    folder: Path,
    tensors: dict[str, torch.Tensor] | None = None,
    *,
    kind: str = "safetensors",
    config: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder in Hugging Face layout and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = make_tensors() if tensors is None else tensors
    (folder / "config.json").write_text(json.dumps(make_config() if config is None else config))
    tokenizer = make_tokenizer() if tokenizer is None else tokenizer
    if tokenizer:
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if kind.startswith("sharded"):
        write_shards(folder, tensors, "safetensors" if kind == "sharded" else "bin")
    elif kind == "safetensors":
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
    else:
        modern = kind == "bin"
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    return folder


def write_shards(folder: Path, tensors: dict[str, torch.Tensor], suffix: str) -> None:
    """Write three shards and their index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names = list(tensors)
    places = {}
    for number in range(3):
        shard = f"{stem}-{number + 1:05}-of-00003.{suffix}"
        part = {name: tensors[name] for name in names[number::3]}
        places.update(dict.fromkeys(part, shard))
        if suffix == "safetensors":
            safetensors.torch.save_file(part, folder / shard)
        else:
            torch.save(part, folder / shard)
    index = {"metadata": {}, "weight_map": places}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
