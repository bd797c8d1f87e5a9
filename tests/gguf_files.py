"""Writes checkpoints as GGUF files, in the layouts of llama.cpp's own conversion.

`python tests/gguf_files.py FOLDER FILE [f16]` writes one, for llama.cpp as the referee.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]
Config = Mapping[str, Any]
Writer = Any  # gguf.GGUFWriter


def heads_of(config: Config) -> tuple[int, int, int]:
    """Heads of queries, heads of keys, dimensions of a head."""
    heads = config.get("num_attention_heads") or config["n_head"]
    keys = config.get("num_key_value_heads") or config.get("num_kv_heads") or heads
    if config["model_type"] == "falcon" and not config["new_decoder_architecture"]:
        keys = 1 if config["multi_query"] else heads
    width = config.get("hidden_size") or config["n_embd"]
    return heads, keys, config.get("head_dim") or width // heads


def straight(values: Array, config: Config) -> Array:
    """Rows of groups of queries, key and value become all queries, all keys, all values."""
    heads, keys, dim = heads_of(config)
    groups = values.reshape(keys, heads // keys + 2, dim, *values.shape[1:])
    parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
    return np.concatenate([part.reshape(-1, *values.shape[1:]) for part in parts])


def neighbours(values: Array, count: int) -> Array:
    """The halves of each of `count` heads alternate, row by row."""
    halves = values.reshape(count, 2, -1, *values.shape[1:])
    return np.swapaxes(halves, 1, 2).reshape(values.shape)


def gpt2(name: str, values: Array, config: Config) -> Array:
    return values.T if re.search(r"\.c_(attn|proj|fc)\.weight$", name) else values


def fused(name: str, values: Array, config: Config) -> Array:
    return straight(values, config) if ".query_key_value." in name else values


def llama(name: str, values: Array, config: Config) -> Array:
    heads, keys, _ = heads_of(config)
    for part, count in ((".q_proj.", heads), (".k_proj.", keys)):
        if part in name:
            return neighbours(values, count)
    return values


def same(name: str, values: Array, config: Config) -> Array:
    return values


class Layout(NamedTuple):
    architecture: str
    change: Callable[[str, Array, Config], Array]
    layer: str  # what stands before a layer's number
    names: Mapping[str, str]  # of modules, those of a layer without number


_LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_layernorm": "attn_q_norm",
    "self_attn.k_layernorm": "attn_k_norm",
}
_OUTPUT_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_FUSED = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attention.query_key_value": "attn_qkv",
    "self_attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "lm_head": "output",
    "transformer.word_embeddings": "token_embd",
    "transformer.word_embeddings_layernorm": "token_embd_norm",
    "transformer.ln_f": "output_norm",
    "ln_attn": "attn_norm_2",
    "ln_mlp": "attn_norm",
}
LAYOUTS = {
    "llama": Layout("llama", llama, "model.layers.", _LLAMA),
    "qwen2": Layout("qwen2", same, "model.layers.", _LLAMA),
    "qwen3": Layout("qwen3", same, "model.layers.", _LLAMA | _NORMS),
    "olmo2": Layout("olmo2", same, "model.layers.", _LLAMA | _NORMS | _OUTPUT_NORMS),
    "stablelm": Layout("stablelm", same, "model.layers.", _LLAMA | _NORMS),
    "falcon": Layout("falcon", fused, "transformer.h.", _FUSED),
    "bloom": Layout("bloom", fused, "transformer.h.", _FUSED),
    "phi": Layout(
        "phi2",
        same,
        "model.layers.",
        _LLAMA
        | {
            "model.final_layernorm": "output_norm",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
    ),
    "gpt2": Layout(
        "gpt2",
        gpt2,
        "transformer.h.",
        {
            "transformer.wte": "token_embd",
            "transformer.wpe": "position_embd",
            "transformer.ln_f": "output_norm",
            "lm_head": "output",
            "ln_1": "attn_norm",
            "ln_2": "ffn_norm",
            "attn.c_attn": "attn_qkv",
            "attn.c_proj": "attn_output",
            "mlp.c_fc": "ffn_up",
            "mlp.c_proj": "ffn_down",
        },
    ),
    "gpt_neox": Layout(
        "gptneox",
        fused,
        "gpt_neox.layers.",
        {
            "gpt_neox.embed_in": "token_embd",
            "gpt_neox.final_layer_norm": "output_norm",
            "embed_out": "output",
            "lm_head": "output",
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
            "attention.query_key_value": "attn_qkv",
            "attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
    ),
}


def add_metadata(writer: Writer, config: Config) -> None:
    """What llama.cpp's conversion writes of a config.json."""
    kind = config["model_type"]
    heads, keys, dim = heads_of(config)
    width = config.get("hidden_size") or config["n_embd"]
    inner = next(
        (config[k] for k in ("intermediate_size", "n_inner", "ffn_hidden_size") if config.get(k)),
        4 * width,
    )
    writer.add_context_length(
        next(
            config[k]
            for k in ("max_position_embeddings", "n_positions", "seq_length")
            if k in config
        )
    )
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(config.get("num_hidden_layers") or config["n_layer"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    for key in ("layer_norm_eps", "layer_norm_epsilon"):
        if key in config:
            writer.add_layer_norm_eps(config[key])
    if "rms_norm_eps" in config:
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if kind in ("gpt_neox", "stablelm"):
        writer.add_parallel_residual(config.get("use_parallel_residual", True))
    if config.get("head_dim") and kind in ("llama", "qwen3"):
        writer.add_key_length(dim)
        writer.add_value_length(dim)
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    if rope := config.get("rope_parameters"):
        writer.add_rope_dimension_count(int(rope.get("partial_rotary_factor", 1.0) * dim))
        writer.add_rope_freq_base(rope["rope_theta"])
        if rope["rope_type"] in ("linear", "yarn"):
            writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            writer.add_rope_scaling_factor(rope["factor"])
        if rope["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def rope_factors(config: Config) -> Array | None:
    """What llama.cpp divides the frequencies of LLaMA 3 by."""
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return None
    dim, original = heads_of(config)[2], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, dim, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        smooth = min(1.0, max(0.0, (original / wave - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(factors, np.float32)


def stacked(tensors: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The tensors, those of a module's numbered parts as the rows of one."""
    parts: dict[str, dict[int, Array]] = {}
    for name, values in tensors.items():
        if found := re.fullmatch(r"(.*)\.norms\.(\d+)(\..*)", name):
            parts.setdefault(found[1] + found[3], {})[int(found[2])] = values
        else:
            yield name, values
    for name, numbered in parts.items():
        yield name, np.stack([numbered[i] for i in range(len(numbered))])


def tensors_of(folder: Path) -> Iterator[tuple[str, Array]]:
    """The tensors in their new layout, under their new names."""
    config = json.loads((folder / "config.json").read_text())
    layout = LAYOUTS[config["model_type"]]
    for name, values in stacked(load_file(folder / "model.safetensors")):
        inner, prefix = name, ""
        if name.startswith(layout.layer):
            number, _, inner = name.removeprefix(layout.layer).partition(".")
            prefix = f"blk.{number}."
        module, _, part = inner.rpartition(".")
        yield (
            f"{prefix}{layout.names[module]}.{part}",
            np.ascontiguousarray(layout.change(name, values, config)),
        )
    if (factors := rope_factors(config)) is not None:
        yield "rope_freqs.weight", factors


def write_gguf(
    folder: Path,
    path: Path,
    *,
    type: str = "F32",
    more: Callable[[Writer], None] = lambda writer: writer.add_tokenizer_model("none"),
) -> Path:
    """Write the checkpoint in `folder` as a GGUF file, its matrices in `type` (a name of ggml's).

    Rows that a type cannot hold are F16. `more` adds metadata: by default, that there is no
    tokenizer.
    """
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(path), LAYOUTS[config["model_type"]].architecture)
    add_metadata(writer, config)
    more(writer)
    for name, values in tensors_of(folder):
        chosen = (
            gguf.GGMLQuantizationType[type]
            if values.ndim > 1 and not name.endswith("_norm.weight")
            else gguf.GGMLQuantizationType.F32
        )
        if values.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
            chosen = gguf.GGMLQuantizationType.F16
        data = gguf.quantize(values.astype(np.float32), chosen)
        writer.add_tensor(name, data, raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


if __name__ == "__main__":
    write_gguf(Path(sys.argv[1]), Path(sys.argv[2]), type=(sys.argv[3:] or ["F32"])[0])
