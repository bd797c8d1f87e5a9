"""Meta's own folders: the flat file of the same model in transformers' form, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import pytest
import torch
import transformers

from pythia_rt.convert import CheckpointError, FlatFile, convert

Tensors = dict[str, torch.Tensor]
PARAMS = {
    "dim": 60,
    "multiple_of": 16,
    "n_heads": 6,
    "n_layers": 2,
    "norm_eps": 1e-6,
    "vocab_size": -1,
}
MODULES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def make_model(**changes: Any) -> Any:
    config = families.make_config("LLaMA", 0)
    config.update({"intermediate_size": 160, "num_key_value_heads": 6, **changes})
    config.update({"eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 2048})
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).half()
    with torch.no_grad():
        for values in model.parameters():
            values += 0.1 * torch.randn(values.shape)
    return model


def metas(model: Any) -> Tensors:
    """The tensors by Meta's names, with pairs of neighbours that rotate."""
    state, dim = model.state_dict(), model.config.head_dim
    found = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
        "rope.freqs": torch.ones(dim // 2),
    }
    for i in range(model.config.num_hidden_layers):
        for theirs, ours in MODULES.items():
            values = state[f"model.layers.{i}.{ours}.weight"]
            if theirs in ("attention.wq", "attention.wk"):
                # The first half of a head's rows has the first one of each pair.
                heads = values.view(-1, 2, dim // 2, values.shape[1])
                values = heads.transpose(1, 2).reshape(values.shape)
            found[f"layers.{i}.{theirs}.weight"] = values
    return found


def split(tensors: Tensors, parts: int, embeds_by_rows: bool = False) -> list[Tensors]:
    """As model parallelism does."""
    found: list[Tensors] = [{} for _ in range(parts)]
    for name, values in tensors.items():
        by_columns = name.endswith(("wo.weight", "w2.weight"))
        by_columns |= name.startswith("tok_") and not embeds_by_rows
        pieces = (values,) * parts
        if values.ndim == 2:
            pieces = values.chunk(parts, dim=int(by_columns))
        for part, piece in zip(found, pieces, strict=True):
            part[name] = piece.clone()
    return found


def write(folder: Path, parts: list[Tensors], **params: Any) -> Path:
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    for number, part in enumerate(parts):
        torch.save(part, folder / f"consolidated.{number:02}.pth")
    return folder


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    # multiple_of and the multiplier make the MLP's width, as LLaMA 2's 70B has it.
    (
        {"num_key_value_heads": 2, "intermediate_size": 224},
        {"n_kv_heads": 2, "ffn_dim_multiplier": 1.3, "multiple_of": 32},
    ),
    (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_theta": 500000.0},
    ),
]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("by_rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize(("changes", "params"), CASES)
@pytest.mark.parametrize("form", ["f16", "q4"])
def test_files_are_those_of_transformers_folder(
    tmp_path: Path, parts: int, by_rows: bool, changes: Any, params: Any, form: str
) -> None:
    model = make_model(**changes)
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "generation_config.json").unlink()
    folder = write(tmp_path / "metas", split(metas(model), parts, by_rows), **params)
    expected = FlatFile(convert(tmp_path / "theirs", tmp_path / "a", format=form))
    found = FlatFile(convert(folder, tmp_path / "b", format=form))
    assert found.spec == expected.spec
    assert found.metadata["data_sha256"] == expected.metadata["data_sha256"]
    names = {"params.json", *(f"consolidated.{i:02}.pth" for i in range(parts))}
    assert set(json.loads(found.metadata["source_digests"])) == names


def refuse(tmp_path: Path, parts: list[Tensors], says: str, **params: Any) -> None:
    folder = write(tmp_path / "bad", parts, **params)
    with pytest.raises(CheckpointError, match=says):
        convert(folder, tmp_path / "flat")
    assert not (tmp_path / "flat").exists()


WRONG: list[tuple[str, Any, str]] = [
    ("dim", 0, "no valid dim"),
    ("dim", "60", "no valid dim"),
    ("dim", 72, "the shape"),
    ("multiple_of", None, "no valid multiple_of"),
    ("multiple_of", 256, "the shape"),
    ("norm_eps", True, "no valid norm_eps"),
    ("n_heads", 7, "leaves a rest"),
    ("n_layers", 3, "is missing"),
    ("n_layers", 1, "does not belong"),
    ("rope_theta", "x", "no valid rope_theta"),
    ("ffn_dim_multiplier", -1, "no valid ffn_dim_multiplier"),
    ("use_scaled_rope", True, "does not say by how much"),
    ("moe", {"num_experts": 8}, "has 'moe', which no model of Meta's"),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG)
def test_wrong_parameters_are_named(tmp_path: Path, key: str, value: Any, says: str) -> None:
    refuse(tmp_path, split(metas(make_model()), 1), says, **{key: value})


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    tensors = metas(make_model())
    for number, (says, change) in enumerate(
        {
            "is in consolidated.00.pth and not in each": lambda p: p[1].pop("output.weight"),
            "differs between": lambda p: p[1]["norm.weight"].mul_(2),
            "are parts of one": lambda p: p[1].update({"output.weight": torch.ones(3, 60)}),
            "'extra.weight'": lambda p: [
                part.update({"extra.weight": torch.ones(2)}) for part in p
            ],
            "is missing": lambda p: [part.pop("layers.1.attention.wq.weight") for part in p],
        }.items()
    ):
        parts = split(tensors, 2)
        change(parts)
        (tmp_path / str(number)).mkdir()
        refuse(tmp_path / str(number), parts, says)


def test_missing_files(tmp_path: Path) -> None:
    folder = write(tmp_path / "metas", split(metas(make_model()), 4))
    (folder / "consolidated.01.pth").rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"and no consolidated\.01\.pth"):
        convert(folder, tmp_path / "flat")
    (tmp_path / "away").rename(folder / "consolidated.01.pth")
    (folder / "params.json").unlink()
    with pytest.raises(CheckpointError, match=r"params\.json is missing"):
        convert(folder, tmp_path / "flat")
