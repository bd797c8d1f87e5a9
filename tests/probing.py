"""Runs of the core that are looked into and changed: what several test modules need of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert import FlatFile

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]
Place = tuple[str, int]

LENGTHS = (270, 1, 9)  # of the sequences of a batch: the first one takes more than one pass


def tokens_of(vocabulary: int, lengths: Sequence[int] = LENGTHS) -> list[Tokens]:
    random = np.random.default_rng(3)
    return [random.integers(0, vocabulary, n, np.int32) for n in lengths]


def load(module: Any, path: Path, **options: Any) -> Any:
    file = FlatFile(path)
    return module.Model(dict(file.spec), file.formats, file.tensors, threads=2, **options)


def width_of(model: Any, point: str) -> int:
    (width,) = (width for name, _, width in model.points if name == point)
    found: int = width
    return found


def places_of(model: Any, *, of_keys: bool = False) -> list[Place]:
    """Every place of a model that has a point, or every one whose rows are [heads, keys]."""
    layers = range(model.spec["n_layers"])
    return [
        (name, layer)
        for name, in_layers, width in model.points
        for layer in (layers if in_layers else (-1,))
        if (width < 0) == of_keys
    ]


def sessions_of(module: Any, model: Any, n: int, kv_format: str = "f32") -> list[Any]:
    return [module.Session(model, kv_format=kv_format) for _ in range(n)]


def run(
    module: Any, model: Any, tokens: list[Tokens], kv_format: str = "f32", **options: Any
) -> tuple[Floats, list[Floats]]:
    """Return all sequences' logits, one after the other, and what was captured."""
    sessions = sessions_of(module, model, len(tokens), kv_format)
    logits, captured = module.run(sessions, tokens, **options)
    return np.concatenate(logits), captured


def replacing(
    module: Any,
    model: Any,
    changed: Sequence[tuple[str, int, Sequence[int], Floats]],
    lengths: Sequence[int],
) -> list[Any]:
    """Edits of each text by which tokens, numbered over all texts, get other rows at places."""
    ends = np.cumsum(lengths)
    edits = []
    for end, length in zip(ends, lengths, strict=True):
        items = []
        for point, layer, numbers, rows in changed:
            own = np.asarray(numbers, np.int64) - (end - length)
            inside = (own >= 0) & (own < length)
            zeros = np.zeros(rows.shape[1], np.float32)
            items.append((point, layer, own[inside], zeros, np.asarray(rows)[inside]))
        edits.append(module.Edits(model, items))
    return edits


def assert_same(found: NDArray[Any], expected: NDArray[Any]) -> None:
    """To the bit."""
    assert found.dtype == expected.dtype
    bits = np.uint16 if found.dtype == np.float16 else np.uint32
    np.testing.assert_array_equal(found.view(bits), expected.view(bits))
