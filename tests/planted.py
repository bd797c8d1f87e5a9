"""Checkpoints that compute what another one does, with weights that are hard to quantise.

Every change is undone elsewhere: a channel's scale in the next matrix, a constant in the next bias
or in softmax. The results are float32, so the function stays the same up to float32's rounding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tensors = dict[str, Floats]
Config = dict[str, Any]
Plant = Callable[[Tensors, Config, np.random.Generator], None]


def plant(source: Path, destination: Path, *plants: Plant) -> Path:
    """Write the checkpoint in `source` to `destination`, with `plants` in it, as float32."""
    shutil.copytree(source, destination)
    config = json.loads((source / "config.json").read_text())
    loaded = safetensors.numpy.load_file(source / "model.safetensors")
    tensors = {name: tensor.astype(np.float64) for name, tensor in loaded.items()}
    generator = np.random.default_rng(0)
    for change in plants:
        change(tensors, config, generator)
    stored = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(stored, destination / "model.safetensors")
    config.pop("torch_dtype", None)
    (destination / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    return destination


def norm_channels(tensors: Tensors, config: Config, generator: np.random.Generator) -> None:
    """Gains and biases of a few channels of every layer's norms times 30 to 300, or by it."""
    for layer in _layers(config):
        for norm, matrix in (
            ("input_layernorm", "attention.query_key_value"),
            ("post_attention_layernorm", "mlp.dense_h_to_4h"),
        ):
            _scale_norm(tensors, f"{layer}.{norm}", f"{layer}.{matrix}.weight", generator)


def head_channels(tensors: Tensors, config: Config, generator: np.random.Generator) -> None:
    """The same of the final norm, where the head has weights of its own."""
    if not config.get("tie_word_embeddings", False):
        _scale_norm(tensors, "gpt_neox.final_layer_norm", "embed_out.weight", generator)


def value_channels(tensors: Tensors, config: Config, generator: np.random.Generator) -> None:
    """A few channels of the values times 30 to 300, or by it, and a constant in their bias."""
    for layer in _layers(config):
        weight = _heads(tensors, config, layer, "weight")[:, 2]
        factors = _few(weight.shape[:2], generator)
        weight *= factors[..., None]
        out = tensors[f"{layer}.attention.dense.weight"]
        out /= factors.reshape(-1)
        if config.get("attention_bias", True):
            constant = generator.normal(0, 3, factors.shape)
            bias = _heads(tensors, config, layer, "bias")[:, 2]
            bias *= factors
            bias += constant
            tensors[f"{layer}.attention.dense.bias"] -= out @ constant.reshape(-1)


def score_biases(tensors: Tensors, config: Config, generator: np.random.Generator) -> None:
    """Queries times 30 to 300 in a few dimensions, a norm in the hundreds in the keys' bias."""
    size = config["hidden_size"] // config["num_attention_heads"]
    share = config.get("rope_parameters", {}).get("partial_rotary_factor")
    rotary = int(size * (config["rotary_pct"] if share is None else share))
    for layer in _layers(config):
        weight = _heads(tensors, config, layer, "weight")
        factors = _few(weight[:, 0].shape[:2], generator)
        factors[:, : rotary // 2] = factors[:, rotary // 2 : rotary]  # a rotation mixes the two
        weight[:, 0] *= factors[..., None]
        weight[:, 1] /= factors[..., None]
        if config.get("attention_bias", True):
            bias = _heads(tensors, config, layer, "bias")
            bias[:, 0] *= factors
            bias[:, 1] /= factors
            bias[:, 1, rotary:] += generator.normal(0, 60, bias[:, 1, rotary:].shape)


EVERYTHING: tuple[Plant, ...] = (norm_channels, value_channels, score_biases, head_channels)


def far_scores(tensors: Tensors, config: Config, generator: np.random.Generator) -> None:
    """Another function: queries times 20,000 in every layer, so that scores pass -1e5."""
    for layer in _layers(config):
        for part in ("weight", "bias"):
            _heads(tensors, config, layer, part)[:, 0] *= 20_000


def _layers(config: Config) -> list[str]:
    return [f"gpt_neox.layers.{i}" for i in range(config["num_hidden_layers"])]


def _heads(tensors: Tensors, config: Config, layer: str, part: str) -> Floats:
    """A view [heads, 3, head_dim, ...] of queries, keys and values."""
    tensor = tensors[f"{layer}.attention.query_key_value.{part}"]
    return tensor.reshape(config["num_attention_heads"], 3, -1, *tensor.shape[1:])


def _few(shape: tuple[int, ...], generator: np.random.Generator) -> Floats:
    """Ones, but for about one in 40: 30 to 300, which is no power of two, or one over that."""
    factors = np.exp(generator.uniform(np.log(30), np.log(300), shape))
    factors = np.where(generator.random(shape) < 0.3, 1 / factors, factors)
    return np.where(generator.random(shape) < 1 / 40, factors, 1.0)


def _scale_norm(tensors: Tensors, norm: str, matrix: str, generator: np.random.Generator) -> None:
    factors = _few(tensors[f"{norm}.weight"].shape, generator)
    tensors[f"{norm}.weight"] *= factors
    tensors[f"{norm}.bias"] *= factors
    tensors[matrix] /= factors
