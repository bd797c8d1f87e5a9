"""Conversion: the same model in every form gives the same flat file, and every weight is there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from convert_sources import (
    DTYPES,
    HEAD_DIM,
    HEADS,
    IDS,
    KINDS,
    LAYERS,
    VOCAB,
    WIDTH,
    make_config,
    make_tensors,
    write_checkpoint,
)
from numpy.typing import NDArray
from oracle import formats as oracle
from safetensors import safe_open

import pythia_rt
from pythia_rt import _core
from pythia_rt.convert import Checkpoint, FlatFile, convert, threads
from pythia_rt.convert.architectures import gpt_neox
from pythia_rt.convert.flatfile import layout
from pythia_rt.convert.quantise import weights
from pythia_rt.convert.quantise.balanced import balance_checkpoint
from pythia_rt.convert.quantise.balancing import Balance

FORMATS = _core.format_names()
SOURCES = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "qkv": "attention.query_key_value",
    "attn_out": "attention.dense",
    "mlp_up": "mlp.dense_h_to_4h",
    "mlp_down": "mlp.dense_4h_to_h",
}


def straighten(tensor: torch.Tensor) -> torch.Tensor:
    """Return [heads, 3, head_dim] rows as all q, all k, all v, the way transformers splits them."""
    heads = tensor.view(HEADS, 3 * HEAD_DIM, -1)
    return torch.cat([part.reshape(WIDTH, -1) for part in heads.chunk(3, dim=1)])


def expected_weights(tensors: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    """Return {neutral name: float32} of every matrix and vector."""
    expected = {
        "embed.weight": tensors["gpt_neox.embed_in.weight"],
        "head.weight": tensors["embed_out.weight"],
        "final_norm.weight": tensors["gpt_neox.final_layer_norm.weight"],
        "final_norm.bias": tensors["gpt_neox.final_layer_norm.bias"],
    }
    for i in range(LAYERS):
        for ours, theirs in SOURCES.items():
            for part in ("weight", "bias"):
                tensor = tensors[f"gpt_neox.layers.{i}.{theirs}.{part}"]
                if ours == "qkv":
                    tensor = straighten(tensor).reshape(tensor.shape)
                expected[f"layers.{i}.{ours}.{part}"] = tensor
    return {name: tensor.float().numpy() for name, tensor in expected.items()}


def unpacked(file: FlatFile, name: str, rows: int, columns: int) -> NDArray[np.float32]:
    """Return a matrix of a flat file as float32 [rows, columns]."""
    form = file.formats[name]
    parts = [part for part, _, _ in oracle.packed_layout(form, rows, columns)]
    return oracle.unpack(form, [file.tensors[f"{name}.{p}"] for p in parts], rows, columns)


def balance_of(folder: Path, formats: dict[str, str]) -> Balance:
    """Return the balance of the checkpoint in `folder` in these formats."""
    with Checkpoint(folder) as checkpoint:
        config = json.loads((folder / "config.json").read_text())
        plan = gpt_neox.FAMILY.make_plan(config, checkpoint.tensors, n_tokens=IDS, activation=None)
        return balance_checkpoint(checkpoint, plan, formats)


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of every tensor of a flat file."""
    return {name: view.tobytes() for name, view in FlatFile(path).tensors.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_f32_holds_every_weight_exactly(tmp_path: Path, dtype: str) -> None:
    tensors = make_tensors(DTYPES[dtype])
    folder = write_checkpoint(tmp_path / "source", tensors)
    file = FlatFile(convert(folder, tmp_path / "flat", format="f32"))
    expected = expected_weights(tensors)
    for matrix in layout.linears(file.spec):
        actual = unpacked(file, matrix.name, matrix.rows, matrix.columns)
        np.testing.assert_array_equal(actual, expected.pop(f"{matrix.name}.weight"))
    for name, values in expected.items():
        actual = file.tensors[name].view(np.float32)
        assert actual.size % 16 == 0
        np.testing.assert_array_equal(actual[: values.size], values)
        assert not actual[values.size :].any()


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_close_to_its_source(tmp_path: Path, form: str) -> None:
    """Close to the source's weights as they are balanced, where they are."""
    tensors = make_tensors()
    folder = write_checkpoint(tmp_path / "s", tensors)
    file = FlatFile(convert(folder, tmp_path / "f", format=form))
    balance = balance_of(folder, file.formats)
    assert bool(balance.vectors) == layout.is_quantised(form)
    expected = expected_weights(tensors)
    # Below 8 bits the search may cut off a group's largest value, by a tenth or so.
    by_bits = {8: 0.006, 6: 0.08, 5: 0.15, 4: 0.2}
    limit = {"f32": 0, "f16": 0, "bf16": 2**-8}
    limit |= {f: by_bits[int(_core.bits_per_weight(f))] for f in FORMATS if layout.is_quantised(f)}
    for matrix in layout.linears(file.spec):
        values = expected[f"{matrix.name}.weight"].copy()
        balance.scale(matrix.name, 0, values)
        error = np.abs(unpacked(file, matrix.name, matrix.rows, matrix.columns) - values).max()
        assert error <= limit[file.formats[matrix.name]] * np.abs(values).max()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_source_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    one = convert(write_checkpoint(tmp_path / "a"), tmp_path / "one")
    two = convert(write_checkpoint(tmp_path / "b", kind=kind), tmp_path / "two")
    assert contents(one) == contents(two)
    assert FlatFile(one).metadata["data_sha256"] == FlatFile(two).metadata["data_sha256"]


def test_the_prefix_may_be_missing_and_the_head_renamed(tmp_path: Path) -> None:
    tensors = make_tensors()
    bare = {name.removeprefix("gpt_neox."): tensor for name, tensor in tensors.items()}
    bare["lm_head.weight"] = bare.pop("embed_out.weight")
    one = convert(write_checkpoint(tmp_path / "a", tensors), tmp_path / "one")
    two = convert(write_checkpoint(tmp_path / "b", bare), tmp_path / "two")
    assert contents(one) == contents(two)


@pytest.mark.parametrize("form", ["f16", "q4"])
def test_chunks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    folder = write_checkpoint(tmp_path / "source")
    one = convert(folder, tmp_path / "one", format=form)
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1)
    two = convert(folder, tmp_path / "two", format=form)
    assert one.read_bytes() == two.read_bytes()


def test_a_conversion_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "source")
    one = convert(folder, tmp_path / "one", threads=1)
    monkeypatch.setattr(threads, "usable_processors", lambda: 3)
    two = convert(folder, tmp_path / "two", threads=3)
    assert one.read_bytes() == two.read_bytes()


def test_the_metadata_says_what_it_is(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "my model", kind="sharded")
    (folder / "tokenizer_config.json").write_text('{"a": 1}')
    path = convert(folder, tmp_path / "flat", embed="f16", head="q4", activation="gelu_tanh")
    file = FlatFile(path)
    assert file.spec == {
        "architecture": "gpt_neox",
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "n_kv_heads": HEADS,
        "head_dim": HEAD_DIM,
        "hidden_size": WIDTH,
        "mlp_size": 80,
        "vocab_size": VOCAB,
        "n_tokens": IDS,
        "max_positions": 64,
        "norm": "layer",
        "norm_eps": 1e-5,
        "block": "parallel",
        "embed_norm": False,
        "final_norm": True,
        "mlp": "plain",
        "activation": "gelu_tanh",
        "rotary_dim": 6,
        "rope_factor": 1.0,
        "learned_positions": False,
        "qk_norm": "none",
        "score_scale": float(np.float32(1) / np.sqrt(np.float32(HEAD_DIM))),
        "score_bias": False,
        "windows": [],
        "tied_head": False,
        "qkv_bias": True,
        "attn_out_bias": True,
        "mlp_bias": True,
        "head_bias": False,
        "bos_id": 0,
        "eos_ids": [0],
    }
    assert file.metadata["producer"] == f"pythia_rt {pythia_rt.__version__}"
    assert file.metadata["source"] == "my model"
    assert file.metadata["revision"] == ""
    assert file.metadata["recipe"] == "q4 embed=f16 head=q4"
    assert file.formats["embed"] == "f16"
    assert file.formats["head"] == file.formats["layers.0.mlp_up"] == "q4"
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert file.source_digests == digests
    assert file.tokenizer == (folder / "tokenizer.json").read_bytes()
    assert file.tokenizer_config == b'{"a": 1}'
    file.verify()


def test_the_safetensors_library_reads_a_flat_file(tmp_path: Path) -> None:
    path = convert(write_checkpoint(tmp_path / "source"), tmp_path / "flat")
    file = FlatFile(path)
    with safe_open(path, "np") as library:
        assert json.loads(library.metadata()["pythia_rt.spec"]) == file.spec
        names = [name for name in library.keys() if not name.startswith("padding.")]  # noqa: SIM118
        assert set(names) == set(file.entries)
        for name in file.tensors:
            assert library.get_tensor(name).tobytes() == file.tensors[name].tobytes()
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert (8 + header) % 64 == 0
    assert all(entry.offset % 64 == 0 for entry in file.entries.values())


def test_q4_spends_its_bits_on_attention_and_the_ends(tmp_path: Path) -> None:
    file = FlatFile(convert(write_checkpoint(tmp_path / "source"), tmp_path / "flat"))
    assert (file.formats.pop("embed"), file.formats.pop("head")) == ("q8", "q6")
    for name, form in file.formats.items():
        assert form == ("q5" if name.endswith(("qkv", "attn_out")) else "q4")
    assert file.metadata["recipe"] == "q4"


def test_parts_of_a_recipe_can_be_chosen(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    file = FlatFile(convert(source, tmp_path / "flat", attention="q8", mlp="q6", head="f16"))
    assert file.metadata["recipe"] == "q4 head=f16 attention=q8 mlp=q6"
    assert (file.formats.pop("embed"), file.formats.pop("head")) == ("q8", "f16")
    for name, form in file.formats.items():
        assert form == ("q8" if name.endswith(("qkv", "attn_out")) else "q6")


@pytest.mark.parametrize("head", ["absent", "equal"])
def test_a_tied_head_is_stored_once(tmp_path: Path, head: str) -> None:
    tensors = make_tensors()
    if head == "absent":
        del tensors["embed_out.weight"]
    else:
        tensors["embed_out.weight"] = tensors["gpt_neox.embed_in.weight"].clone()
    config = make_config(tie_word_embeddings=True)
    file = FlatFile(
        convert(write_checkpoint(tmp_path / "s", tensors, config=config), tmp_path / "f")
    )
    assert file.spec["tied_head"]
    assert "head" not in file.formats
    assert "head.weight" not in file.tensors


@pytest.mark.parametrize("recipe", ["f16", "bf16", "q8", "q6", "q5", "q4"])
def test_a_tied_head_has_8_bits_at_least(tmp_path: Path, recipe: str) -> None:
    """Unless others are asked for; the head of its own that a model has is as it was."""
    tensors = make_tensors()
    own = write_checkpoint(tmp_path / "own", tensors)
    del tensors["embed_out.weight"]
    tied = write_checkpoint(
        tmp_path / "tied", tensors, config=make_config(tie_word_embeddings=True)
    )
    formats = FlatFile(convert(tied, tmp_path / "1", format=recipe)).formats
    expected = FlatFile(convert(own, tmp_path / "2", format=recipe)).formats
    assert formats.pop("embed") == ("q8" if recipe in ("q4", "q5", "q6") else recipe)
    ends = ("q8", "q6") if recipe == "q4" else (recipe, recipe)
    assert (expected.pop("embed"), expected.pop("head")) == ends
    assert formats == expected
    small = FlatFile(convert(tied, tmp_path / "3", format=recipe, embed="q5"))
    assert small.formats["embed"] == "q5"
    assert small.metadata["recipe"] == f"{recipe} embed=q5"


def test_attention_may_have_no_bias(tmp_path: Path) -> None:
    tensors = {
        name: tensor
        for name, tensor in make_tensors().items()
        if not name.endswith(("query_key_value.bias", "dense.bias"))
    }
    config = make_config(attention_bias=False)
    file = FlatFile(
        convert(write_checkpoint(tmp_path / "s", tensors, config=config), tmp_path / "f")
    )
    assert "layers.0.qkv.bias" not in file.tensors
    assert "layers.0.mlp_up.bias" in file.tensors


def test_without_a_tokenizer_every_row_is_a_token(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source")
    (folder / "tokenizer.json").unlink()
    file = FlatFile(convert(folder, tmp_path / "flat"))
    assert file.tokenizer is None
    assert file.spec["n_tokens"] == VOCAB


def test_mixed_dtypes_in_one_checkpoint(tmp_path: Path) -> None:
    tensors = make_tensors(torch.float32)
    mixed = {
        name: tensor.to([torch.float32, torch.bfloat16, torch.float16][i % 3])
        for i, (name, tensor) in enumerate(tensors.items())
    }
    file = FlatFile(convert(write_checkpoint(tmp_path / "s", mixed), tmp_path / "f", format="f32"))
    expected = expected_weights(mixed)
    for matrix in layout.linears(file.spec):
        actual = unpacked(file, matrix.name, matrix.rows, matrix.columns)
        np.testing.assert_array_equal(actual, expected[f"{matrix.name}.weight"])


def test_progress_counts_bytes_and_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path / "source")
    convert(folder, tmp_path / "silent")
    assert capsys.readouterr() == ("", "")
    convert(folder, tmp_path / "loud", progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    tensors = 6 * 2 * LAYERS + 5
    assert "100%" in error
    assert f"{tensors}/{tensors} tensors" in error
    assert "B/s" in error


def test_every_half_as_a_float() -> None:
    """With numbers alone, and with Inf and NaN among them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for some in (halves, halves[np.isfinite(halves)], halves[:0]):
        floats = weights.to_float32(some.view(np.uint8), "F16")
        np.testing.assert_array_equal(
            floats.view(np.uint32), some.astype(np.float32).view(np.uint32)
        )
