"""Sources and arguments that cannot be converted: each says why, and leaves no file behind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_sources import (
    VOCAB,
    make_config,
    make_tensors,
    make_tokenizer,
    write_checkpoint,
)

from pythia_rt.convert import CheckpointError, convert
from pythia_rt.convert.quantise import weights

LAYER = "gpt_neox.layers.1."
QKV = f"{LAYER}attention.query_key_value"


def refuse(tmp_path: Path, tensors: Any = None, **options: Any) -> str:
    """Return the sentence with which a checkpoint of these tensors is refused."""
    given = {key: options.pop(key) for key in ("config", "tokenizer") if key in options}
    folder = write_checkpoint(tmp_path / "bad", tensors, **given)
    (tmp_path / "left").mkdir()
    with pytest.raises(CheckpointError) as error:
        convert(folder, tmp_path / "left" / "flat", **options)
    assert not list((tmp_path / "left").iterdir())
    return str(error.value)


# What the checkpoint holds.


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name",
    [
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        f"{LAYER}mlp.dense_4h_to_h.weight",
        f"{QKV}.weight",
        f"{QKV}.bias",
        "gpt_neox.final_layer_norm.weight",
    ],
)
def test_values_that_are_not_finite_name_the_tensor_and_its_row(
    tmp_path: Path, name: str, dtype: torch.dtype, value: str
) -> None:
    tensors = make_tensors(dtype)
    tensors[name][37] = float(value)
    sentence = refuse(tmp_path, tensors)
    assert repr(name) in sentence
    assert "not finite" in sentence
    assert "row 37:" in sentence


def test_rows_are_named_in_later_chunks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1)
    tensors = make_tensors()
    tensors[f"{QKV}.weight"][200, 3] = float("nan")
    assert "row 200:" in refuse(tmp_path, tensors)


def test_values_beyond_f16_name_the_tensor(tmp_path: Path) -> None:
    tensors = make_tensors(torch.float32)
    tensors["embed_out.weight"][3, 4] = 1e6
    sentence = refuse(tmp_path, tensors, format="f16")
    assert "'embed_out.weight' does not fit the format f16" in sentence


BUFFERS = ("attention.bias", "masked_bias", "inv_freq")


@pytest.mark.parametrize("name", [name for name in make_tensors() if not name.endswith(BUFFERS)])
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    tensors = make_tensors()
    del tensors[name]
    sentence = refuse(tmp_path, tensors)
    assert repr(name) in sentence
    assert "missing" in sentence


@pytest.mark.parametrize(
    "name",
    [
        "gpt_neox.layers.2.attention.dense.weight",
        "gpt_neox.layers.0.attention.dense.lora_A.weight",
        "score.weight",
        "embed_out.bias",
        "gpt_neox.layers.0.attention.bias.extra",
    ],
)
def test_a_surplus_tensor_is_named(tmp_path: Path, name: str) -> None:
    sentence = refuse(tmp_path, make_tensors() | {name: torch.ones(3)})
    assert f"{name!r} (1 in all) does not belong" in sentence


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (f"{QKV}.weight", (215, 72)),
        (f"{QKV}.weight", (72, 216)),
        (f"{QKV}.weight", (216 * 72,)),
        (f"{QKV}.bias", (216, 1)),
        (f"{LAYER}mlp.dense_h_to_4h.weight", (72, 80)),
        ("embed_out.weight", (VOCAB + 1, 72)),
        ("gpt_neox.embed_in.weight", (VOCAB, 71)),
        ("gpt_neox.final_layer_norm.weight", ()),
    ],
)
def test_a_wrong_shape_is_named(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    sentence = refuse(tmp_path, make_tensors() | {name: torch.ones(shape)})
    assert repr(name) in sentence
    assert str(list(shape)) in sentence


def test_an_embedding_that_is_no_matrix(tmp_path: Path) -> None:
    tensors = make_tensors() | {"gpt_neox.embed_in.weight": torch.ones(100)}
    assert "not a matrix" in refuse(tmp_path, tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = make_tensors()
    tensors["embed_out.weight"] = tensors["embed_out.weight"].to(dtype)
    assert "save the checkpoint as F32, F16, BF16 first" in refuse(tmp_path, tensors)


def test_an_unknown_dtype_in_a_pickle_is_refused(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors() | {"embed_out.weight": torch.ones(VOCAB, 72).to(torch.float8_e5m2)}
    with pytest.raises(CheckpointError, match="_rebuild_tensor_v3"):
        convert(write_checkpoint(tmp_path / "s", tensors, kind="bin"), out / "flat")


def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    assert "layers.2" in refuse(tmp_path, config=make_config(num_hidden_layers=3))


def test_a_config_cannot_ask_for_endless_layers(tmp_path: Path) -> None:
    assert "asks for 16000000 layers" in refuse(
        tmp_path, config=make_config(num_hidden_layers=16_000_000)
    )


def test_a_head_that_contradicts_the_config(tmp_path: Path) -> None:
    sentence = refuse(tmp_path, config=make_config(tie_word_embeddings=True))
    assert "'embed_out.weight' differs from 'gpt_neox.embed_in.weight'" in sentence


def test_two_different_heads(tmp_path: Path) -> None:
    tensors = make_tensors() | {"lm_head.weight": torch.ones(VOCAB, 72).half()}
    assert "'lm_head.weight' differs from 'embed_out.weight'" in refuse(tmp_path, tensors)


@pytest.mark.parametrize(
    ("tokenizer", "says"),
    [
        (make_tokenizer(VOCAB + 2), "101 ids and the embedding 100 rows"),
        ({"model": {}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": -1}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": "1"}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1 << 70}}}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1}}, "added_tokens": [3]}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1}}, "added_tokens": 3}, "damaged vocabulary"),
        ({"model": {"vocab": {"a": 1}}, "added_tokens": {"id": 1}}, "damaged vocabulary"),
        ({"model": []}, "damaged vocabulary"),
    ],
)
def test_bad_tokenizers_are_refused(tmp_path: Path, tokenizer: Any, says: str) -> None:
    assert says in refuse(tmp_path, tokenizer=tokenizer)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_damaged_json_is_named(source: Path, out: Path, file: str, content: bytes) -> None:
    (source / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=file):
        convert(source, out / "flat")
    assert not list(out.iterdir())


def test_a_missing_config_is_named(source: Path, out: Path) -> None:
    (source / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        convert(source, out / "flat")


def test_a_flat_file_is_no_source(source: Path, out: Path) -> None:
    path = convert(source, out / "flat")
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        convert(path, out / "again")
    shutil.copy(path, source / "model.safetensors")
    with pytest.raises(CheckpointError, match="is a flat file already"):
        convert(source, out / "again")


# Arguments.


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "q3"}, "format 'q3' is unknown: choose one of .*q4"),
        ({"embed": ""}, "embed '' is unknown"),
        ({"head": "int8"}, "head 'int8' is unknown"),
        ({"activation": "elu"}, "activation 'elu' is unknown: choose one of gelu, gelu_tanh, silu"),
        ({"threads": 0}, "threads must be a whole number of at least 1"),
        ({"threads": -3}, "threads must be a whole number of at least 1"),
        ({"threads": 1 << 20}, "the processors that this process may use, not 1048576"),
        ({"revision": "step3000"}, "is a folder, which has no revisions"),
    ],
)
def test_bad_arguments(source: Path, out: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        convert(source, out / "flat", **options)
    assert not list(out.iterdir())


def test_a_head_format_for_a_tied_model(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors()
    del tensors["embed_out.weight"]
    config = make_config(tie_word_embeddings=True)
    folder = write_checkpoint(tmp_path / "s", tensors, config=config)
    with pytest.raises(ValueError, match="head has no effect"):
        convert(folder, out / "flat", head="q8")
