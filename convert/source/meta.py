"""Meta's own folders of LLaMA 1, 2 and 3: params.json and consolidated.00.pth, .01.pth and so on.

They become what transformers' folders hold, by names and config keys. Each file has a part of every
matrix, split by rows or columns (model parallelism); pairs of neighbours rotate. Source:
meta-llama/llama, llama/model.py; meta-llama/llama-models, models/llama3/model.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, quote
from ..flatfile.spec import is_number
from .joined import join
from .tensor import SourceTensor, same

PARAMS_FILE = "params.json"
_SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
_LAYER = re.compile(r"layers\.(\d+)\.(.+)\.weight")
# Meta's names -> those of transformers, of the whole model and of a layer.
_OUTSIDE = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_BY_COLUMNS = ("attention.wo", "feed_forward.w2")
_KNOWN = {
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier",
    "norm_eps", "rope_theta", "use_scaled_rope", "max_seq_len", "max_batch_size",
}  # fmt: skip
_LLAMA3_ROWS = 128256  # of the embeddings of LLaMA 3


def shards(folder: Path) -> list[Path]:
    """Return the parts in their order, none where this is no such folder.

    Raises CheckpointError where one between them is missing.
    """
    found = sorted(p for p in folder.glob("consolidated.*.pth") if _SHARD.fullmatch(p.name))
    for number, path in enumerate(found):
        if path.name != f"consolidated.{number:02}.pth":
            raise CheckpointError(
                f"{folder} has {quote(path.name)} and no consolidated.{number:02}.pth: fetch it too"
            )
    return found


def join_shards(parts: Sequence[Mapping[str, SourceTensor]]) -> dict[str, SourceTensor]:
    """Return the whole tensors by transformers' names, what is unknown by its own.

    Raises CheckpointError, naming the tensor, where the parts do not belong together.
    """
    found: dict[str, SourceTensor] = {}
    width = next((t.shape[0] for n, t in parts[0].items() if n == "norm.weight" and t.shape), 0)
    for name in dict.fromkeys(name for part in parts for name in part):
        if name == "rope.freqs":
            continue
        pieces = [part[name] for part in parts if name in part]
        if len(pieces) < len(parts):
            raise CheckpointError(
                f"tensor {quote(name)} is in {pieces[0].file.path.name} and not in each of the "
                f"{len(parts)} files beside it: fetch them again"
            )
        place, role = _place(name)
        if len(pieces[0].shape) == 2:
            # The embedding was split by columns, in LLaMA 3 by rows.
            embeds = role == "tok_embeddings" and pieces[0].shape[1] != width
            found[place] = join(place, pieces, embeds or role in _BY_COLUMNS)
            continue
        for piece in pieces[1:]:
            if not same(piece, pieces[0]):
                raise CheckpointError(
                    f"tensor {quote(name)} differs between {pieces[0].file.path.name} and "
                    f"{piece.file.path.name}, and every part has the same: fetch them again"
                )
        found[place] = join(place, pieces[:1], False)
    return found


def _place(name: str) -> tuple[str, str]:
    """Return the name for transformers, and what Meta calls the module in its layer."""
    layer = _LAYER.fullmatch(name)
    if layer and layer[2] in _INSIDE:
        return f"model.layers.{layer[1]}.{_INSIDE[layer[2]]}.weight", layer[2]
    role = name.removesuffix(".weight")
    return (f"{_OUTSIDE[role]}.weight" if role in _OUTSIDE else name), role


def make_config(params: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    """Return the config.json that says what a params.json does; `vocab_size` are the rows.

    It gives no length of texts; known are those of each version. Raises CheckpointError, naming
    the key, for what is unknown or invalid.
    """
    surplus = sorted(set(params) - _KNOWN)
    if surplus:
        raise _wrong(f"has {quote(surplus[0])}, which no model of Meta's has that is known here")
    dim, heads = _size(params, "dim"), _size(params, "n_heads")
    inner = int(2 * 4 * dim / 3)
    if params.get("ffn_dim_multiplier") is not None:
        inner = int(_number(params, "ffn_dim_multiplier") * inner)
    multiple = _size(params, "multiple_of")
    eps, third = _number(params, "norm_eps"), vocab_size >= _LLAMA3_ROWS
    scaled = params.get("use_scaled_rope") or False
    length = (131072 if scaled else 8192) if third else 2048 if eps < 5e-6 else 4096
    rope: dict[str, Any] = {"rope_type": "default"}
    if scaled:
        if dim < 4096:
            raise CheckpointError(
                f"{PARAMS_FILE} asks for scaled rotations and does not say by how much, which is "
                "not the same for all small models: give the folder for transformers"
            )
        rope = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    rope["rope_theta"] = _number(params, "rope_theta") if "rope_theta" in params else 10000.0
    return {
        "model_type": "llama",
        "interleaved_rotation": True,
        "hidden_size": dim,
        "intermediate_size": -(-inner // multiple) * multiple,
        "num_hidden_layers": _size(params, "n_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(params, "n_kv_heads") if params.get("n_kv_heads") else heads,
        "max_position_embeddings": length,
        "rms_norm_eps": eps,
        "rope_parameters": rope,
        "bos_token_id": 128000 if third else 1,
        "eos_token_id": [128001, 128008, 128009] if third else 2,
        "tie_word_embeddings": False,
    }


def _size(params: Mapping[str, Any], key: str) -> int:
    value = params.get(key)
    if type(value) is not int or not 1 <= value < 1 << 31:
        raise _wrong(f"has no valid {key}, a positive whole number")
    return value


def _number(params: Mapping[str, Any], key: str) -> float:
    value: Any = params.get(key)
    if not is_number(value) or not 0 < value < 1e9:
        raise _wrong(f"has no valid {key}, a positive number")
    return float(value)


def _wrong(what: str) -> CheckpointError:
    return CheckpointError(f"{PARAMS_FILE} {what}: fetch it again")
