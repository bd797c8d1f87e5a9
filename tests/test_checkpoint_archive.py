"""Archives of torch.save: state dicts are read, whatever else they may hold is refused."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pythia_rt.convert import Checkpoint, CheckpointError


def read_all(checkpoint: Checkpoint, name: str) -> bytes:
    tensor = checkpoint.tensors[name]
    data = np.empty(tensor.shape[0] * tensor.row_bytes, np.uint8)
    checkpoint.read_rows(name, 0, tensor.shape[0], data.data)
    return data.tobytes()


def refuse(folder: Path, content: bytes, file: str) -> str:
    """Return the sentence with which a folder of this one file is refused."""
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(folder)
    assert file in str(error.value)
    return str(error.value)


def save(folder: Path, state: Any, **options: Any) -> Path:
    path = folder / "pytorch_model.bin"
    torch.save(state, path, **options)
    return path


def rewrite_zip(path: Path, change: Any, **options: Any) -> None:
    """Write the archive anew; `change` maps (name, bytes) to the new bytes or None."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, data in entries.items():
            changed = change(name, data)
            if changed is not None:
                new.writestr(name, changed)


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_storage(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(24.0).reshape(6, 4)
    state = {"whole": base, "rows": base[2:5], "column": base[:, 1], "turned": base.t()}
    save(tmp_path, state, _use_new_zipfile_serialization=not legacy)
    with Checkpoint(tmp_path) as checkpoint:
        assert read_all(checkpoint, "whole") == base.numpy().tobytes()
        assert read_all(checkpoint, "rows") == base[2:5].numpy().tobytes()
        for name in ("column", "turned"):
            with pytest.raises(CheckpointError, match=f"'{name}' is not stored row by row"):
                read_all(checkpoint, name)


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": 3}, "'a', which is not a tensor"),
        ({"state_dict": {"a": torch.ones(1)}}, "'state_dict', which is not a tensor"),
        ([torch.ones(1)], "no state dict"),
        (torch.ones(1), "no state dict"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_only_state_dicts_are_read(tmp_path: Path, state: Any, says: str, legacy: bool) -> None:
    path = save(tmp_path, state, _use_new_zipfile_serialization=not legacy)
    assert says in refuse(tmp_path, path.read_bytes(), path.name)


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.zeros(1000)})
    rewrite_zip(path, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert "compressed or encrypted" in refuse(tmp_path, path.read_bytes(), path.name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda name, data: None if name.endswith("/data/0") else data, "lacks its storage '0'"),
        (
            lambda name, data: data[:-1] if name.endswith("/data/0") else data,
            "smaller than it says",
        ),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, "big-endian"),
        (
            lambda name, data: None if name.endswith("data.pkl") else data,
            "without torch's data.pkl",
        ),
    ],
)
def test_damaged_archives_are_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = save(tmp_path, {"a": torch.zeros(1000)})
    rewrite_zip(path, change)
    assert says in refuse(tmp_path, path.read_bytes(), path.name)


@pytest.mark.parametrize("count", [0, 9, 11, 1 << 63])
def test_a_legacy_storage_that_lies_about_its_length_is_refused(tmp_path: Path, count: int) -> None:
    path = save(tmp_path, {"a": torch.zeros(10)}, _use_new_zipfile_serialization=False)
    raw = bytearray(path.read_bytes())
    assert raw[-48:-40] == (10).to_bytes(8, "little")
    raw[-48:-40] = count.to_bytes(8, "little")
    assert "not as long as it says" in refuse(tmp_path, bytes(raw), path.name)


def test_a_legacy_file_with_bytes_left_over_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.zeros(10)}, _use_new_zipfile_serialization=False)
    assert "bytes left over" in refuse(tmp_path, path.read_bytes() + b"x", path.name)


def test_an_archive_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/executed",)

    path = save(tmp_path, {"a": torch.ones(1), "b": Trap()})
    assert "'posix.system', which tensor files do not need" in refuse(
        tmp_path, path.read_bytes(), path.name
    )
    path = save(tmp_path, {"b": Trap()}, _use_new_zipfile_serialization=False)
    assert "'posix.system'" in refuse(tmp_path, path.read_bytes(), path.name)
    assert not (tmp_path / "executed").exists()


def test_a_view_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, {"a": torch.zeros(10)})

    def grow(name: str, data: bytes) -> bytes:
        return data.replace(b"K\x0a\x85", b"K\x0b\x85") if name.endswith("pkl") else data

    rewrite_zip(path, grow)
    assert "leaves its storage" in refuse(tmp_path, path.read_bytes(), path.name)
