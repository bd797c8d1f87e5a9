"""Digests of tensors' values: what counts as equal, and what a converted file keeps of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import SOURCES, make_config, write_checkpoint
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from pythia_rt.cli import main
from pythia_rt.convert import FlatFile, FlatFileError, convert
from pythia_rt.convert.files import digest as file_digest
from pythia_rt.convert.flatfile.metadata import to_json
from pythia_rt.convert.source import value_digests
from pythia_rt.convert.source.checkpoint import Checkpoint
from pythia_rt.convert.source.digests import SourceDigests
from pythia_rt.convert.source.value_digests import (
    TensorDigest,
    ValueDigests,
    combine,
    digest_tensor,
    digest_values,
)
from pythia_rt.info import describe


def digests(folder: Path) -> ValueDigests:
    with Checkpoint(folder) as checkpoint:
        return digest_values(checkpoint.tensors)


def digest(folder: Path, values: NDArray[np.generic], limit: int | None = None) -> TensorDigest:
    """The digest of one tensor, by way of a file."""
    folder.mkdir(exist_ok=True)
    save_file({"x.weight": values}, folder / "model.safetensors")
    with Checkpoint(folder) as checkpoint:
        return digest_tensor(checkpoint.tensors["x.weight"], limit=limit)


def sha256(dtype: str, shape: list[int], data: bytes) -> str:
    return hashlib.sha256(f"{dtype} {shape}".encode() + data).hexdigest()


@pytest.mark.parametrize(("kind", "name"), [("f2", "F16"), ("f4", "F32"), ("f8", "F64")])
def test_a_digest_is_of_the_values_in_order(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks, here of two rows, change nothing, and a -0 is +0 in whichever it is."""
    monkeypatch.setattr(value_digests, "BLOCK_BYTES", 2 * 5 * int(kind[1]))
    values = np.random.default_rng(0).normal(size=(7, 5)).astype(kind)
    values[3, 2] = values[6, 4] = 0
    plain = digest(tmp_path, values)
    assert plain.values == plain.raw == sha256(name, [7, 5], values.tobytes())
    for place in ((3, 2), (6, 4)):
        changed = values.copy()
        changed[place] = -0.0
        found = digest(tmp_path, changed)
        assert found.values == plain.values
        at = np.array([place[0] * 5 + place[1]], "<i8").tobytes()
        both = plain.values.encode() + hashlib.sha256(at).digest()
        assert found.raw == hashlib.sha256(both).hexdigest()
    changed = values.copy()
    changed[6, 4] = np.finfo(kind).tiny
    assert digest(tmp_path, changed).values != plain.values
    assert digest(tmp_path, values.reshape(5, 7)).values != plain.values


def test_of_the_beginning(tmp_path: Path) -> None:
    """Up to the row that holds the last byte."""
    values = np.arange(12, dtype="f4").reshape(4, 3)
    wanted = sha256("F32", [4, 3], values[:2].tobytes())
    assert digest(tmp_path, values, limit=13).values == wanted
    assert digest(tmp_path, values, limit=1000).values == digest(tmp_path, values).values


def test_bfloat16_and_numbers_without_zeros(tmp_path: Path) -> None:
    for dtype, same in ((torch.bfloat16, True), (torch.int32, False)):
        found = []
        for word in (0, -(1 << 15) if dtype is torch.bfloat16 else -(1 << 31)):
            whole = torch.int16 if dtype is torch.bfloat16 else torch.int32
            tensor = torch.tensor([[word, 5]], dtype=whole).view(dtype)
            save_torch({"x": tensor}, tmp_path / "model.safetensors")
            found.append(digests(tmp_path))
        assert (found[0].values == found[1].values) is same
        assert found[0].raw != found[1].raw


def test_it_does_not_depend_on_the_kind_of_file(tmp_path: Path) -> None:
    found = []
    for number, source in enumerate(SOURCES):
        folder = write_checkpoint(
            tmp_path / str(number), make_config(), source=source, buffers=number > 1
        )
        found.append(digests(folder))
    assert len(found[0].tensors) == 28
    assert all(other == found[0] for other in found)


def test_a_transposed_view_has_the_digest_of_what_it_shows(tmp_path: Path) -> None:
    values = torch.arange(12.0).reshape(3, 4)
    torch.save({"x": values.T}, tmp_path / "pytorch_model.bin")
    (tmp_path / "row").mkdir()
    torch.save({"x": values.T.contiguous()}, tmp_path / "row" / "pytorch_model.bin")
    assert digests(tmp_path) == digests(tmp_path / "row")
    torch.save({"x": torch.ones(2, 3, 4).permute(2, 1, 0)}, tmp_path / "pytorch_model.bin")
    assert set(digests(tmp_path).tensors["x"].values) == {"0"}


def test_masks_and_tables_are_left_out_and_biases_are_not(tmp_path: Path) -> None:
    one = np.ones(4, "f4")
    tensors = {
        "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 4, 4), "u1"),
        "gpt_neox.layers.0.attention.masked_bias": np.array(-1e9, "f4"),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": one,
        "model.layers.0.attention.bias": one,
        "scale": np.array(2, "f4"),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert list(digests(tmp_path).tensors) == ["model.layers.0.attention.bias", "scale"]


# What a conversion keeps.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), make_config())


def test_a_file_has_the_digests_of_its_source(checkpoint: Path, tmp_path: Path) -> None:
    expected = digests(checkpoint)
    for form in ("f32", "q4"):
        path = convert(checkpoint, tmp_path / form, format=form)
        found = FlatFile(path).value_digests
        assert (found["values"], found["raw"]) == (expected.values, expected.raw)
        assert found["tensors"] == {
            name: one.values[:16] for name, one in expected.tensors.items() if one.is_large
        }
        assert len(found["tensors"]) == 10
        assert describe(path)["value_digests"] == found
        shown = CliRunner().invoke(main, ["info", str(path)]).output
        assert f"{expected.values}  values of the source's tensors" in shown


def test_without_its_weights_nothing_is_the_same(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    tensors[name][3, 4] += 1
    save_torch(tensors, tmp_path / "model.safetensors")
    before, after = digests(checkpoint), digests(tmp_path)
    assert before.values != after.values
    differ = {n for n in before.tensors if before.tensors[n] != after.tensors[n]}
    assert differ == {name}


def test_a_sum_of_checkpoints_has_none(checkpoint: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", make_config(), seed=1)
    path = convert(checkpoint, tmp_path / "sum", task_vectors=[(other, 0.5)])
    assert FlatFile(path).value_digests == {}


def test_what_is_kept_is_small() -> None:
    """36 layers as in 12b fit; where they do not, both sums are left."""
    digest = TensorDigest("1" * 64, "2" * 64)
    for layers, kept in ((36, 144), (200, 0)):
        names = (
            f"gpt_neox.layers.{i}.{part}.weight"
            for i in range(layers)
            for part in (
                "attention.query_key_value",
                "attention.dense",
                "mlp.dense_h_to_4h",
                "mlp.dense_4h_to_h",
            )
        )
        found = combine(dict.fromkeys(names, digest)).stored()
        assert len(found["tensors"]) == kept
        assert len(to_json(found)) < 20_000


@pytest.mark.parametrize(
    "change",
    [
        lambda _: "[]",
        lambda _: "{}",
        lambda text: json.dumps({**json.loads(text), "values": 3}),
        lambda text: json.dumps({**json.loads(text), "tensors": {"x": None}}),
    ],
)
def test_damaged_digests_are_refused(
    change: Callable[[str], str], checkpoint: Path, tmp_path: Path
) -> None:
    path = convert(checkpoint, tmp_path / "flat", format="f32")
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header["__metadata__"]
    metadata["pythia_rt.value_digests"] = change(metadata["pythia_rt.value_digests"])
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(raw[:8] + text.ljust(length) + raw[8 + length :])
    with pytest.raises(FlatFileError, match="value_digests"):
        FlatFile(path)


def test_what_reading_raises_reaches_the_caller(checkpoint: Path) -> None:
    with Checkpoint(checkpoint) as opened:
        digests = SourceDigests(checkpoint, [], tensors=opened.tensors)
        opened.close()
        with digests, pytest.raises(OSError, match="cannot read"):
            digests.values()


@pytest.mark.parametrize("size", [0, 9, 10, 25])
def test_a_files_digest_is_of_all_its_blocks(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digest, "_BLOCK_BYTES", 10)
    content = bytes(range(size))
    path = tmp_path / "file"
    path.write_bytes(content)
    assert file_digest.sha256_of(path) == hashlib.sha256(content).hexdigest()
    answers = iter([False, True])
    stopped = file_digest.sha256_of(path, lambda: next(answers))
    assert stopped == hashlib.sha256(content[:10]).hexdigest()
