"""Random checkpoints of GPT-NeoX's and LLaMA's shapes in Hugging Face layout.

They are written without holding them in memory.
Values are scaled so that the model behaves like a trained one where it matters: attention that is
neither flat nor one-hot, a residual stream that stays bounded, logits that differ.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import new_folder

Config = dict[str, Any]

# config.json's name of a type -> (safetensors' name, bytes per value)
DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}

# Standard deviation of a matrix's values, times the square root of its width.
_GAINS = {
    "embed_in": 3.0,
    "query_key_value": 1.5,
    "dense": 0.5,
    "dense_h_to_4h": 1.0,
    "dense_4h_to_h": 0.5,
    "embed_out": 3.0,
    "embed_tokens": 3.0,
    "q_proj": 1.5,
    "k_proj": 1.5,
    "v_proj": 1.5,
    "o_proj": 0.5,
    "gate_proj": 1.5,
    "up_proj": 1.0,
    "down_proj": 0.5,
    "lm_head": 3.0,
}
_CHUNK_VALUES = 1 << 22


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint: its name, its shape, and what its random values look like."""

    name: str
    shape: tuple[int, ...]
    mean: float
    deviation: float

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def tensors(config: Config) -> list[Tensor]:
    """Return the tensors of a model with this config.json, in their usual order.

    Of LlamaForCausalLM without biases where it says so, else of GPTNeoXForCausalLM.
    """
    return _llama(config) if config.get("model_type") == "llama" else _gpt_neox(config)


def _gpt_neox(config: Config) -> list[Tensor]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    vocabulary = (int(config["vocab_size"]), width)
    attention_bias = bool(config.get("attention_bias", True))
    found = [_matrix("gpt_neox.embed_in", *vocabulary)]
    for i in range(int(config["num_hidden_layers"])):
        layer = f"gpt_neox.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            found += _norm(f"{layer}.{norm}", width)
        for name, rows, columns, bias in (
            ("attention.query_key_value", 3 * width, width, attention_bias),
            ("attention.dense", width, width, attention_bias),
            ("mlp.dense_h_to_4h", inner, width, True),
            ("mlp.dense_4h_to_h", width, inner, True),
        ):
            found.append(_matrix(f"{layer}.{name}", rows, columns))
            if bias:
                found.append(Tensor(f"{layer}.{name}.bias", (rows,), 0.0, 0.1))
    found += _norm("gpt_neox.final_layer_norm", width)
    if not config.get("tie_word_embeddings", False):
        found.append(_matrix("embed_out", *vocabulary))
    return found


def _llama(config: Config) -> list[Tensor]:
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    keys = width // heads * int(config.get("num_key_value_heads") or heads)
    vocabulary = (int(config["vocab_size"]), width)
    found = [_matrix("model.embed_tokens", *vocabulary)]
    for i in range(int(config["num_hidden_layers"])):
        layer = f"model.layers.{i}"
        found.append(_gain(f"{layer}.input_layernorm", width))
        for name, rows, columns in (
            ("self_attn.q_proj", width, width),
            ("self_attn.k_proj", keys, width),
            ("self_attn.v_proj", keys, width),
            ("self_attn.o_proj", width, width),
            ("mlp.gate_proj", inner, width),
            ("mlp.up_proj", inner, width),
            ("mlp.down_proj", width, inner),
        ):
            found.append(_matrix(f"{layer}.{name}", rows, columns))
        found.append(_gain(f"{layer}.post_attention_layernorm", width))
    found.append(_gain("model.norm", width))
    if not config.get("tie_word_embeddings", False):
        found.append(_matrix("lm_head", *vocabulary))
    return found


def layer_weights(config: Config) -> int:
    """Values of all layers' matrices, each of which a token is multiplied with."""
    return sum(t.size for t in tensors(config) if ".layers." in t.name and len(t.shape) == 2)


def _matrix(name: str, rows: int, columns: int) -> Tensor:
    gain = _GAINS[name.rpartition(".")[2]]
    return Tensor(f"{name}.weight", (rows, columns), 0.0, gain / math.sqrt(columns))


def _norm(name: str, width: int) -> list[Tensor]:
    return [_gain(name, width), Tensor(f"{name}.bias", (width,), 0.0, 0.1)]


def _gain(name: str, width: int) -> Tensor:
    return Tensor(f"{name}.weight", (width,), 1.0, 0.2)


def values(tensor: Tensor, index: int, seed: int, dtype: str) -> Iterator[NDArray[Any]]:
    """Yield the values of the tensor at `index` of the list, flat, a bounded number at a time.

    As they are stored in a type of DTYPES. Each is one of 65,536 quantiles of the normal
    distribution, which is an order of magnitude faster than drawing from it; which one depends on
    the seed and the index only, not on the type or the shards.
    """
    table = encode(tensor.mean + np.float32(tensor.deviation) * _quantiles(), dtype)
    generator = np.random.Generator(np.random.SFC64([seed, index]))
    for start in range(0, tensor.size, _CHUNK_VALUES):
        count = min(_CHUNK_VALUES, tensor.size - start)
        drawn = generator.integers(0, 1 << 64, -(-count // 4), np.uint64)
        yield table[drawn.astype("<u8", copy=False).view("<u2")[:count]]


@functools.cache
def _quantiles() -> NDArray[np.float32]:
    """Of the normal distribution, in the middle of 65,536 equal parts."""
    normal = statistics.NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)], np.float32)


def encode(chunk: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Return values as a type of DTYPES stores them, rounded to nearest, ties to even."""
    if dtype == "bfloat16":
        bits = chunk.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return chunk.astype({"float32": "<f4", "float16": "<f2"}[dtype])


def write(
    folder: Path,
    config: Config,
    *,
    dtype: str = "float16",
    shards: int = 1,
    seed: int = 0,
    threads: int | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write config.json and random weights as safetensors into a new `folder` and return it.

    It appears complete or not at all. More than one shard come with an index. `threads` (default:
    one per processor) make a tensor each; `on_bytes` is told of every tensor written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder) as hidden:
        _fill(hidden, config, dtype, shards, seed, threads or os.cpu_count() or 1, on_bytes)
    return folder


def _fill(
    folder: Path,
    config: Config,
    dtype: str,
    shards: int,
    seed: int,
    threads: int,
    on_bytes: Callable[[int], None],
) -> None:
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}, indent=2))
    everything = list(enumerate(tensors(config)))
    places: dict[str, str] = {}
    for number, shard in enumerate(_split(everything, shards), 1):
        file = (
            "model.safetensors" if shards == 1 else f"model-{number:05}-of-{shards:05}.safetensors"
        )
        places.update((tensor.name, file) for _, tensor in shard)
        header = _header([tensor for _, tensor in shard], dtype)
        # The threads end before the file is closed, whatever happens.
        with (
            (folder / file).open("wb", buffering=0) as out,
            ThreadPoolExecutor(threads) as pool,
        ):
            _write_at(out.fileno(), 0, header)
            write_tensor = functools.partial(_write_tensor, out.fileno(), dtype, seed)
            try:
                for size in pool.map(write_tensor, _placed(shard, len(header), dtype)):
                    on_bytes(size)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if shards > 1:
        total = sum(tensor.size for _, tensor in everything) * DTYPES[dtype][1]
        listing = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listing, indent=2))


def _placed(
    shard: list[tuple[int, Tensor]], start: int, dtype: str
) -> Iterator[tuple[int, Tensor, int]]:
    """(index, tensor, offset in the file) of each."""
    for index, tensor in shard:
        yield index, tensor, start
        start += tensor.size * DTYPES[dtype][1]


def _write_tensor(descriptor: int, dtype: str, seed: int, placed: tuple[int, Tensor, int]) -> int:
    index, tensor, start = placed
    offset = start
    for chunk in values(tensor, index, seed, dtype):
        _write_at(descriptor, offset, chunk.view(np.uint8).data)
        offset += chunk.nbytes
    return offset - start


def _write_at(descriptor: int, offset: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        count = os.pwrite(descriptor, left, offset)
        left, offset = left[count:], offset + count


def _split(everything: list[tuple[int, Tensor]], shards: int) -> list[list[tuple[int, Tensor]]]:
    """Cut the list into `shards` runs of about the same number of values, none of them empty."""
    if not 1 <= shards <= len(everything):
        raise ValueError(f"{len(everything)} tensors cannot be cut into {shards} shards")
    parts: list[list[tuple[int, Tensor]]] = [[]]
    left = sum(tensor.size for _, tensor in everything)
    room = left / shards
    for position, (index, tensor) in enumerate(everything):
        missing = shards - len(parts)
        full = parts[-1] and tensor.size / 2 > room
        if missing and (full or len(everything) - position == missing):
            parts.append([])
            room = left / missing
        parts[-1].append((index, tensor))
        room -= tensor.size
        left -= tensor.size
    return parts


def _header(stored: list[Tensor], dtype: str) -> bytes:
    name, width = DTYPES[dtype]
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in stored:
        begin, end = end, end + tensor.size * width
        entries[tensor.name] = {"dtype": name, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
