"""Writes a Hugging Face GPT-NeoX checkpoint as a GGUF file of 32-bit floats, for llama.cpp.

Names, order of rows and metadata keys are those of llama.cpp's own conversion of GPT-NeoX. There is
no vocabulary in it: whoever compares gives token ids.
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
}
END_NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "lm_head": "output",  # what transformers 5 calls the module
}
# What old checkpoints store besides the weights.
BUFFERS = (".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")


def write_gguf(folder: Path, destination: Path) -> None:
    """Write the checkpoint in `folder` (safetensors, no bfloat16, untied head) to `destination`."""
    config = read_json(folder / CONFIG_FILE, CheckpointError)
    rope = config.get("rope_parameters", config)
    fraction = rope.get("partial_rotary_factor", config.get("rotary_pct", 0.25))
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer = gguf.GGUFWriter(str(destination), "gptneox")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(int(fraction * (width // heads)))
    writer.add_head_count(heads)
    writer.add_parallel_residual(config.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config.get("layer_norm_eps", 1e-5))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, values in _tensors(folder):
        writer.add_tensor(gguf_name(name), _straightened(name, values, heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def _straightened(name: str, values: NDArray[np.float32], heads: int) -> NDArray[Any]:
    """Rows of [heads][q, k, v] become those of [q, k, v][heads]."""
    if ".query_key_value." not in name:
        return values
    split = values.reshape(heads, 3, -1, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(split, 1, 0)).reshape(values.shape)
