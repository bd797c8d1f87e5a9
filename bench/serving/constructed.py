"""Checkpoints whose next token is a map of the last one, at the full cost of their shape.

Their layers compute all that a model's do and add nothing, since their output projections are zero:
what is left is the embedding, a code of signs for each token, and a head that knows the codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import checkpoint

Map = NDArray[np.int64]  # [vocabulary], a permutation: what comes after each token

REPEATING = 40  # tokens of the circle that repeats: those from 1 on


def next_tokens(vocabulary: int) -> Map:
    """One circle of REPEATING tokens and one of all others; 0, which ends texts, is in neither."""
    after = np.arange(vocabulary)
    others = REPEATING + 1 + np.random.default_rng(0).permutation(vocabulary - REPEATING - 1)
    for circle in (np.arange(1, REPEATING + 1), others):
        after[circle] = np.roll(circle, -1)
    return after


def agreeing(after: Map, part: float) -> Map:
    """A map that is the same for this part of the tokens, 0 to 1, and another for all others."""
    random = np.random.default_rng(1)
    tokens = 1 + random.permutation(len(after) - 1)
    others = tokens[: round((1 - part) * len(tokens))]
    changed: Map = after.copy()
    changed[others] = np.roll(after[others], 1)
    return changed


def write(folder: Path, config: checkpoint.Config, after: Map, seed: int = 0) -> Path:
    """Write such a checkpoint of the config's shape, GPT-NeoX's, into a new folder."""
    checkpoint.write(folder, config, seed=seed)
    width = int(config["hidden_size"])
    signs = np.random.default_rng(seed).integers(0, 2, (len(after), width), np.int8) * 2 - 1
    head = np.empty_like(signs)
    head[after] = signs
    changes: dict[str, Callable[[NDArray[np.float16]], Any]] = {
        "embed_in.weight": lambda values: np.copyto(values, signs),
        "embed_out.weight": lambda values: np.copyto(values, head),
        "final_layer_norm.weight": lambda values: values.fill(1),
        "final_layer_norm.bias": lambda values: values.fill(0),
    }
    for name in ("attention.dense", "mlp.dense_4h_to_h"):
        for part in ("weight", "bias"):
            changes[f"{name}.{part}"] = lambda values: values.fill(0)
    _change(folder / "model.safetensors", changes)
    return folder


def _change(path: Path, changes: dict[str, Callable[[NDArray[np.float16]], Any]]) -> None:
    """Call those whose name a tensor's ends with, with its values."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    stored = np.memmap(path, np.uint8, "r+", offset=8 + length)
    for name, about in header.items():
        for ending, change in changes.items():
            if name.endswith(ending):
                begin, end = about["data_offsets"]
                change(stored[begin:end].view(np.float16).reshape(about["shape"]))
    stored.flush()
