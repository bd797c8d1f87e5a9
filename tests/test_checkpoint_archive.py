"""Archives of torch.save: state dicts are read, whatever else they may hold is refused."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from pythia_rt.convert import Checkpoint, CheckpointError
from pythia_rt.convert.source.tensor import MAX_RUN_BYTES
from pythia_rt.convert.source.value_digests import digest_tensor


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
            assert read_all(checkpoint, name) == state[name].contiguous().numpy().tobytes()


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ({"a": 3}, "'a', which is not a tensor"),
        ({"a": torch.ones(1), "epoch": 3}, "'epoch', which is not a tensor"),
        ({"a": {"b": {"c": {"d": torch.ones(1)}}}}, "'a', which is not a tensor"),
        ({"a": {"b": torch.ones(1), "c": 1}}, "'a', which is not a tensor"),
        ({"model": {}}, "'model', which is not a tensor"),
        (
            {"model": {"a": torch.ones(1)}, "ema": {"a": torch.ones(1)}},
            "several state dicts, 'model' and 'ema'",
        ),
        ([torch.ones(1)], "no state dict"),
        (torch.ones(1), "no state dict"),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_only_state_dicts_are_read(tmp_path: Path, state: Any, says: str, legacy: bool) -> None:
    path = save(tmp_path, state, _use_new_zipfile_serialization=not legacy)
    assert says in refuse(tmp_path, path.read_bytes(), path.name)


VIEWS = {
    "transposed": lambda base: base.t(),
    "columns": lambda base: base[:, 3:17],
    "every third column": lambda base: base[:, ::3],
    "every second row": lambda base: base[::2],
    "transposed, with steps": lambda base: base[::2, 1::3].t(),
    "one row, repeated": lambda base: base[:1].expand(9, -1),
    "one column, repeated": lambda base: base[:, :1].expand(-1, 9),
    "one value, repeated": lambda base: base[:1, :1].expand(8, 9),
    "a column": lambda base: base[:, 5],
    "a column as a matrix": lambda base: base[:, 5:6],
    "one value as a vector": lambda base: base[0, :1].expand(9),
    "no rows": lambda base: base.t()[:0],
    "no columns": lambda base: base.t()[:, :0],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("view", VIEWS)
def test_rows_of_views(tmp_path: Path, view: str, dtype: torch.dtype) -> None:
    base = torch.arange(40 * 30).remainder(251).reshape(40, 30).to(dtype)
    tensor = VIEWS[view](base)
    save(tmp_path, {"before": torch.ones(3), "a": tensor})
    expected = tensor.clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy()
    with Checkpoint(tmp_path) as checkpoint:
        assert read_all(checkpoint, "a") == expected.tobytes()
        for start, stop in ((0, len(tensor) // 2), (len(tensor) // 3, len(tensor))):
            data = bytearray((stop - start) * checkpoint.tensors["a"].row_bytes)
            checkpoint.read_rows("a", start, stop, memoryview(data))
            size = tensor.element_size()
            rows = expected if tensor.ndim == 2 else expected.reshape(-1, size)
            assert data == rows[start:stop].tobytes()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(4, 5, 6).transpose(0, 2),
        torch.ones(1).expand(1 << 40),
        torch.ones(1, 1).expand(1 << 20, 1 << 20),
        torch.ones(1, 5).t().expand(5, 1 << 30),
    ],
)
def test_views_that_are_no_weights_say_what_to_do(tmp_path: Path, tensor: torch.Tensor) -> None:
    save(tmp_path, {"a": tensor})
    says = r"'a' is not stored row by row: .*contiguous"
    with Checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match=says):
        checkpoint.read_rows("a", 0, 1, memoryview(bytearray(120)))


def test_a_view_spread_over_a_huge_file_takes_no_memory(tmp_path: Path) -> None:
    length = MAX_RUN_BYTES // 4 + 2
    save(tmp_path, {"a": torch.zeros(length)[:: length - 1]})
    with Checkpoint(tmp_path) as checkpoint, pytest.raises(CheckpointError, match="contiguous"):
        read_all(checkpoint, "a")


def test_views_in_two_shards_are_compared_by_their_values(tmp_path: Path) -> None:
    base = torch.arange(600 * 700.0).reshape(600, 700)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "1.bin", "b": "2.bin"}}))
    torch.save({"a": base.t()}, tmp_path / "1.bin")
    torch.save({"a": base.t().contiguous()}, tmp_path / "2.bin")
    with Checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == ["a"]
    other = base.t().contiguous()
    other[-1, -1] = 0
    torch.save({"a": other}, tmp_path / "2.bin")
    with pytest.raises(CheckpointError, match=r"'a' is both in 1\.bin and in 2\.bin"):
        Checkpoint(tmp_path)


OPTIMIZER = {
    "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(4)}, 1: {}},
    "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1]}],
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "around",
    [
        lambda state: {"state_dict": state, "epoch": 3, "global_step": 7, "loops": {}},
        lambda state: {"module": state, "optimizer": None, "buffer_names": []},
        lambda state: {"model": state, "optimizer": OPTIMIZER, "rng_state": torch.zeros(8)},
        lambda state: {"optimizer": OPTIMIZER, "trainer": {"model": state}},
        lambda state: {"model": state, "module": state},  # one dictionary under two names
    ],
)
def test_a_training_state_with_one_state_dict_is_read(
    tmp_path: Path, around: Any, legacy: bool
) -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}
    save(tmp_path, around(state), _use_new_zipfile_serialization=not legacy)
    with Checkpoint(tmp_path) as checkpoint:
        assert list(checkpoint.tensors) == list(state)
        for name, tensor in state.items():
            assert read_all(checkpoint, name) == tensor.numpy().tobytes()


def test_a_dictionary_in_a_million_places_costs_nothing(tmp_path: Path) -> None:
    inner: dict[str, Any] = {}
    value = {str(i): inner for i in range(1000)}
    for _ in range(2):
        value = {str(i): value for i in range(1000)}
    path = save(tmp_path, value)
    assert "'0', which is not a tensor" in refuse(tmp_path, path.read_bytes(), path.name)


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


def test_a_list_of_entries_as_long_as_the_file_takes_no_memory(tmp_path: Path) -> None:
    """zipfile reads as much as the file's last bytes say that the list has."""
    size = 1 << 30
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"PK\x03\x04")
    os.truncate(path, size)  # a hole
    with path.open("ab") as stream:
        stream.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size - 4, 4, 0))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="is truncated or is not an archive"):
            Checkpoint(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1, 1 << 46), (1 << 23, 1 << 23), (1 << 46,), (2, 1 << 26)])
def test_views_without_end_are_digested_in_no_memory(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """A number repeated: of a tensor that nobody needs, in a file of a kilobyte."""
    save(tmp_path, {"a": torch.zeros(1).expand(shape)})
    with Checkpoint(tmp_path) as checkpoint:
        tracemalloc.start()
        try:
            digest_tensor(checkpoint.tensors["a"])
        except CheckpointError as error:
            assert "is not stored row by row" in str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 96 << 20


def test_a_row_as_long_as_the_file_is_digested_in_blocks(tmp_path: Path) -> None:
    values = np.arange(5 << 20, dtype="f4")
    values[[3, 1 << 20]] = -0.0
    digests = set()
    for shape in ((5 << 20,), (1, 5 << 20), (5, 1 << 20)):
        save_file({"a": values.reshape(shape)}, tmp_path / "model.safetensors")
        with Checkpoint(tmp_path) as checkpoint:
            tracemalloc.start()
            found = digest_tensor(checkpoint.tensors["a"])
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
            tracemalloc.stop()
        clean = (values + 0.0).tobytes()
        assert found.values == hashlib.sha256(f"F32 {list(shape)}".encode() + clean).hexdigest()
        digests.add(found.raw)
    assert len(digests) == 3
