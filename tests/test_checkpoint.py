"""Checkpoint folders: whole ones are read lazily, damaged, lying and foreign ones are refused."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from convert_sources import KINDS, make_tensors, write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.convert import Checkpoint, CheckpointError
from pythia_rt.convert.source.tensor import BLOCK_BYTES

TRUTH = make_tensors()


def read_all(checkpoint: Checkpoint, name: str) -> bytes:
    tensor = checkpoint.tensors[name]
    data = np.empty(tensor.shape[0] * tensor.row_bytes, np.uint8)
    checkpoint.read_rows(name, 0, tensor.shape[0], data.data)
    return data.tobytes()


def safetensors_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refuse(folder: Path, content: bytes, file: str = "model.safetensors") -> str:
    """Return the sentence with which a folder of this one file is refused."""
    (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(folder)
    assert file in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_there(tmp_path: Path, kind: str) -> None:
    with Checkpoint(write_checkpoint(tmp_path, TRUTH, kind=kind)) as checkpoint:
        assert set(checkpoint.tensors) == set(TRUTH)
        for name, tensor in TRUTH.items():
            assert checkpoint.tensors[name].shape == tuple(tensor.shape)
            if tensor.ndim:
                expected = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                assert read_all(checkpoint, name) == expected


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_rows_are_read_alone(tmp_path: Path, kind: str) -> None:
    name = "gpt_neox.embed_in.weight"
    with Checkpoint(write_checkpoint(tmp_path, TRUTH, kind=kind)) as checkpoint:
        buffer = np.empty(3 * checkpoint.tensors[name].row_bytes, np.uint8)
        checkpoint.read_rows(name, 5, 8, buffer.data)
        np.testing.assert_array_equal(buffer.view(np.float16), TRUTH[name][5:8].numpy().ravel())
        with pytest.raises(ValueError, match="rows"):
            checkpoint.read_rows(name, 5, 1000, buffer.data)


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, kind="bin")
    write_checkpoint(tmp_path, kind="safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        assert [path.name for path in checkpoint.files] == ["model.safetensors"]


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_no_file_stays_open(tmp_path: Path) -> None:
    before = open_files()
    with Checkpoint(write_checkpoint(tmp_path / "a", kind="sharded")):
        assert open_files() == before + 3
    with pytest.raises(CheckpointError):
        Checkpoint(tmp_path)
    assert open_files() == before


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights: give a folder with"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("adapter_model.safetensors", "merge_and_unload"),
        ("adapter_model.bin", "merge_and_unload"),
        ("zero_to_fp32.py", r"run zero_to_fp32\.py"),
        ("pytorch_model_fsdp_0", "accelerate merge-weights"),
        ("model-00001-of-00002.safetensors", r"fetch model\.safetensors\.index\.json too"),
        ("pytorch_model-00001-of-00002.bin", r"fetch pytorch_model\.bin\.index\.json too"),
    ],
)
def test_what_lies_there_in_place_of_weights_is_named(tmp_path: Path, file: str, says: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"holds '{file}' and no weights: .*{says}"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "legacy bin"])
def test_truncation_is_noticed_everywhere(tmp_path: Path, kind: str) -> None:
    file = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    whole = (write_checkpoint(tmp_path, kind=kind) / file).read_bytes()
    assert "empty" in refuse(tmp_path, b"", file)
    cuts = {1, 7, 8, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 1}
    cuts |= set(range(10, len(whole), len(whole) // 37))
    for cut in sorted(cuts):
        refuse(tmp_path, whole[:cut], file)


@pytest.mark.parametrize("content", [b"\0" * 100, b"<html>not found</html>" * 9, b"version https"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, file: str) -> None:
    refuse(tmp_path, content, file)


def entry(begin: int, end: int, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ({"a": entry(0, 8), "b": entry(4, 16)}, "overlaps"),
        ({"a": entry(0, 4), "b": entry(8, 16)}, "hole"),
        ({"a": entry(4, 16)}, "hole"),
        ({"a": entry(0, 8)}, "8 bytes after"),
        ({"a": entry(0, 17)}, "truncated"),
        ({"a": entry(0, 16, [4, 5])}, "16 bytes where its shape needs 20"),
        ({"a": entry(0, 16, [1 << 40] * 8)}, "bytes where its shape needs"),
        ({"a": entry(0, 16, [-4, -4])}, "shape"),
        ({"a": entry(0, 16, [16.0])}, "shape"),
        ({"a": entry(0, 16, [True] * 4)}, "shape"),
        ({"a": entry(0, 16, [1] * 9 + [16])}, "shape"),
        ({"a": entry(0, 16, "16")}, "shape"),
        ({"a": entry(16, 0, [16])}, "range"),
        ({"a": {"dtype": "U8", "shape": [16], "data_offsets": [0]}}, "range"),
        ({"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 1 << 80]}}, "range"),
        ({"a": entry(0, 16, dtype="Q4")}, "dtype"),
        ({"a": entry(0, 16, dtype=["U8"])}, "dtype"),
        ({"a": {"dtype": "U8"}}, "without dtype, shape and data_offsets"),
        ({"a": 3}, "without dtype, shape and data_offsets"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 16)}, "metadata"),
        ({"__metadata__": {"a": None}, "a": entry(0, 16)}, "metadata"),
        ({"__metadata__": [], "a": entry(0, 16)}, "metadata"),
        ([], "not a JSON object"),
        (b'{"a": ', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b'{"__metadata__": {"x": "1", "x": "2"}}', "twice"),
        (b"", "not JSON"),
    ],
)
def test_lying_headers_are_refused(tmp_path: Path, header: Any, says: str) -> None:
    assert says in refuse(tmp_path, safetensors_bytes(header, bytes(16)))


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, 1 << 40, 17])
def test_absurd_header_lengths_are_refused(tmp_path: Path, length: int) -> None:
    assert "truncated" in refuse(tmp_path, length.to_bytes(8, "little") + bytes(8))


def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((1 << 33).to_bytes(8, "little"))
    os.truncate(path, (1 << 33) + 100)  # sparse
    with pytest.raises(CheckpointError, match="more than any real checkpoint"):
        Checkpoint(tmp_path)


def test_many_duplicates_do_not_take_forever(tmp_path: Path) -> None:
    names = ", ".join(f'"{i}": 1' for i in range(200_000))
    text = f'{{{names}, "7": 1}}'.encode()
    assert "'7' twice" in refuse(tmp_path, safetensors_bytes(text))


def test_hostile_names_are_shown_harmlessly(tmp_path: Path) -> None:
    text = b'{"\\u001b[31m\\ud800' + b"x" * 10_000 + b'": 3}'
    sentence = refuse(tmp_path, safetensors_bytes(text))
    assert sentence.isprintable()
    assert len(sentence) < 500


def write_index(folder: Path, places: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    ("places", "says"),
    [
        (
            {"a": "model-1.safetensors", "b": "gone.safetensors"},
            "'gone.safetensors', which is missing",
        ),
        ({"a": "sub/x.safetensors"}, "'sub/x.safetensors', which is missing"),
        ({"a": "x" * 300 + ".safetensors"}, "not a file of weights in its folder"),
        ({"a": "\u4e00" * 90 + ".safetensors"}, "not a file of weights in its folder"),
        ({"a": "\ud800.safetensors"}, "which is missing"),
        ({"a": "./../secret.safetensors"}, "not a file of weights in its folder"),
        ({"a": "sub/../../secret.safetensors"}, "not a file of weights in its folder"),
        ({"a": "./"}, "not a file of weights in its folder"),
        ({"a": "../secret.safetensors"}, "not a file of weights in its folder"),
        ({"a": "/etc/x.safetensors"}, "not a file of weights in its folder"),
        ({"a": "//etc/x.safetensors"}, "not a file of weights in its folder"),
        ({"a": "..\\x.safetensors"}, "not a file of weights in its folder"),
        ({"a": "x\0.safetensors"}, "not a file of weights in its folder"),
        ({"a": ".."}, "not a file of weights in its folder"),
        ({"a": ""}, "not a file of weights in its folder"),
        ({"a": 3}, "something"),
        ({"a": "pytorch_model.bin"}, "'pytorch_model.bin', which is missing"),
        ({"a": "config.json"}, "not a file of weights in its folder"),
        ({"a": "safetensors"}, "not a file of weights in its folder"),
        ({}, "no weight_map"),
        ([], "no weight_map"),
        (None, "no weight_map"),
    ],
)
def test_lying_indexes_are_refused(tmp_path: Path, places: Any, says: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, name in ((1, "a"), (2, "b")):
        content = safetensors_bytes({name: entry(0, 4)}, bytes(4))
        (folder / f"model-{number}.safetensors").write_bytes(content)
    (tmp_path / "secret.safetensors").write_bytes(safetensors_bytes({"a": entry(0, 4)}, bytes(4)))
    write_index(folder, places)
    with pytest.raises(CheckpointError) as error:
        Checkpoint(folder)
    assert says in str(error.value)


@pytest.mark.parametrize("length", [4, 2 * BLOCK_BYTES + 4])
@pytest.mark.parametrize("dtype", ["U8", "F32"])
def test_a_tensor_in_two_shards_must_be_the_same(tmp_path: Path, length: int, dtype: str) -> None:
    shape = [length // {"U8": 1, "F32": 4}[dtype]]

    def write(number: int, data: bytes, shape: list[int]) -> None:
        header = {"a": entry(0, length, shape, dtype), str(number): entry(length, length + 4)}
        content = safetensors_bytes(header, data + bytes(4))
        (tmp_path / f"model-{number}.safetensors").write_bytes(content)

    write(1, bytes(length), shape)
    write(2, bytes(length), shape)
    write_index(tmp_path, {"1": "model-1.safetensors", "2": "model-2.safetensors"})
    with Checkpoint(tmp_path) as checkpoint:
        assert sorted(checkpoint.tensors) == ["1", "2", "a"]
    for data, other in ((bytes(length - 1) + b"x", shape), (bytes(length), [*shape, 1])):
        write(2, data, other)
        with pytest.raises(CheckpointError, match=r"'a' is both in model-1.* and in model-2.*diff"):
            Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": None, "a": entry(0, 16)},
        {"__metadata__": {}, "a": entry(0, 16)},
        {"a": entry(0, 16), "__metadata__": {"format": "pt"}},
        {"a": {**entry(0, 16), "more": 1}},
        {"a": dict(reversed(entry(0, 16).items()))},
        {"b": entry(8, 16), "a": entry(0, 8)},
        {"z": entry(0, 0, [0]), "a": entry(0, 16), "y": entry(16, 16, [3, 0])},
        {"a": entry(0, 16), "z": entry(0, 0)},
        {"a": entry(0, 4, [], "F32"), "b": entry(4, 16)},
        {"a": entry(0, 8, [1], "C64"), "b": entry(8, 16, dtype="F8_E8M0")},
        b' {"a": {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}} \n\t ',
    ],
)
def test_what_the_safetensors_library_reads_is_read(tmp_path: Path, header: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(range(16))))
    theirs = safetensors.torch.load_file(path)
    with Checkpoint(tmp_path) as checkpoint:
        assert {n: t.shape for n, t in checkpoint.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in theirs.items()
        }
        for name, tensor in theirs.items():
            if tensor.ndim:
                assert read_all(checkpoint, name) == tensor.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_damaged_indexes_are_refused(tmp_path: Path, content: bytes) -> None:
    refuse(tmp_path, content, "model.safetensors.index.json")


@pytest.mark.parametrize("call", ["open", "preadv"])
def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    write_checkpoint(tmp_path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(PermissionError, match=r"cannot read .* \(Permission denied\)") as error:
        Checkpoint(tmp_path)
    assert not str(error.value).startswith("[Errno")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="not a regular file"):
        Checkpoint(tmp_path)


def content_of(kind: str) -> bytes:
    buffer = io.BytesIO()
    state = dict(list(TRUTH.items())[:4])
    torch.save(state, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


HEADER = {"__metadata__": {"format": "pt"}, "a": entry(0, 8, [2, 2], "F16"), "b": entry(8, 16)}
MUTATED = {
    "model.safetensors": [safetensors_bytes(HEADER, bytes(16))],
    "pytorch_model.bin": [content_of("zip"), content_of("legacy")],
}


@given(st.data())
@settings(max_examples=examples(400), deadline=None)
def test_mutated_files_never_crash(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("mutated", numbered=True)
    file = data.draw(st.sampled_from(sorted(MUTATED)))
    raw = bytearray(data.draw(st.sampled_from(MUTATED[file])))
    # Mutations at either end hit headers, pickles and directories; the middle is weights.
    near = st.integers(0, min(1500, len(raw) - 1))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(near | near.map(lambda n: len(raw) - 1 - n))
        raw[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0129-[]{}",:PK'))
    (folder / file).write_bytes(raw)
    try:
        with Checkpoint(folder) as checkpoint:
            for name, tensor in checkpoint.tensors.items():
                if tensor.shape and (tensor.strides is None or tensor.nbytes < 1 << 20):
                    read_all(checkpoint, name)
    except CheckpointError as error:
        assert str(error).isprintable()
