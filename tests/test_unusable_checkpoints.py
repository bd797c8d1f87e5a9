"""Checkpoints that would give another model, or none, are refused with a sentence that helps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_sources import make_config, make_tensors, make_tokenizer, write_checkpoint

from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError, convert
from pythia_rt.convert.files.text import decode_text

LAYER = "gpt_neox.layers.1."
WEIGHT = f"{LAYER}mlp.dense_4h_to_h.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123456\n".format(
    "0" * 64
)
POINTERS = (
    POINTER,
    POINTER.replace("\n", "\r\n"),
    POINTER.replace("oid", "ext-0-foo sha256:" + "1" * 64 + "\noid"),
)


def refuse(tmp_path: Path, tensors: Any = None, **options: Any) -> str:
    """Return the sentence with which a checkpoint of these tensors is refused."""
    folder = write_checkpoint(tmp_path / "bad", tensors, **options)
    return refuse_folder(folder)


def refuse_folder(folder: Path) -> str:
    target = folder.with_suffix(".flat")
    with pytest.raises(CheckpointError) as error:
        convert(folder, target)
    assert not target.exists()
    assert str(error.value).isprintable()
    return str(error.value)


# Git LFS.


@pytest.mark.parametrize("pointer", POINTERS)
@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("safetensors", "model.safetensors"),
        ("bin", "pytorch_model.bin"),
        ("sharded", "model-00002-of-00003.safetensors"),
        ("sharded", "model.safetensors.index.json"),
        ("sharded bin", "pytorch_model-00001-of-00003.bin"),
        ("sharded bin", "pytorch_model.bin.index.json"),
        ("safetensors", "config.json"),
        ("safetensors", "tokenizer.json"),
        ("safetensors", "tokenizer_config.json"),
    ],
)
def test_a_git_lfs_pointer_says_what_it_is(
    tmp_path: Path, kind: str, file: str, pointer: str
) -> None:
    folder = write_checkpoint(tmp_path / "clone", kind=kind)
    (folder / file).write_text(pointer)
    sentence = refuse_folder(folder)
    assert file in sentence
    assert "Git LFS pointer" in sentence
    assert "git lfs pull" in sentence


def test_a_flat_file_may_be_a_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "flat").write_text(POINTER)
    with pytest.raises(FlatFileError, match=r"flat is a Git LFS pointer.*git lfs pull"):
        FlatFile(tmp_path / "flat")


def test_a_text_may_be_a_git_lfs_pointer(tmp_path: Path) -> None:
    (tmp_path / "text").write_text(POINTER)
    folder = write_checkpoint(tmp_path / "source")
    with pytest.raises(ValueError, match=r"text is a Git LFS pointer.*git lfs pull"):
        convert(folder, tmp_path / "flat", calibrate=tmp_path / "text")
    assert "Git" in decode_text(f"{POINTER * 9}Git".encode(), "a text about pointers")


# Quantised weights.

BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}
# What is put in place of, or beside, one weight: {end of its name: tensor}; config's entry.
QUANTISED: dict[str, tuple[dict[str, torch.Tensor], Any]] = {
    "bitsandbytes, 4 bits": (
        {
            "weight": torch.zeros(72 * 40, 1, dtype=torch.uint8),
            "weight.absmax": torch.ones(90, dtype=torch.uint8),
            "weight.quant_map": torch.ones(16),
            "weight.nested_absmax": torch.ones(1),
            "weight.nested_quant_map": torch.ones(256),
            "weight.quant_state.bitsandbytes__nf4": torch.zeros(80, dtype=torch.uint8),
        },
        BITSANDBYTES,
    ),
    "bitsandbytes, 8 bits": (
        {
            "weight": torch.zeros(72, 80, dtype=torch.int8),
            "SCB": torch.ones(72),
            "weight_format": torch.tensor(0, dtype=torch.uint8),
        },
        {"quant_method": "bitsandbytes", "load_in_8bit": True},
    ),
    "codes alone": ({"weight": torch.zeros(72, 80, dtype=torch.int8)}, BITSANDBYTES),
    "gptq": (
        {
            "qweight": torch.zeros(10, 72, dtype=torch.int32),
            "qzeros": torch.zeros(1, 9, dtype=torch.int32),
            "scales": torch.ones(1, 72).half(),
            "g_idx": torch.zeros(80, dtype=torch.int32),
        },
        {"quant_method": "gptq", "bits": 4},
    ),
    "fp8": (
        {"weight": torch.zeros(72, 80).to(torch.float8_e4m3fn), "weight_scale_inv": torch.ones(1)},
        {"quant_method": "fp8"},
    ),
    "fp8 alone": (
        {"weight": torch.zeros(72, 80).to(torch.float8_e4m3fn)},
        {"quant_method": "fp8"},
    ),
    "compressed-tensors": (
        {
            "weight_packed": torch.zeros(72, 10, dtype=torch.int32),
            "weight_scale": torch.ones(72, 1),
            "weight_shape": torch.tensor([72, 80]),
        },
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    ),
    "16 bits with a scale": (
        {"weight": torch.zeros(72, 80).half(), "weight_scale": torch.ones(72, 1)},
        {"quant_method": "compressed-tensors"},
    ),
}


@pytest.mark.parametrize("described", ["quantization_config", "compression_config", None])
@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_quantised_weights_say_by_what(
    tmp_path: Path, name: str, described: str | None, prefix: str
) -> None:
    parts, quantisation = QUANTISED[name]
    tensors = make_tensors()
    del tensors[WEIGHT]
    module = WEIGHT.removesuffix("weight")
    tensors |= {f"{module}{part}": tensor for part, tensor in parts.items()}
    tensors = {f"{prefix}{given}": tensor for given, tensor in tensors.items()}
    config = make_config(**({} if described is None else {described: quantisation}))
    sentence = refuse(tmp_path, tensors, config=config)
    if described is None and name.endswith("alone"):
        assert "save the checkpoint as F32, F16, BF16 first" in sentence
        return
    assert "quantised already" in sentence
    assert f"'{prefix}{module}" in sentence
    assert "original checkpoint" in sentence
    assert ("by " + repr(quantisation["quant_method"]) in sentence) == (described is not None)


@pytest.mark.parametrize("method", ["\x1b[31m" + "x" * 500, None, 3])
def test_a_quantiser_of_any_name_is_shown_harmlessly(tmp_path: Path, method: Any) -> None:
    config = make_config(quantization_config={"quant_method": method})
    tensors = make_tensors() | {f"{LAYER}attention.dense.SCB": torch.ones(72)}
    sentence = refuse(tmp_path, tensors, config=config)
    assert "quantised already" in sentence
    assert len(sentence) < 500


# Parts of a sharded training.


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("names", ["all", "one", "head", "all, prefixed"])
def test_empty_tensors_say_where_they_come_from(tmp_path: Path, kind: str, names: str) -> None:
    tensors = make_tensors()
    empty = {"one": [WEIGHT], "head": ["embed_out.weight"]}.get(names, list(tensors))
    tensors |= {name: torch.zeros(0, dtype=torch.float16) for name in empty}
    prefix = "module." if "prefixed" in names else ""
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    sentence = refuse(tmp_path, tensors, kind=kind)
    assert any(f"tensor {prefix + name!r} is empty" in sentence for name in empty)
    assert "shape is [0]" in sentence
    assert "zero_to_fp32.py" in sentence


def test_flattened_parameters_say_where_they_come_from(tmp_path: Path) -> None:
    part = "_fsdp_wrapped_module._flat_param"
    tensors = {part: torch.ones(9), f"_fsdp_wrapped_module.gpt_neox.layers.0.{part}": torch.ones(9)}
    sentence = refuse(tmp_path, tensors)
    assert "flattened" in sentence
    assert "full state dict" in sentence


# Names.


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "ema."])
@pytest.mark.parametrize("which", ["half", "one", "also"])
def test_a_prefix_of_some_tensors_is_in_doubt(
    tmp_path: Path, prefix: str, which: str, kind: str
) -> None:
    tensors = make_tensors()
    names = list(tensors)
    some = {"half": names[::2], "one": ["embed_out.weight"], "also": names}[which]
    prefixed = {f"{prefix}{name}": tensors[name].clone() for name in some}
    kept = {n: t for n, t in tensors.items() if which == "also" or n not in some}
    sentence = refuse(tmp_path, kept | prefixed, kind=kind)
    assert re.search(
        rf"tensor '{prefix}\S+' has the prefix '{prefix}' and '\S+' has none", sentence
    )
    assert "one model alone" in sentence


@pytest.mark.parametrize(
    "name",
    [
        "final_layer_norm.weight",
        "gpt_neox._orig_mod.final_layer_norm.weight",
        "gpt_neox.final_layer_norm._orig_mod.weight",
    ],
)
def test_two_tensors_for_one_place_are_named(tmp_path: Path, name: str) -> None:
    tensors = make_tensors() | {name: torch.ones(72).half()}
    sentence = refuse(tmp_path, tensors)
    assert repr(name) in sentence
    assert "'gpt_neox.final_layer_norm.weight'" in sentence
    assert "the same place in the model" in sentence


@pytest.mark.parametrize("prefix", ["", "base_model.model."])
@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.default.weight"])
@pytest.mark.parametrize("base", [True, False])
def test_adapters_are_to_be_merged(tmp_path: Path, prefix: str, part: str, base: bool) -> None:
    tensors = make_tensors() if base else {}
    tensors[f"{LAYER}attention.dense.{part}"] = torch.ones(4, 72).half()
    if base and prefix:  # as peft names a layer that has an adapter
        tensors[WEIGHT.replace("weight", "base_layer.weight")] = tensors.pop(WEIGHT)
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    sentence = refuse(tmp_path, tensors)
    assert "merge" in sentence
    assert "adapters" in sentence


# Indexes.


@pytest.mark.parametrize("kind", ["sharded", "sharded bin"])
@pytest.mark.parametrize("name", [WEIGHT, "gpt_neox.embed_in.weight", "embed_out.weight"])
def test_a_listed_tensor_that_the_model_needs_and_no_shard_holds(
    tmp_path: Path, kind: str, name: str
) -> None:
    tensors = make_tensors()
    del tensors[name]
    folder = write_checkpoint(tmp_path / "bad", tensors, kind=kind)
    index = next(iter(folder.glob("*.index.json")))
    listing = json.loads(index.read_text())
    listing["weight_map"][name] = max(listing["weight_map"].values())
    index.write_text(json.dumps(listing))
    sentence = refuse_folder(folder)
    assert repr(name) in sentence
    assert "missing" in sentence


@pytest.mark.parametrize("kind", ["sharded", "sharded bin"])
def test_a_listed_shard_must_be_there_whatever_it_holds(tmp_path: Path, kind: str) -> None:
    """As for transformers."""
    folder = write_checkpoint(tmp_path / "bad", kind=kind)
    index = next(iter(folder.glob("*.index.json")))
    listing = json.loads(index.read_text())
    shard = "gone" + Path(max(listing["weight_map"].values())).suffix
    listing["weight_map"]["gpt_neox.layers.0.attention.rotary_emb.inv_freq"] = shard
    index.write_text(json.dumps(listing))
    assert f"names '{shard}', which is missing: fetch it too" in refuse_folder(folder)


def test_a_config_without_tokenizer_is_no_excuse(tmp_path: Path) -> None:
    """The sentence about the weights comes before any about the tokenizer."""
    tensors = make_tensors() | {WEIGHT: torch.zeros(0)}
    assert "is empty" in refuse(tmp_path, tensors, tokenizer=make_tokenizer(500))
