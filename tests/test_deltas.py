"""Deltas with their base against what the scripts that published them compute, and bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch

from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.evaluation import reporter
from pythia_rt.evaluation.reporter import stored_report

ROWS = families.VOCAB
TEXT = "A delta holds what a training changed, and its base is what it was trained from. " * 3
Tensors = dict[str, torch.Tensor]


def llama(seed: int, rows: int = ROWS) -> Any:
    torch.manual_seed(seed)
    model = families.make_model("LLaMA", 0)
    model.resize_token_embeddings(rows)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.01 * torch.randn(values.shape)
    return model


def save(model: Any, folder: Path, dtype: torch.dtype, **config: Any) -> Path:
    model.to(dtype).save_pretrained(folder, max_shard_size="30KB")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def make_delta(tuned: Any, base: Tensors) -> Any:
    """Subtract, in the base's dtype, as both scripts do."""
    with torch.no_grad():
        for name, values in tuned.to(next(iter(base.values())).dtype).state_dict().items():
            values -= base[name]
    return tuned


def enlarged(model: Any, rows: int, fill: str) -> Tensors:
    """The base's tensors with as many rows as the delta's, as the scripts fill them."""
    found = {name: values.clone() for name, values in model.state_dict().items()}
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        more = found[name].mean(dim=0, keepdim=True) if fill == "mean" else found[name][:1] * 0
        found[name] = torch.cat([found[name], more.expand(rows - ROWS, -1)])
    return found


# Alpaca's weight_diff.py computes in f32, FastChat's apply_delta.py in f16; the base may be either.
SCRIPTS = {
    "alpaca-7b-wdiff": (torch.float32, "mean"),
    "vicuna-7b-delta-v0": (torch.float16, "zero"),
}


@pytest.fixture
def folders(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path, Tensors]:
    """A delta, its base, and the recovered tensors."""
    name, base_dtype, rows = request.param
    dtype, fill = SCRIPTS[name]
    base = save(llama(1), tmp_path / "llama-7b", base_dtype)
    added = enlarged(llama(1).to(base_dtype).to(dtype), rows, fill)
    delta = make_delta(llama(2, rows), added)
    recovered = {key: values + added[key] for key, values in delta.state_dict().items()}
    return save(delta, tmp_path / name, dtype), base, recovered


CASES = [
    (name, base_dtype, rows)
    for name in SCRIPTS
    for base_dtype in (torch.float32, torch.float16)
    for rows in (ROWS, ROWS + 3)
] + [("vicuna-7b-delta-v0", torch.bfloat16, ROWS)]
every_case = pytest.mark.parametrize("folders", CASES, indirect=True)


def whole(tensors: Tensors, delta: Path, folder: Path) -> Path:
    """The recovered model as a checkpoint of its own."""
    folder.mkdir()
    (folder / "config.json").write_bytes((delta / "config.json").read_bytes())
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


@every_case
@pytest.mark.parametrize("form", ["own", "q4"])
def test_a_delta_and_its_base_are_the_recovered_model(
    folders: tuple[Path, Path, Tensors], form: str, tmp_path: Path
) -> None:
    delta, base, recovered = folders
    dtype = recovered["model.norm.weight"].dtype
    form = ("f32" if dtype == torch.float32 else "f16") if form == "own" else form
    expected = FlatFile(
        convert(whole(recovered, delta, tmp_path / "w"), tmp_path / "a", format=form)
    )
    found = FlatFile(convert(delta, tmp_path / "b", format=form, base=base))
    assert found.spec == expected.spec
    for name, values in expected.tensors.items():
        if len(recovered["lm_head.weight"]) > ROWS and name.split(".")[0] in ("embed", "head"):
            continue  # the mean of rows, below
        np.testing.assert_array_equal(found.tensors[name], values, name)
    assert found.metadata["source"] == f"{delta.name} + {base.name}"
    digests = json.loads(found.metadata["source_digests"])
    assert {"config.json", "base/model.safetensors.index.json"} <= set(digests)


@every_case
def test_rows_that_only_the_delta_has(folders: tuple[Path, Path, Tensors], tmp_path: Path) -> None:
    """The sum of a mean depends on its order: to a rounding."""
    from models import contents

    delta, base, recovered = folders
    found = contents(FlatFile(convert(delta, tmp_path / "b", format="f32", base=base)))
    for name, theirs in (("embed", "model.embed_tokens.weight"), ("head", "lm_head.weight")):
        expected = recovered[theirs].float().numpy()
        np.testing.assert_array_equal(found[name][:ROWS], expected[:ROWS])
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)


def pair(tmp_path: Path) -> tuple[Path, Path]:
    base = save(llama(1), tmp_path / "llama-7b", torch.float16)
    tensors = dict(llama(1).half().state_dict())
    return save(make_delta(llama(2), tensors), tmp_path / "x-delta", torch.float16), base


def refuse(tmp_path: Path, source: Path, error: type[Exception], says: str, **options: Any) -> None:
    with pytest.raises(error, match=says):
        convert(source, tmp_path / "flat", **options)
    assert not (tmp_path / "flat").exists()


def test_a_report_compares_with_the_sum(tmp_path: Path) -> None:
    delta, base = pair(tmp_path)
    families.add_tokenizer(delta)
    reports = {}
    for form in ("f16", "q4"):
        flat = convert(delta, tmp_path / form, format=form, base=base, report=reporter(TEXT))
        stored = stored_report(FlatFile(flat))
        assert stored is not None
        assert stored.comparison is not None
        assert stored.comparison.reference.recipe == "f16"
        reports[form] = stored.comparison
    assert set((reports["f16"].weight_errors or {}).values()) == {0.0}
    assert reports["f16"].divergence_max < 1e-4 < reports["q4"].divergence.value


def test_deltas_without_a_base(tmp_path: Path) -> None:
    delta, _ = pair(tmp_path)
    refuse(tmp_path, delta, CheckpointError, "is a delta, as its name")
    renamed = delta.rename(tmp_path / "renamed")
    path = renamed / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"_name_or_path": "lmsys/vicuna-7b-delta-v1.1"}))
    refuse(tmp_path, renamed, CheckpointError, "is a delta, as its name")


@pytest.mark.parametrize("name", ["x-delta", "alpaca-7b-wdiff", "delta", "weight_diff-7b"])
def test_a_name_alone_makes_no_delta(tmp_path: Path, name: str) -> None:
    convert(save(llama(1), tmp_path / name, torch.float16), tmp_path / "flat")


def test_bases_that_do_not_fit(tmp_path: Path) -> None:
    delta, base = pair(tmp_path)
    refuse(tmp_path, delta, ValueError, "is both source and base", base=delta)
    refuse(tmp_path, base, CheckpointError, "is a delta too", base=delta)
    copied = save(llama(1), tmp_path / "copied", torch.float16)
    refuse(tmp_path, copied, CheckpointError, "convert it without a base", base=base)
    tensors = dict(llama(1).half().state_dict())
    other = save(make_delta(llama(3), tensors), tmp_path / "y-delta", torch.float16)
    refuse(tmp_path, delta, CheckpointError, "is a delta too", base=other)
    wide = families.make_model("LLaMA", 2)
    refuse(
        tmp_path, delta, CheckpointError, "and not in the|the shape",
        base=save(wide, tmp_path / "wide", torch.float16),
    )  # fmt: skip
    longer = save(llama(1, ROWS + 8), tmp_path / "longer", torch.float16)
    refuse(
        tmp_path, delta, CheckpointError, r"has the shape \[96, 60\] and \[104, 60\]", base=longer
    )
    opt = families.make_model("OPT", 0)
    opt.save_pretrained(tmp_path / "opt")
    refuse(
        tmp_path,
        delta,
        CheckpointError,
        "is of the family OPT and the delta of LLaMA",
        base=tmp_path / "opt",
    )
    refuse(tmp_path, delta, FileNotFoundError, "no folder", base=tmp_path / "nowhere")


def test_deltas_in_other_types(tmp_path: Path) -> None:
    base = save(llama(1), tmp_path / "llama-7b", torch.bfloat16)
    tensors = dict(llama(1).bfloat16().state_dict())
    delta = save(make_delta(llama(2), tensors), tmp_path / "x-delta", torch.bfloat16)
    refuse(tmp_path, delta, CheckpointError, "is BF16: deltas are added in F16 or F32", base=base)
