"""GGUF files as files: what is read of whole ones, and how damaged and foreign ones are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import families
import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from drawn import examples
from gguf_files import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pythia_rt
from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError, convert
from pythia_rt.convert.errors import CheckpointError as Refused
from pythia_rt.convert.exact import open_exactly
from pythia_rt.convert.gguf.blocks import BY_NAME, TYPES
from pythia_rt.convert.gguf.file import GgufFile

pytestmark = pytest.mark.filterwarnings("ignore:.* has no tokenizer:UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    families.make_model("LLaMA", 4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return write_gguf(folder, folder.with_suffix(".gguf")).read_bytes()


def refusal(path: Path, **options: Any) -> str:
    """The sentence with which a file is refused, which leaves nothing behind."""
    left = path.parent / "left"
    left.mkdir()
    with pytest.raises(CheckpointError) as caught:
        convert(path, left / "flat.safetensors", **options)
    assert not list(left.iterdir())
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


# Values.


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.decode])
def test_blocks_are_decoded_to_the_bit(kind: Any) -> None:
    blocks = np.random.default_rng(0).integers(0, 256, (3000, kind.nbytes), np.uint8)
    with np.errstate(all="ignore"):  # some scales are infinite
        ours = kind.decode(blocks)
        theirs = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind.name])
    assert ours.dtype == np.float32
    assert np.array_equal(ours.view(np.uint32).ravel(), theirs.view(np.uint32).ravel())


def random_blocks(kind: Any, count: int) -> Any:
    """Blocks whose scales are small and finite."""
    blocks = np.random.default_rng(1).integers(0, 256, (count, kind.nbytes), np.uint8)
    exponents = {"Q6_K": [209], "Q4_K": [1, 3], "Q5_K": [1, 3], "Q4_1": [1, 3], "Q5_1": [1, 3]}
    for at in exponents.get(kind.name, [1]):
        blocks[:, at] &= 0x27
    return blocks


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.decode])
def test_rows_of_a_tensor_are_read_alone(kind: Any, tmp_path: Path) -> None:
    columns = 2 * kind.values
    blocks = random_blocks(kind, 100).reshape(50, -1)
    writer = gguf.GGUFWriter(str(tmp_path / "one.gguf"), "llama")
    number = gguf.GGMLQuantizationType[kind.name]
    writer.add_tensor("rows", blocks, raw_dtype=number)
    writer.add_tensor("vector", blocks[0], raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    expected = gguf.dequantize(blocks, number)
    with GgufFile(tmp_path / "one.gguf") as file:
        assert file.quantised == [kind.name]
        rows, vector = file.tensors["rows"], file.tensors["vector"]
        assert rows.shape == (50, columns)
        for start, stop in ((0, 50), (7, 8), (49, 50), (3, 3), (20, 41)):
            values = np.zeros((stop - start, columns), np.float32)
            rows.read_rows(
                start, stop, memoryview(values).cast("B") if values.size else memoryview(b"")
            )
            assert np.array_equal(values, expected[start:stop])
        entries = np.zeros(kind.values, np.float32)
        vector.read_rows(5, 5 + kind.values, memoryview(entries).cast("B"))
        assert np.array_equal(entries, expected[0][5 : 5 + kind.values])
        with pytest.raises(ValueError, match="are not in tensor"):
            rows.read_rows(40, 51, memoryview(bytearray(11 * 4 * columns)))


QUANTISABLE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4}


@pytest.mark.parametrize("type", [kind.name for kind in TYPES.values() if kind.decode])
def test_a_quantised_model_is_that_of_its_values(type: str, tmp_path: Path) -> None:
    """As a folder of the values that the gguf package decodes is, in 8 bits too."""
    import torch
    import transformers

    row = families.ROWS["LLaMA"]
    config = transformers.LlamaConfig(
        **{**row.base, **QUANTISABLE, "vocab_size": 96, "bos_token_id": 0, "eos_token_id": None}
    )
    torch.manual_seed(0)
    model: Any = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "tiny")
    source = tmp_path / "tiny.gguf"
    if type.endswith("_K"):  # the package does not write these
        replaced = write_gguf(tmp_path / "tiny", tmp_path / "q.gguf", type="Q8_0")
        _with_blocks(replaced, source, BY_NAME[type])
    else:
        write_gguf(tmp_path / "tiny", source, type=type)
    exact = write_decoded(source, tmp_path / "decoded.gguf")
    made, expected = (
        FlatFile(convert(path, tmp_path / f"{path.stem}.flat", format="q8"))
        for path in (source, exact)
    )
    assert made.quantised_before == type
    assert expected.quantised_before == ""
    for name, data in expected.tensors.items():
        assert np.array_equal(made.tensors[name], data), name


def copy_gguf(source: Path, target: Path, change: Any) -> Path:
    """Write the tensors that `change` makes of each tensor of `source`, and its metadata."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(str(target), "llama")
    for key, found in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, found.contents(), found.types[0])
    for tensor in reader.tensors:
        data, kind = change(tensor)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _with_blocks(source: Path, target: Path, kind: Any) -> None:
    def change(tensor: Any) -> tuple[Any, Any]:
        if len(tensor.shape) == 1:
            return tensor.data, tensor.tensor_type
        rows, blocks = int(tensor.shape[1]), int(tensor.shape[0]) // kind.values
        data = random_blocks(kind, rows * blocks).reshape(rows, -1)
        return data, gguf.GGMLQuantizationType[kind.name]

    copy_gguf(source, target, change)


def write_decoded(source: Path, target: Path) -> Path:
    float32 = gguf.GGMLQuantizationType.F32
    return copy_gguf(
        source, target, lambda t: (gguf.dequantize(t.data, t.tensor_type).copy(), float32)
    )


# Uses.


def test_it_is_loaded_converted_and_shown(folder: Path, tmp_path: Path) -> None:
    source = write_gguf(folder, tmp_path / "tiny.gguf", type="Q8_0")
    model = pythia_rt.Model.from_pretrained(source, cache_dir=tmp_path / "cache", progress=False)
    again = pythia_rt.Model.from_pretrained(source, cache_dir=tmp_path / "cache", progress=False)
    assert model.file.path == again.file.path
    run = CliRunner().invoke(
        main, ["convert", str(source), str(tmp_path / "flat"), "--format", "f32"]
    )
    assert run.exit_code == 0
    assert f"the values of {source} were quantised before, to Q8_0" in run.stderr
    info = CliRunner().invoke(main, ["info", str(tmp_path / "flat")])
    assert "values were quantised before, to Q8_0" in info.stdout
    written = CliRunner().invoke(
        main,
        [
            *["generate", "--token-ids", "--max-new-tokens", "3", "--quiet", "--model"],
            str(source),
            "3 4 5",
        ],
        env={"PYTHIA_RT_CACHE": str(tmp_path / "cache")},
    )
    assert written.exit_code == 0, written.output
    with pytest.raises(FlatFileError, match="is a GGUF file: convert it first"):
        pythia_rt.Model.load(source)
    with pytest.raises(ValueError, match="is a file, which has no revisions"):
        convert(source, tmp_path / "other", revision="main")
    assert open_exactly(source).formats["embed"] == "f32"


def test_a_file_of_halves_is_its_own_reference(folder: Path, tmp_path: Path) -> None:
    source = write_gguf(folder, tmp_path / "tiny.gguf", type="F16")
    assert set(open_exactly(source).formats.values()) == {"f16"}


def split(source: bytes, folder: Path, count: int = 2) -> list[Path]:
    """Write the file in parts, as llama.cpp splits it."""
    (folder / "whole.gguf").write_bytes(source)
    reader = gguf.GGUFReader(folder / "whole.gguf")
    paths = [folder / f"tiny-{i + 1:05}-of-{count:05}.gguf" for i in range(count)]
    for i, path in enumerate(paths):
        writer = gguf.GGUFWriter(str(path), "llama")
        for key, found in reader.fields.items():
            if i == 0 and not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, found.contents(), found.types[0])
        writer.add_uint16("split.no", i)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[i::count]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return paths


def test_all_parts_of_a_split_file_are_read(whole: bytes, tmp_path: Path) -> None:
    first, second = split(whole, tmp_path)
    made = FlatFile(convert(first, tmp_path / "made", format="f32"))
    expected = FlatFile(convert(tmp_path / "whole.gguf", tmp_path / "expected", format="f32"))
    assert made.tensors.keys() == expected.tensors.keys()
    for name, data in expected.tensors.items():
        assert np.array_equal(made.tensors[name], data), name
    assert set(made.source_digests) == {first.name, second.name}
    assert "is part 2 of 2: give the first part" in refusal(second)


def test_parts_that_are_missing_or_renamed_are_named(whole: bytes, tmp_path: Path) -> None:
    first, second = split(whole, tmp_path)
    second.unlink()
    assert f"{second.name!r} is missing" in refusal(first)
    (tmp_path / "left").rmdir()
    assert "says that it is part 1 of 2" in refusal(first.rename(tmp_path / "model.gguf"))
    (tmp_path / "left").rmdir()
    first, second = split(whole, tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(CheckpointError, match="says that it is part 1 of 2, and its name says 2"):
        convert(first, tmp_path / "flat")


# Damage.


def number(value: int, code: str = "<I") -> bytes:
    return struct.pack(code, value)


def text(content: bytes) -> bytes:
    return number(len(content), "<Q") + content


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + number(kind) + value


def tensor(name: bytes, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = b"".join(number(size, "<Q") for size in dims)
    return text(name) + number(len(dims)) + sizes + number(kind) + number(offset, "<Q")


def file_of(pairs: list[bytes], tensors: list[bytes]) -> bytes:
    counts = number(len(tensors), "<Q") + number(len(pairs), "<Q")
    header = b"GGUF" + number(3) + counts + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(4096)


HUGE = (1 << 64) - 1
BAD: dict[str, tuple[bytes, str]] = {
    "header": (b"GGUF" + number(3), "is truncated"),
    "version 1": (b"GGUF" + number(1) + bytes(64), "version 1 of GGUF, known ones are 2 and 3"),
    "newer": (b"GGUF" + number(4) + bytes(64), "upgrade pythia_rt"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "is big-endian"),
    "tensors": (b"GGUF" + number(3) + number(HUGE, "<Q") + bytes(64), "more than any real one"),
    "pairs": (b"GGUF" + number(3) + bytes(8) + number(1 << 40, "<Q") + bytes(9), "any real one"),
    "long text": (file_of([number(1 << 60, "<Q")], []), "it ends within its header"),
    "key": (file_of([pair(b"\xff", 4, bytes(4))], []), "not UTF-8 as a key"),
    "text": (file_of([pair(b"a", 8, text(b"\xc3"))], []), "not UTF-8 as 'a'"),
    "twice": (file_of([pair(b"a", 4, bytes(4))] * 2, []), "'a' twice in its metadata"),
    "bool": (file_of([pair(b"a", 7, b"\2")], []), "neither true nor false"),
    "kind": (file_of([pair(b"a", 13, bytes(8))], []), "a type 13, which is unknown"),
    "array in array": (file_of([pair(b"a", 9, number(9) + bytes(8))], []), "array of type 9"),
    "long array": (
        file_of([pair(b"a", 9, number(12) + number(1 << 60, "<Q"))], []),
        "counts 1152921504606846976 entries for 'a'",
    ),
    "array": (
        file_of([pair(b"a", 9, number(12) + number(1 << 20, "<Q"))], []),
        "within its header",
    ),
    "many texts": (file_of([pair(b"a", 9, number(8) + number(1 << 22, "<Q"))], []), "any real one"),
    "alignment": (file_of([pair(b"general.alignment", 4, number(24))], []), "general.alignment"),
    "no dimension": (file_of([], [tensor(b"a", [])]), "gives tensor 'a' 0 dimensions"),
    "dimensions": (file_of([], [tensor(b"a", [1] * 5)]), "gives tensor 'a' 5 dimensions"),
    "empty": (file_of([], [tensor(b"a", [4, 0])]), "the shape [0, 4]"),
    "overflow": (file_of([], [tensor(b"a", [1 << 40, 1 << 40])]), "gives tensor 'a' of F32"),
    "block": (file_of([], [tensor(b"a", [48], 8)]), "gives tensor 'a' of Q8_0 the shape [48]"),
    "IQ": (file_of([], [tensor(b"a", [256], 16)]), "tensor 'a' as IQ2_XXS, which is not read"),
    "type": (file_of([], [tensor(b"a", [256], 99)]), "tensor 'a' as type 99, which is not read"),
    "unaligned": (file_of([], [tensor(b"a", [4], 0, 8)]), "does not lie on its alignment"),
    "overlap": (file_of([], [tensor(b"a", [64]), tensor(b"b", [64], 0, 128)]), "overlaps another"),
    "beyond": (file_of([], [tensor(b"a", [64], 0, 4096)]), "would end beyond the file"),
    "far": (file_of([], [tensor(b"a", [64], 0, HUGE - 31)]), "would end beyond the file"),
    "same name": (file_of([], [tensor(b"a", [8]), tensor(b"a", [8], 0, 32)]), "tensor 'a' twice"),
    "nothing": (file_of([], []), "its metadata lack general.architecture"),
    "adapter": (file_of([pair(b"general.type", 8, text(b"adapter"))], []), "is an adapter"),
    "architecture": (
        file_of([pair(b"general.architecture", 8, text(b"gemma4"))], []),
        "is 'gemma4', known ones are",
    ),
    "architecture's kind": (
        file_of([pair(b"general.architecture", 4, number(1))], []),
        "its general.architecture is no str",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_unsound_are_refused(name: str, tmp_path: Path) -> None:
    content, expected = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert expected in refusal(path)


# key -> (kind and value, or nothing, part of the sentence)
METADATA: dict[str, tuple[Any, str]] = {
    "llama.block_count": (None, "its metadata lack block_count"),
    "llama.embedding_length": ("12", "its embedding_length is no int"),
    "llama.attention.head_count": (7, "leaves a rest"),
    "llama.attention.head_count_kv": ([2, 2], "head_count_kv' differs from layer to layer"),
    "llama.attention.layer_norm_rms_epsilon": (True, "layer_norm_rms_epsilon is no float"),
    "llama.expert_count": (8, "'llama.expert_count', which this runtime does not know"),
    "llama.attention.sliding_window": (16, "'llama.attention.sliding_window'"),
    "llama.attention.causal": (False, "'llama.attention.causal'"),
    "llama.logit_scale": (2.0, "'llama.logit_scale'"),
    "llama.rope.dimension_count": (4, "rotates 4 of 10 dimensions of a head"),
    "llama.rope.scaling.type": ("longrope", "asks for rope_type 'longrope'"),
    "llama.rope.scaling.yarn_attn_factor": (2.0, "yarn_attn_factor"),
    "llama.attention.value_length": (12, "others for keys than for values"),
    "llama.rope.freq_base": (-1.0, "no valid rope_parameters.rope_theta"),
    "llama.feed_forward_length": (64, "asks for [64, 60]"),
}


@pytest.mark.parametrize("key", METADATA)
def test_metadata_that_do_not_fit_are_named(key: str, folder: Path, tmp_path: Path) -> None:
    value, expected = METADATA[key]

    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("none")
        pairs = writer.kv_data[0]
        pairs.pop(key, None)
        if value is not None:
            kinds = {bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32}
            kinds |= {float: gguf.GGUFValueType.FLOAT32, str: gguf.GGUFValueType.STRING}
            if isinstance(value, list):
                writer.add_array(key, value)
            else:
                writer.add_key_value(key, value, kinds[type(value)])

    path = write_gguf(folder, tmp_path / "odd.gguf", more=change)
    assert expected in refusal(path)


def test_tensors_that_are_missing_or_too_many_are_named(folder: Path, tmp_path: Path) -> None:
    source = write_gguf(folder, tmp_path / "tiny.gguf")
    content = source.read_bytes()
    lacking = tmp_path / "lacking.gguf"
    lacking.write_bytes(content.replace(b"blk.1.ffn_gate.weight", b"blk.1.ffn_qate.weight"))
    assert "tensor 'blk.1.ffn_gate.weight' is missing" in refusal(lacking)
    (tmp_path / "left").rmdir()
    more = tmp_path / "more.gguf"
    float32 = gguf.GGMLQuantizationType.F32
    copy_gguf(source, more, lambda t: (t.data, t.tensor_type))
    reader, writer = gguf.GGUFReader(more), gguf.GGUFWriter(str(source), "llama")
    for key, found in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, found.contents(), found.types[0])
    for item in reader.tensors:
        writer.add_tensor(item.name, item.data, raw_dtype=item.tensor_type)
    writer.add_tensor("blk.0.attn_q_norm.weight", np.ones(10, np.float32), raw_dtype=float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert "'blk.0.attn_q_norm.weight' (1 in all) does not belong" in refusal(source)


def test_truncated_files_are_refused(whole: bytes, tmp_path: Path) -> None:
    for i, size in enumerate([*range(5, 200, 13), 1000, len(whole) // 2, len(whole) - 40]):
        path = tmp_path / str(i) / "cut.gguf"
        path.parent.mkdir()
        path.write_bytes(whole[:size])
        refusal(path)


@given(data=st.data())
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_mutated_files_never_crash(data: st.DataObject, whole: bytes, tmp_path: Path) -> None:
    content = bytearray(whole)
    end = whole.index(b"token_embd") + 200  # most of what can go wrong is in the header
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end))
        size = data.draw(st.sampled_from([1, 4, 8]))
        content[at : at + size] = data.draw(st.binary(min_size=size, max_size=size))
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    target = tmp_path / "flat.safetensors"
    try:
        convert(path, target, format="q8", force=True)
        FlatFile(target)
        target.unlink()
    except (Refused, ValueError) as refused:
        assert "\n" not in str(refused)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mutated.gguf"]
