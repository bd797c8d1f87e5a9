"""Merged adapters and task vectors against peft's merge_and_unload, and against plain sums."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pythia_rt import Model
from pythia_rt.convert import FlatFile, convert
from pythia_rt.evaluation import reporter
from pythia_rt.evaluation.reporter import stored_report
from pythia_rt.info import describe, lines

# What peft says of transformers 5 and of what it is asked for here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
TOKENS = np.arange(3, 60, 4, dtype=np.int32)


def base_model(name: str, number: int, folder: Path) -> tuple[Any, Path]:
    """A model of transformers and its folder, in which its names have their prefix."""
    theirs = families.make_model(name, number)
    theirs.save_pretrained(folder)
    theirs.name_or_path = str(folder)
    return theirs, folder


def adapt(theirs: Any, folder: Path, seed: int = 1, name: str = "default", **options: Any) -> Any:
    """peft's model of `theirs`, whose adapter, all random, is saved in `folder`."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **options)
    if isinstance(theirs, peft.PeftModel):
        theirs.add_adapter(name, config)
        theirs.set_adapter(name)
        adapted = theirs
    else:
        adapted = peft.get_peft_model(theirs, config, adapter_name=name)
    randomise(adapted, seed, name)
    adapted.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    return adapted


@torch.no_grad()
def randomise(adapted: Any, seed: int, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    for path, values in adapted.named_parameters():
        if f".{name}" in path or (path.endswith("bias") and values.requires_grad):
            noise = torch.randn(values.shape, generator=generator)
            if "magnitude" in path:
                values.mul_(1 + 0.2 * noise)
            else:
                values.add_(0.2 * noise)


def assert_merged(flat: Path, merged: Any, folder: Path) -> None:
    """The file has the weights of a merged model, to a rounding of float32, and its logits."""
    merged.save_pretrained(folder)
    expected = FlatFile(convert(folder, folder / "flat", format="f32"))
    found = FlatFile(flat)
    assert found.spec == expected.spec
    for name, values in expected.tensors.items():
        np.testing.assert_allclose(
            found.tensors[name].view(np.float32), values.view(np.float32), rtol=1e-5, atol=2e-6,
            err_msg=name,
        )  # fmt: skip
    assert_logits(flat, merged)


def assert_logits(flat: Path, theirs: Any) -> None:
    logits = Model.load(flat, threads=1).logits(TOKENS)
    expected = families.reference_logits(theirs, TOKENS)
    assert families.largest_error(logits, expected) < 1e-4


# family, number of its variant, options of LoraConfig
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "neox": ("GPT-NeoX", 0, {"target_modules": ["query_key_value", "dense"], "r": 5}),
    "neox, sequential, all linear": ("GPT-NeoX", 1, {"target_modules": "all-linear"}),
    "llama": (
        "LLaMA", 0,
        {"target_modules": ["q_proj", "v_proj", "up_proj"], "lora_alpha": 3, "use_rslora": True},
    ),
    "llama, patterns": (
        "LLaMA", 2,
        {
            "target_modules": r".*\.(q_proj|k_proj|o_proj|gate_proj|down_proj)", "r": 4,
            "rank_pattern": {"q_proj": 3, r"layers\.1\.mlp\.gate_proj": 6},
            "alpha_pattern": {"k_proj": 20, "^model.layers.0.self_attn.o_proj": 1},
        },
    ),
    "gpt2": (
        "GPT-2", 0, {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    ),
    "gpt2, one layer, biases": (
        "GPT-2", 1,
        {"target_modules": ["c_proj"], "layers_to_transform": [1], "bias": "all",
         "fan_in_fan_out": True},
    ),
    "falcon": ("Falcon-7B", 0, {"target_modules": ["query_key_value", "dense_4h_to_h"]}),
    "falcon 40b": ("Falcon-40B", 1, {"target_modules": ["query_key_value"], "r": 16}),
    "opt, biases of those": ("OPT", 0, {"target_modules": ["q_proj", "fc1"], "bias": "lora_only"}),
    "phi, bias of B": ("Phi", 0, {"target_modules": ["q_proj", "fc2"], "lora_bias": True}),
    "saved modules": (
        "GPT-NeoX", 0,
        {"target_modules": ["dense_h_to_4h"], "modules_to_save": ["lm_head", "embed_in"]},
    ),
    "untied embedding": (
        "LLaMA", 0, {"target_modules": ["embed_tokens", "lm_head"], "lora_alpha": 2}
    ),
    "dora": ("LLaMA", 0, {"target_modules": ["k_proj", "down_proj"], "use_dora": True}),
    "dora of columns": (
        "GPT-2", 0,
        {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_is_merged_as_peft_does(case: str, tmp_path: Path) -> None:
    name, number, options = CASES[case]
    theirs, folder = base_model(name, number, tmp_path / "base")
    adapted = adapt(theirs, tmp_path / "adapter", **options)
    flat = convert(folder, tmp_path / "flat", format="f32", adapters=[tmp_path / "adapter"])
    plain = FlatFile(convert(folder, tmp_path / "plain", format="f32"))
    changed = [n for n, v in FlatFile(flat).tensors.items() if (v != plain.tensors[n]).any()]
    assert changed
    assert_merged(flat, adapted.merge_and_unload(), tmp_path / "merged")


@pytest.mark.parametrize("target", [["embed_tokens"], ["q_proj"]])
@pytest.mark.parametrize("saved", [None, ["lm_head"], ["embed_tokens", "lm_head"]])
def test_a_tied_head_that_changes_alone_is_one_of_its_own(
    target: list[str], saved: list[str] | None, tmp_path: Path
) -> None:
    """What the adapter was trained as: unmerged, peft changes the one and not the other."""
    if saved is not None and set(saved) & set(target):
        pytest.skip("peft adapts a module or replaces it")
    theirs, folder = base_model("LLaMA", 1, tmp_path / "base")
    adapted = adapt(theirs, tmp_path / "adapter", target_modules=target, modules_to_save=saved)
    flat = convert(folder, tmp_path / "flat", format="f32", adapters=[tmp_path / "adapter"])
    assert FlatFile(flat).spec["tied_head"] is (saved is None and target == ["q_proj"])
    assert_logits(flat, adapted.eval())


def test_several_adapters_with_weights(tmp_path: Path) -> None:
    theirs, folder = base_model("GPT-NeoX", 0, tmp_path / "base")
    weights = {"one": 0.75, "two": -0.5, "three": 2.0}
    for seed, name in enumerate(weights):
        options: dict[str, Any] = {"target_modules": ["query_key_value", "dense_4h_to_h"]}
        theirs = adapt(theirs, tmp_path, seed, name, r=3 + seed, lora_alpha=4, **options)
    theirs.add_weighted_adapter(
        list(weights), list(weights.values()), "sum", combination_type="cat"
    )
    theirs.set_adapter("sum")
    flat = convert(
        folder, tmp_path / "flat", format="f32",
        adapters=[(tmp_path / name, weight) for name, weight in weights.items()],
    )  # fmt: skip
    assert_merged(flat, theirs.merge_and_unload(), tmp_path / "merged")


# Without peft: adapters that are written by hand, and sums that anybody can read.


def write_adapter(
    folder: Path, tensors: dict[str, Any], form: str = "safetensors", **config: Any
) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    if form == "safetensors":
        save_file(tensors, folder / "adapter_model.safetensors")
    else:
        torch.save(
            {name: torch.from_numpy(values) for name, values in tensors.items()},
            folder / "adapter_model.bin",
        )
    return folder


def random_matrix(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights_of(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def saved_with(folder: Path, source: Path, tensors: dict[str, Any]) -> Path:
    """A copy of the checkpoint `source` with other tensors."""
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(weights_of(source) | tensors, folder / "model.safetensors")
    return folder


def assert_same_file(found: Path, expected: Path) -> None:
    one, other = FlatFile(found), FlatFile(expected)
    assert one.spec == other.spec
    for name, values in other.tensors.items():
        np.testing.assert_array_equal(one.tensors[name], values, name)


NEOX = "gpt_neox.layers.1.attention.query_key_value"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("recipe", ["f32", "q4"])
def test_a_sum_by_hand(form: str, recipe: str, tmp_path: Path) -> None:
    _, folder = base_model("GPT-NeoX", 0, tmp_path / "base")
    a, b = random_matrix(1, 7, 60), random_matrix(2, 180, 7)
    bias = random_matrix(3, 60)
    prefix = "base_model.model."
    adapter = write_adapter(
        tmp_path / "adapter",
        {
            f"{prefix}{NEOX}.lora_A.weight": a,
            f"{prefix}{NEOX}.lora_B.weight": b,
            f"{prefix}gpt_neox.final_layer_norm.bias": bias,
        },
        form, r=7, lora_alpha=5, target_modules=["query_key_value"], bias="all",
        layers_to_transform=[1],
    )  # fmt: skip
    base = weights_of(folder)
    weight = base[f"{NEOX}.weight"].astype(np.float64)
    b_f64, a_f64 = b.astype(np.float64), a.astype(np.float64)
    old = base["gpt_neox.final_layer_norm.bias"].astype(np.float64)
    by_hand = {
        f"{NEOX}.weight": (weight + 0.25 * (5 / 7) * (b_f64 @ a_f64)).astype(np.float32),
        "gpt_neox.final_layer_norm.bias": (old + 0.25 * (bias - old)).astype(np.float32),
    }
    whole = saved_with(tmp_path / "whole", folder, by_hand)
    expected = convert(whole, tmp_path / "a", format=recipe)
    found = convert(folder, tmp_path / "b", format=recipe, adapters=[(adapter, 0.25)])
    assert_same_file(found, expected)


def test_an_embedding_by_hand(tmp_path: Path) -> None:
    _, folder = base_model("GPT-2", 2, tmp_path / "base")  # untied
    a, b = random_matrix(1, 4, families.VOCAB), random_matrix(2, 56, 4)
    adapter = write_adapter(
        tmp_path / "adapter",
        {
            "base_model.model.transformer.wte.lora_embedding_A": a,
            "base_model.model.transformer.wte.lora_embedding_B": b,
        },
        r=4, lora_alpha=4, target_modules=["wte"],
    )  # fmt: skip
    name = "transformer.wte.weight"
    added = (weights_of(folder)[name] + (b.astype(np.float64) @ a).T).astype(np.float32)
    whole = saved_with(tmp_path / "whole", folder, {name: added})
    found = convert(folder, tmp_path / "b", format="f32", adapters=[adapter])
    assert_same_file(found, convert(whole, tmp_path / "a", format="f32"))


def test_task_vectors(tmp_path: Path) -> None:
    _, folder = base_model("LLaMA", 0, tmp_path / "base")
    base = weights_of(folder)
    tuned = []
    for seed in (1, 2):
        changed = {
            name: values + 0.1 * random_matrix(seed, *values.shape)
            for name, values in base.items()
            if "mlp" in name or "norm" in name
        }
        tuned.append(saved_with(tmp_path / f"tuned{seed}", folder, changed))
    first, second = (weights_of(path) for path in tuned)
    by_hand = {
        name: (
            values.astype(np.float64)
            + 0.5 * (first[name].astype(np.float64) - values)
            - 1.5 * (second[name].astype(np.float64) - values)
        ).astype(np.float32)
        for name, values in base.items()
    }
    expected = convert(saved_with(tmp_path / "w", folder, by_hand), tmp_path / "a", format="f32")
    found = convert(
        folder, tmp_path / "b", format="f32", task_vectors=[(tuned[0], 0.5), (tuned[1], -1.5)]
    )
    assert_same_file(found, expected)
    # The whole difference is the other model, to the bit; none of it is this one.
    whole = convert(folder, tmp_path / "c", format="q4", task_vectors=[tuned[0]])
    assert_same_file(whole, convert(tuned[0], tmp_path / "d", format="q4"))
    nothing = convert(folder, tmp_path / "e", format="q4", task_vectors=[(tuned[0], 0)])
    assert_same_file(nothing, convert(folder, tmp_path / "f", format="q4"))


def test_a_task_vector_of_tied_models_keeps_them_tied(tmp_path: Path) -> None:
    _, folder = base_model("LLaMA", 1, tmp_path / "base")
    changed = {name: values * 1.5 for name, values in weights_of(folder).items()}
    tuned = saved_with(tmp_path / "tuned", folder, changed)
    found = convert(folder, tmp_path / "a", format="f32", task_vectors=[tuned])
    assert_same_file(found, convert(tuned, tmp_path / "b", format="f32"))
    assert FlatFile(found).spec["tied_head"]


@pytest.fixture
def merged(tmp_path: Path) -> Callable[..., Path]:
    """A function that converts with an adapter and a task vector."""
    _, folder = base_model("GPT-NeoX", 0, tmp_path / "base")
    families.add_tokenizer(folder)
    adapter = write_adapter(
        tmp_path / "adapter",
        {
            f"base_model.model.{NEOX}.lora_A.weight": random_matrix(1, 2, 60),
            f"base_model.model.{NEOX}.lora_B.weight": random_matrix(2, 180, 2),
        },
        r=2, lora_alpha=2, base_model_name_or_path="someone/base",
    )  # fmt: skip
    name = "gpt_neox.embed_in.weight"
    tuned = saved_with(tmp_path / "tuned", folder, {name: weights_of(folder)[name] * 2})

    def make(target: str, **options: Any) -> Path:
        return convert(
            folder, tmp_path / target, adapters=[(adapter, 0.5)], task_vectors=[tuned], **options
        )

    return make


def test_the_file_records_what_was_merged(merged: Callable[..., Path], tmp_path: Path) -> None:
    import hashlib

    flat = merged("flat", format="q8")
    file = FlatFile(flat)
    assert file.merged == {"adapter 1": ("adapter", 0.5), "task vector 1": ("tuned", 1.0)}
    assert file.metadata["source"] == "base + 0.5 * adapter + tuned"
    content = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert file.source_digests["adapter 1/adapter_model.safetensors"] == digest
    assert {"adapter 1/adapter_config.json", "task vector 1/model.safetensors"} <= set(
        file.source_digests
    )
    shown = list(lines(describe(flat)))
    assert "merged      adapter 1: adapter, weight 0.5" in shown
    assert "merged      task vector 1: tuned, weight 1" in shown


def test_a_report_compares_with_what_was_merged(merged: Callable[..., Path]) -> None:
    flat = merged("flat", format="f32", report=reporter("A report is measured on this text. " * 9))
    stored = stored_report(FlatFile(flat))
    assert stored is not None
    assert stored.comparison is not None
    assert set((stored.comparison.weight_errors or {}).values()) == {0.0}
    assert stored.comparison.divergence_max < 1e-6


def test_the_cache_keeps_merged_files_apart(tmp_path: Path) -> None:
    _, folder = base_model("GPT-NeoX", 0, tmp_path / "base")
    tensors = {
        f"base_model.model.{NEOX}.lora_A.weight": random_matrix(1, 2, 60),
        f"base_model.model.{NEOX}.lora_B.weight": random_matrix(2, 180, 2),
    }
    adapter = write_adapter(tmp_path / "adapter", tensors, r=2)

    def logits(*adapters: Any) -> Any:
        options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "progress": False}
        model = Model.from_pretrained(folder, format="f32", adapters=adapters, **options)
        return model.logits(TOKENS)

    plain, one, half = logits(), logits(adapter), logits((adapter, 0.5))
    assert len(list((tmp_path / "cache" / "flat").glob("*.safetensors"))) == 3
    assert (plain != one).any() and (half != one).any()
    np.testing.assert_array_equal(logits(), plain)
    np.testing.assert_array_equal(logits(adapter), one)
    save_file({n: v * 2 for n, v in tensors.items()}, adapter / "adapter_model.safetensors")
    assert (logits(adapter) != one).any()
