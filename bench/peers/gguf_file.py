"""Writes a Hugging Face checkpoint as a GGUF file of 32-bit floats, for llama.cpp.

Of GPT-NeoX's shape or of LLaMA's. Names, order of rows and metadata keys are those of llama.cpp's
own conversion. There is no vocabulary in it: whoever compares gives token ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from pythia_rt.convert import CheckpointError
from pythia_rt.convert.files.json_object import read_json
from pythia_rt.convert.source.checkpoint import CONFIG_FILE

# Of a layer: checkpoint module to GGUF name.
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
END_NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",  # LLaMA's, and what transformers 5 calls GPT-NeoX's
}
# What old checkpoints store besides the weights.
BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")


def write_gguf(folder: Path, destination: Path) -> None:
    """Write the checkpoint in `folder` (safetensors, no bfloat16, untied head) to `destination`."""
    config = read_json(folder / CONFIG_FILE, CheckpointError)
    is_llama = config["model_type"] == "llama"
    writer = gguf.GGUFWriter(str(destination), "llama" if is_llama else "gptneox")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    (_add_llama if is_llama else _add_gpt_neox)(writer, config)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, values in _tensors(folder):
        writer.add_tensor(gguf_name(name), _straightened(name, values, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_gpt_neox(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters", config)
    fraction = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    size = config["hidden_size"] // config["num_attention_heads"]
    writer.add_rope_dimension_count(int(fraction * size))
    writer.add_parallel_residual(config.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-5))


def _add_llama(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    rope = config.get("rope_parameters", config)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def gguf_name(name: str) -> str:
    """Return what GGUF calls the tensor `name` of the checkpoint."""
    module, _, part = name.rpartition(".")
    if module in END_NAMES:
        return f"{END_NAMES[module]}.{part}"
    _, _, number, inner = module.split(".", 3)
    return f"blk.{number}.{LAYER_NAMES[inner]}.{part}"


def _tensors(folder: Path) -> list[tuple[str, NDArray[np.float32]]]:
    found = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            found += [
                (name, file.get_tensor(name).astype(np.float32))
                for name in file.keys()  # noqa: SIM118
                if not name.endswith(BUFFERS)
            ]
    return found


def _straightened(name: str, values: NDArray[np.float32], config: dict[str, Any]) -> NDArray[Any]:
    """Rows as llama.cpp has them.

    GPT-NeoX's of [heads][q, k, v] become those of [q, k, v][heads]. LLaMA's queries and keys
    rotate neighbours, not halves.
    """
    heads = config["num_attention_heads"]
    if ".query_key_value." in name:
        split = values.reshape(heads, 3, -1, *values.shape[1:])
        return np.ascontiguousarray(np.moveaxis(split, 1, 0)).reshape(values.shape)
    if name.endswith((".q_proj.weight", ".k_proj.weight")):
        size = config["hidden_size"] // heads
        halves = values.reshape(-1, 2, size // 2, values.shape[1])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values
