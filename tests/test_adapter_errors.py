"""Adapters and task vectors that cannot be merged: one sentence each, and no file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError, convert

MODULE = "base_model.model.gpt_neox.layers.0.mlp.dense_4h_to_h"  # [60, 100]
GOOD = {
    f"{MODULE}.lora_A.weight": np.ones((2, 100), np.float32),
    f"{MODULE}.lora_B.weight": np.ones((60, 2), np.float32),
}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "base"
    families.make_model("GPT-NeoX", 0).save_pretrained(folder)
    return folder


def write(folder: Path, tensors: dict[str, Any] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    save_file(GOOD if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def refuse(
    base: Path, tmp_path: Path, says: str, error: type[Exception] = CheckpointError, **options: Any
) -> None:
    with pytest.raises(error, match=says) as caught:
        convert(base, tmp_path / "flat", format="f32", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "flat").exists()


def without(part: str) -> dict[str, Any]:
    return {name: values for name, values in GOOD.items() if part not in name}


def with_shape(part: str, *shape: int, dtype: Any = np.float32) -> dict[str, Any]:
    return GOOD | {f"{MODULE}.{part}.weight": np.ones(shape, dtype)}


TENSORS: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "has no tensors"),
    "no B": (without("lora_B"), "lacks a tensor of .*dense_4h_to_h', its b"),
    "no A": (without("lora_A"), "its a"),
    "another rank": (with_shape("lora_A", 3, 100), "not those of a product"),
    "a rank that config.json does not say": (
        with_shape("lora_A", 3, 100) | {f"{MODULE}.lora_B.weight": np.ones((60, 3), np.float32)},
        "has the rank 2, and its tensors have 3",
    ),
    "another width": (with_shape("lora_A", 2, 99), r"\[60, 99\], and .* has the shape \[60, 100\]"),
    "turned": (
        {
            f"{MODULE}.lora_A.weight": np.ones((2, 60), np.float32),
            f"{MODULE}.lora_B.weight": np.ones((100, 2), np.float32),
        },
        "has the shape",
    ),
    "a vector": (with_shape("lora_A", 200), "not those of a product"),
    "without entries": (
        {
            f"{MODULE}.lora_A.weight": np.ones((0, 100), np.float32),
            f"{MODULE}.lora_B.weight": np.ones((60, 0), np.float32),
        },
        "not those of a product",
    ),
    "integers": (with_shape("lora_A", 2, 100, dtype=np.int32), "is I32 and not one of F32"),
    "no such module": (
        {name.replace("mlp", "mlq"): values for name, values in GOOD.items()},
        "changes .*mlq.* which the model does not have",
    ),
    "no such layer": (
        {name.replace("layers.0", "layers.9"): values for name, values in GOOD.items()},
        "which the model does not have",
    ),
    "magnitudes without DoRA": (
        GOOD | {f"{MODULE}.lora_magnitude_vector.weight": np.ones(60, np.float32)},
        "has magnitudes, as DoRA has",
    ),
    "another kind's tensor": (
        GOOD | {f"{MODULE}.lora_E.weight": np.ones(60, np.float32)},
        "is none of a LoRA adapter",
    ),
    "a saved tensor of another shape": (
        GOOD | {"base_model.model.embed_out.weight": np.ones((97, 60), np.float32)},
        r"has the shape \[97, 60\] and \[96, 60\] in the model",
    ),
    "a saved tensor that the model does not have": (
        GOOD | {"base_model.model.score.weight": np.ones((2, 60), np.float32)},
        "changes 'score.weight', which the model does not have",
    ),
    "twice": (
        GOOD | {f"{MODULE}.lora_A.default.weight": np.ones((2, 100), np.float32)},
        "have the same place",
    ),
    "not finite": (
        GOOD | {f"{MODULE}.lora_A.weight": np.full((2, 100), np.nan, np.float32)},
        "is not finite",
    ),
    "too large": (
        {name: np.full_like(values, 3e38) for name, values in GOOD.items()}, "is not finite"
    ),
}  # fmt: skip

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "LoHa": ({"peft_type": "LOHA"}, "is of 'LOHA': LoRA, rsLoRA and DoRA are merged here"),
    "AdaLoRA": ({"peft_type": "ADALORA"}, "is of 'ADALORA'"),
    "no kind": ({"peft_type": None}, "is of no kind that is known"),
    "QA-LoRA": ({"use_qalora": True}, "asks for use_qalora, which cannot be merged"),
    "single tokens": ({"trainable_token_indices": [3]}, "asks for trainable_token_indices"),
    "parameters": ({"target_parameters": ["x"]}, "asks for target_parameters"),
    "repeated layers": ({"layer_replication": [[0, 2]]}, "asks for layer_replication"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "which changes the base model itself"),
    "no start": ({"init_lora_weights": [1]}, "init_lora_weights something unknown"),
    "r": ({"r": 0}, "no valid r:"),
    "r true": ({"r": True}, "no valid r:"),
    "r large": ({"r": 1 << 40}, "no valid r:"),
    "alpha": ({"lora_alpha": "8"}, "no valid lora_alpha"),
    "alpha not finite": ({"lora_alpha": float("nan")}, "no valid lora_alpha"),
    "bias": ({"bias": "some"}, "no valid bias"),
    "targets": ({"target_modules": [1]}, "no valid target_modules"),
    "a target without tensors": (
        {"target_modules": ["dense_4h_to_h"]},
        "in target_modules and has no tensors for 'layers.1.mlp.dense_4h_to_h'",
    ),
    "saved modules": ({"modules_to_save": "lm_head"}, "no valid modules_to_save"),
    "a saved module without tensors": (
        {"modules_to_save": ["embed_out"]}, "names 'embed_out' in modules_to_save"
    ),
    "rank pattern": ({"rank_pattern": [1]}, "no valid rank_pattern"),
    "rank in a pattern": ({"rank_pattern": {"x": 1.5}}, "no valid rank_pattern"),
    "a pattern's rank": ({"rank_pattern": {"dense_4h_to_h": 9}}, "has the rank 9"),
    "a pattern that is none": ({"alpha_pattern": {"(": 1}}, "no valid alpha_pattern"),
    "a pattern without end": (
        {"alpha_pattern": {"(a+)+b": 1}}, "may take forever to match"
    ),
    "a pattern of many": ({"alpha_pattern": {".*.*.*.*x": 1}}, "may take forever to match"),
    "a long pattern": ({"alpha_pattern": {"x" * 300: 1}}, "may take forever to match"),
    "DoRA without magnitudes": ({"use_dora": True}, "its magnitude"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit(base: Path, tmp_path: Path, case: str) -> None:
    tensors, says = TENSORS[case]
    with np.errstate(all="raise"):
        refuse(base, tmp_path, says, adapters=[write(tmp_path / "adapter", tensors)])


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_ask_for_something_else(base: Path, tmp_path: Path, case: str) -> None:
    config, says = CONFIGS[case]
    refuse(base, tmp_path, says, adapters=[write(tmp_path / "adapter", **config)])


def test_an_adapter_that_fits_after_all_that(base: Path, tmp_path: Path) -> None:
    """So what is refused above is refused for its reason."""
    convert(base, tmp_path / "flat", adapters=[write(tmp_path / "adapter")])


def test_folders_that_are_no_adapters(base: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    refuse(base, tmp_path, "is no folder", NotADirectoryError, adapters=[nowhere])
    refuse(base, tmp_path, "has no adapter_config.json", adapters=[base])
    adapter = write(tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-5])
    refuse(base, tmp_path, "truncated|bytes", adapters=[adapter])
    weights.write_bytes(b"")
    refuse(base, tmp_path, "is empty", adapters=[adapter])
    weights.unlink()
    refuse(base, tmp_path, "has neither adapter_model.safetensors nor", adapters=[adapter])
    for text in ("{", "[]", ""):
        (adapter / "adapter_config.json").write_text(text)
        refuse(base, tmp_path, "JSON", adapters=[adapter])


def test_a_pickle_that_asks_for_code(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({"weights": Path.cwd}, adapter / "adapter_model.bin")
    refuse(base, tmp_path, "refused and not executed", adapters=[adapter])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", True, None])
def test_weights_that_are_none(base: Path, tmp_path: Path, weight: Any) -> None:
    adapter = write(tmp_path / "adapter")
    refuse(base, tmp_path, "give a finite number", ValueError, adapters=[(adapter, weight)])


def test_what_is_no_list(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter")
    refuse(base, tmp_path, "adapters are a list", ValueError, adapters=str(adapter))
    refuse(base, tmp_path, "adapters are a list", ValueError, adapters=[3])
    refuse(base, tmp_path, "task vectors are a list", ValueError, task_vectors=adapter)


def test_another_base_is_only_a_warning(base: Path, tmp_path: Path) -> None:
    adapter = write(tmp_path / "adapter", base_model_name_or_path="someone/else-7b")
    with pytest.warns(UserWarning, match="was trained with 'someone/else-7b', and is merged into"):
        convert(base, tmp_path / "flat", adapters=[adapter])


def tuned(base: Path, folder: Path, change: Callable[[dict[str, Any]], Any], **config: Any) -> Path:
    folder.mkdir()
    data = json.loads((base / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(data))
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_task_vectors_that_do_not_fit(base: Path, tmp_path: Path) -> None:
    name = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
    fewer = tuned(base, tmp_path / "fewer", lambda tensors: tensors.pop(name))
    refuse(base, tmp_path, "is in the source alone", task_vectors=[fewer])
    refuse(fewer, tmp_path, "is in the model of the task vector alone", task_vectors=[base])
    shape = tuned(
        base, tmp_path / "shape", lambda t: t.update({name: np.ones((3, 60), np.float32)})
    )
    refuse(base, tmp_path, "has the shape", task_vectors=[shape])
    tied = tuned(base, tmp_path / "tied", lambda tensors: None, tie_word_embeddings=True)
    refuse(base, tmp_path, "is its embedding and the other's is not", task_vectors=[tied])
    refuse(base, tmp_path, "is both source and task vector", ValueError, task_vectors=[base])
    refuse(base, tmp_path, "no folder and no hub id", FileNotFoundError, task_vectors=["a b"])
    families.make_model("OPT", 0).save_pretrained(tmp_path / "opt")
    refuse(base, tmp_path, "of OPT, and the source", task_vectors=[tmp_path / "opt"])


def test_an_adapter_for_a_gguf_file(tmp_path: Path) -> None:
    from gguf_files import write_gguf

    families.make_model("LLaMA", 0).save_pretrained(tmp_path / "llama")
    path = tmp_path / "llama.gguf"
    write_gguf(tmp_path / "llama", path)
    adapter = write(tmp_path / "adapter")
    refuse(path, tmp_path, "is a GGUF file, whose tensors lie otherwise", adapters=[adapter])


def test_a_flat_file_with_a_damaged_list(base: Path, tmp_path: Path) -> None:
    flat = convert(base, tmp_path / "flat", adapters=[write(tmp_path / "adapter")])
    content = flat.read_bytes()
    bad = tmp_path / "bad"
    bad.write_bytes(content.replace(b'\\"weight\\":1.0', b'\\"weighs\\":1.0'))
    with pytest.raises(FlatFileError, match="its merged is no list of adapters"):
        FlatFile(bad)


def test_the_command_line(base: Path, tmp_path: Path) -> None:
    adapter, odd = write(tmp_path / "adapter"), write(tmp_path / "odd=2")
    other = tuned(base, tmp_path / "tuned", lambda tensors: None)

    def run(*options: str) -> Any:
        command = ["convert", str(base), str(tmp_path / "flat"), "--quiet", "--force", *options]
        return CliRunner().invoke(main, command)

    given = ["--adapter", f"{adapter}=0.5", "--adapter", str(odd), "--task-vector", f"{other}=-1"]
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert FlatFile(tmp_path / "flat").merged == {
        "adapter 1": ("adapter", 0.5),
        "adapter 2": ("odd=2", 1.0),
        "task vector 1": ("tuned", -1.0),
    }
    for text, says in ((f"{adapter}=x", "no number after its '='"), ("none", "is no folder")):
        result = run("--adapter", text)
        assert result.exit_code != 0
        assert says in result.output
        assert "Traceback" not in result.output
