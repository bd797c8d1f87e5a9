"""What the bias adds to the keys' unrotated dimensions is in no score, so it must cost nothing."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert import FlatFile, convert

HEADS, HEAD_DIM, ROTARY_DIM = 3, 32, 8
TOKENS = np.random.default_rng(1).integers(0, 96, 50, np.int32)


@pytest.fixture(scope="module")
def flat_file(tmp_path_factory: pytest.TempPathFactory) -> FlatFile:
    folder = tmp_path_factory.mktemp("bias")
    config = make_config(heads=HEADS, head_dim=HEAD_DIM, vocab_size=96)
    source = write_checkpoint(folder / "source", config, seed=4)
    return FlatFile(convert(source, folder / "f32.safetensors", format="f32"))


def logits(file: FlatFile, kv_format: str, biases: dict[int, float]) -> NDArray[np.float32]:
    """Logits with a constant added to some dimensions of every head's keys, in every layer."""
    tensors = dict(file.tensors)
    for layer in range(file.spec["n_layers"]):
        name = f"layers.{layer}.qkv.bias"
        changed = np.frombuffer(tensors[name], np.float32).copy()
        keys = changed[HEADS * HEAD_DIM : 2 * HEADS * HEAD_DIM].reshape(HEADS, HEAD_DIM)
        for dimension, value in biases.items():
            keys[:, dimension] += np.float32(value)
        tensors[name] = changed.view(np.uint8)
    model = _core.Model(dict(file.spec), file.formats, tensors, threads=1)
    return _core.Session(model, capacity=len(TOKENS), kv_format=kv_format).logits(TOKENS)


def test_a_constant_in_the_keys_changes_nothing(kv_format: str, flat_file: FlatFile) -> None:
    plain = logits(flat_file, kv_format, {})
    huge = logits(flat_file, kv_format, {ROTARY_DIM: 300, 20: -173, HEAD_DIM - 1: 1e6})
    np.testing.assert_array_equal(plain.view(np.uint32), huge.view(np.uint32))


def test_a_rotated_constant_does(kv_format: str, flat_file: FlatFile) -> None:
    plain = logits(flat_file, kv_format, {})
    assert np.abs(logits(flat_file, kv_format, {ROTARY_DIM - 1: 30}) - plain).max() > 1e-3
