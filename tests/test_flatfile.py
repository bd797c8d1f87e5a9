"""The flat file's reader: whatever differs from what the metadata says is refused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from convert_sources import write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.convert import FlatFile, FlatFileError, convert
from pythia_rt.convert.flatfile import memory
from pythia_rt.convert.flatfile.layout import Stored
from pythia_rt.convert.flatfile.metadata import VERSION

Header = dict[str, Any]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flat")
    return convert(write_checkpoint(folder / "source"), folder / "model.q4")


def split(path: Path) -> tuple[Header, bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: Header, data: bytes, *, align: bool = True) -> Path:
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64 + (0 if align else 8))
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def refuse(path: Path) -> str:
    with pytest.raises(FlatFileError) as error:
        FlatFile(path)
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize("copy", [False, True])
def test_the_tensors_are_views_of_one_mapping_or_copy(flat: Path, copy: bool) -> None:
    file = FlatFile(flat, copy=copy)
    header, data = split(flat)
    assert set(file.tensors) | {"tokenizer.json"} == {
        name for name in header if not name.startswith(("basis.", "padding.", "__"))
    }
    for name, view in file.tensors.items():
        assert not view.flags.writeable
        assert view.ctypes.data % 64 == 0
        begin, end = header[name]["data_offsets"]
        assert view.tobytes() == data[begin:end]
    first, *others = file.tensors.values()
    assert all(view.base is not None and view.base is first.base for view in others)


def test_a_copy_does_not_change_with_the_file(flat: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.q4"
    path.write_bytes(flat.read_bytes())
    file = FlatFile(path, copy=True)
    before = {name: view.tobytes() for name, view in file.tensors.items()}
    path.write_bytes(b"\0" * path.stat().st_size)
    assert {name: view.tobytes() for name, view in file.tensors.items()} == before


def test_a_copy_of_several_chunks_is_whole(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_CHUNK", 1000)
    copied, mapped = FlatFile(flat, copy=True), FlatFile(flat)
    for name, view in mapped.tensors.items():
        np.testing.assert_array_equal(copied.tensors[name], view)


def test_no_memory_for_a_copy(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match=r"no memory for a copy of .* load it with copy=False"):
        FlatFile(flat, copy=True)


def test_the_views_outlive_the_file(flat: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(flat.read_bytes())
    file = FlatFile(path)
    views, expected = file.tensors, {n: v.tobytes() for n, v in file.tensors.items()}
    del file
    path.unlink()
    assert {name: view.tobytes() for name, view in views.items()} == expected


def test_no_descriptor_stays_open(flat: Path, tmp_path: Path) -> None:
    def count() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    (tmp_path / "bad").write_bytes(bytes(100))
    before = count()
    for _ in range(5):
        refuse(tmp_path / "bad")
    assert count() == before


def test_loading_needs_neither_the_writer_nor_posix_locks(flat: Path) -> None:
    """Where a system has no fcntl, a file that was converted elsewhere still runs."""
    script = """
import sys
sys.modules["fcntl"] = None  # importing it raises ImportError
import pythia_rt
model = pythia_rt.Model.load(sys.argv[1])
model.generate([1, 2], max_new_tokens=2)
assert len(model.score([[1, 2, 3]])[0]) == 2
print(*sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", script, str(flat)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=flat.parent)
    loaded = {name.removeprefix("pythia_rt.convert.") for name in done.stdout.split()}
    assert "flatfile.reader" in loaded
    assert not loaded & {"conversion", "source", "quantise", "architectures"}
    assert not loaded & {"flatfile.writer", "files.atomic", "files.partial", "files.destination"}


def test_verify_notices_a_changed_bit(flat: Path, tmp_path: Path) -> None:
    FlatFile(flat).verify()
    header, data = split(flat)
    for place in (0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(FlatFileError, match="has changed since it was written"):
            FlatFile(join(tmp_path / "changed", header, bytes(changed))).verify()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        FlatFile(tmp_path / "nothing")


def test_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refuse(tmp_path)


def test_truncation_is_noticed_everywhere(flat: Path, tmp_path: Path) -> None:
    raw = flat.read_bytes()
    cuts = {0, 1, 7, 8, 9, 63, 64, len(raw) - 1, len(raw) - 64}
    for cut in sorted(cuts | set(range(100, len(raw), len(raw) // 50))):
        (tmp_path / "cut").write_bytes(raw[:cut])
        refuse(tmp_path / "cut")
    (tmp_path / "cut").write_bytes(raw + b"\0")
    assert "after its last tensor" in refuse(tmp_path / "cut")


def test_other_safetensors_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, path)
    assert "no flat file: convert its folder first" in refuse(path)


@pytest.mark.parametrize("version", ["5", "10", "999999999"])
def test_a_newer_version_is_refused(flat: Path, tmp_path: Path, version: str) -> None:
    header, data = split(flat)
    header["__metadata__"] = {"pythia_rt.version": version}  # whatever else it may mean by then
    sentence = refuse(join(tmp_path / "new", header, data))
    assert (
        f"was written by a newer pythia_rt (file format {version}, this one reads {VERSION})"
        in sentence
    )
    assert "upgrade with pip install -U pythia_rt" in sentence


@pytest.mark.parametrize("version", ["0", "1", "2", "3"])
def test_an_older_version_is_refused(flat: Path, tmp_path: Path, version: str) -> None:
    header, data = split(flat)
    header["__metadata__"] = {"pythia_rt.version": version}
    sentence = refuse(join(tmp_path / "old", header, data))
    assert (
        f"was written by an older pythia_rt (file format {version}, this one reads {VERSION})"
        in sentence
    )
    assert "convert its source again" in sentence


@pytest.mark.parametrize("version", ["", "-1", "1.0", "one", "²", "9" * 5000])
def test_a_senseless_version_is_refused(flat: Path, tmp_path: Path, version: str) -> None:
    header, data = split(flat)
    header["__metadata__"]["pythia_rt.version"] = version
    refuse(join(tmp_path / "odd", header, data))


def spec_change(**changes: Any) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        metadata = header["__metadata__"]
        spec = json.loads(metadata["pythia_rt.spec"]) | changes
        spec = {key: value for key, value in spec.items() if value != "remove"}
        metadata["pythia_rt.spec"] = json.dumps(spec)

    return change


def metadata_change(**changes: str | None) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        for key, value in changes.items():
            if value is None:
                del header["__metadata__"][f"pythia_rt.{key}"]
            else:
                header["__metadata__"][f"pythia_rt.{key}"] = value

    return change


def formats_change(**changes: str | None) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        formats = json.loads(header["__metadata__"]["pythia_rt.formats"]) | changes
        formats = {name: form for name, form in formats.items() if form is not None}
        header["__metadata__"]["pythia_rt.formats"] = json.dumps(formats)

    return change


def rename(old: str, new: str) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header[new] = header.pop(old)

    return change


def reshape(name: str, shape: list[int], dtype: str) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header[name] |= {"shape": shape, "dtype": dtype}

    return change


CONTRADICTIONS: list[tuple[Callable[[Header], None], str]] = [
    (spec_change(n_layers=3), "contradicts itself"),
    (spec_change(n_layers=1), "contradicts itself"),
    (spec_change(n_layers=1 << 23), "too few tensors"),
    (spec_change(hidden_size=64), "instead of"),
    (spec_change(mlp_size=1 << 20), "instead of"),
    (spec_change(n_tokens=101), "tokenizer has 101 ids"),
    (spec_change(vocab_size=200), "instead of"),
    (spec_change(tied_head=True), "formats"),
    (spec_change(qkv_bias=False), "does not belong there"),
    (spec_change(n_kv_heads=1), "instead of"),
    (spec_change(n_kv_heads=2), "no multiple"),
    (spec_change(rotary_dim=7), "rotary_dim"),
    (spec_change(rotary_dim=26), "rotary_dim"),
    (spec_change(n_heads=0), "n_heads"),
    (spec_change(n_heads=1 << 40), "n_heads"),
    (spec_change(n_heads=3.0), "n_heads"),
    (spec_change(n_heads=True), "n_heads"),
    (spec_change(n_heads="3"), "n_heads"),
    (spec_change(norm_eps=0), "norm_eps"),
    (spec_change(norm_eps=float("nan")), "norm_eps"),
    (spec_change(rotary_dim=8), "instead of"),
    (spec_change(rotary_dim=0), "does not belong there"),
    (spec_change(rotary_dim=0, rope_factor=2.0), "nothing rotates"),
    (spec_change(rope_factor=float("inf")), "rope_factor"),
    (spec_change(rope_factor=10**400), "rope_factor"),
    (spec_change(learned_positions=True), "'embed_positions' is missing"),
    (spec_change(score_bias=True), "'score_bias' is missing"),
    (spec_change(score_bias=1), "score_bias"),
    (spec_change(activation="elu"), "activation"),
    (spec_change(activation=["gelu"]), "activation"),
    (spec_change(block=None), "block"),
    (spec_change(tied_head=0), "tied_head"),
    (spec_change(bos_id=100), "bos_id"),
    (spec_change(eos_ids=[-1]), "eos_ids"),
    (spec_change(eos_ids=3), "eos_ids"),
    (spec_change(architecture=3), "architecture"),
    (spec_change(n_layers="remove"), "'n_layers'"),
    (spec_change(surprise=1), "'surprise'"),
    (metadata_change(spec="{"), "spec"),
    (metadata_change(spec="[]"), "spec"),
    (metadata_change(spec="\ud800"), "spec"),
    (metadata_change(spec="[" * 100_000), "spec"),
    (metadata_change(formats="{"), "formats"),
    (metadata_change(formats='{"embed": 3}'), "formats"),
    (metadata_change(source_digests="3"), "source_digests"),
    (metadata_change(data_sha256=None), "lacks data_sha256"),
    (metadata_change(source=None), "lacks source"),
    (formats_change(embed="q3"), "weights in 'q3', unknown to this version"),
    (formats_change(embed="f32"), "instead of"),
    (formats_change(embed="q4"), "instead of"),
    (formats_change(embed=None), "formats"),
    (formats_change(surprise="q4"), "formats"),
    (rename("embed.weight", "embed.wait"), "'embed.weight' is missing"),
    (rename("head.scales", "head.scale"), "'head.scales' is missing"),
    (rename("head.units", "head.unit"), "'head.units' is missing"),
    (rename("final_norm.bias", "final_norm.gain"), "'final_norm.bias' is missing"),
    (rename("tokenizer.json", "notes.txt"), "'notes.txt' does not belong there"),
    (rename("tokenizer.json", "padding.x"), "longer than any padding"),
    (reshape("final_norm.bias", [160], "F16"), "is F16 [160] instead of F32 [80]"),
    (reshape("final_norm.bias", [80], "I32"), "is I32 [80] instead of F32 [80]"),
    (reshape("final_norm.bias", [80, 1], "F32"), "is F32 [80, 1] instead of F32 [80]"),
    (rename("basis.keys", "basis.locks"), "'basis.locks' does not belong there"),
]
# Of a file that has its basis uncompressed, as those of older versions.
PLAIN_CONTRADICTIONS = [
    (reshape("basis.keys", [144], "F32"), "is F32 [144] instead of F32 [2, 72]"),
    (reshape("basis.keys", [2, 72], "I32"), "is I32 [2, 72] instead of F32 [2, 72]"),
    (reshape("basis.keys", [2, 144], "F16"), "is F16 [2, 144] instead of F16 [2, 72]"),
    (reshape("basis.keys", [2, 288], "U8"), "is U8 [2, 288] instead of F32 [2, 72]"),
]


@pytest.mark.parametrize("number", range(len(CONTRADICTIONS)))
def test_contradictions_are_refused(flat: Path, tmp_path: Path, number: int) -> None:
    change, says = CONTRADICTIONS[number]
    header, data = split(flat)
    change(header)
    assert says in refuse(join(tmp_path / "bad", header, data))


def test_contradictions_of_a_basis_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pythia_rt.convert.quantise.basis.store",
        lambda values: (Stored("F32", values.shape), values.tobytes()),
    )
    path = convert(write_checkpoint(tmp_path / "source"), tmp_path / "model.q4")
    for change, says in PLAIN_CONTRADICTIONS:
        header, data = split(path)
        change(header)
        assert says in refuse(join(tmp_path / "bad", header, data))


def test_tensors_must_be_aligned(flat: Path, tmp_path: Path) -> None:
    header, data = split(flat)
    assert "not aligned" in refuse(join(tmp_path / "odd", header, data, align=False))


def test_a_tensor_too_many_is_refused(flat: Path, tmp_path: Path) -> None:
    header, data = split(flat)
    header["extra"] = {"dtype": "U8", "shape": [64], "data_offsets": [len(data), len(data) + 64]}
    assert "'extra' does not belong there" in refuse(join(tmp_path / "b", header, data + bytes(64)))


@given(st.data())
@settings(max_examples=examples(400), deadline=None)
def test_mutated_headers_never_crash(
    flat: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(flat.read_bytes())
    length = 8 + int.from_bytes(raw[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, length - 1))
        raw[place] = data.draw(st.integers(0, 255) | st.sampled_from(b'0123456789-.[]{}",: '))
    path = tmp_path_factory.getbasetemp() / f"mutated-{os.getpid()}"
    path.write_bytes(raw)
    try:
        FlatFile(path)
    except FlatFileError as error:
        assert str(error).isprintable()


def test_matrices_larger_than_any_are_refused(flat: Path, tmp_path: Path) -> None:
    header, content = split(flat)
    spec = json.loads(header["__metadata__"]["pythia_rt.spec"])
    spec |= {"n_heads": 3728271, "n_kv_heads": 3728271}
    header["__metadata__"]["pythia_rt.spec"] = json.dumps(spec)
    with pytest.raises(FlatFileError, match=r"a matrix of 268435512 x 72 cannot be packed"):
        FlatFile(join(tmp_path / "large", header, content))


@given(st.data())
@settings(max_examples=examples(300), deadline=None)
def test_mutated_specs_never_crash(
    flat: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    header, content = split(flat)
    spec = json.loads(header["__metadata__"]["pythia_rt.spec"])
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    changes = data.draw(
        st.dictionaries(st.sampled_from([*spec]), scalars | st.lists(scalars), max_size=3)
    )
    header["__metadata__"]["pythia_rt.spec"] = json.dumps(spec | changes)
    path = join(tmp_path_factory.getbasetemp() / f"spec-{os.getpid()}", header, content)
    try:
        assert FlatFile(path).spec == spec | changes
    except FlatFileError as error:
        assert str(error).isprintable()
