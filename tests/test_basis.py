"""A quantised file's points mean what they mean in its checkpoint, and so do edits of them.

What is balanced and left in f32 computes the same but for rounding, so a wrong factor or a constant
that is missing shows. That the runtime's points are transformers' is in test_probes.py.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from probing import places_of, replacing

from pythia_rt import Model, _core
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.errors import FlatFileError, MissingBasis
from pythia_rt.convert.flatfile.layout import Stored, linears
from pythia_rt.info import describe, lines
from pythia_rt.insides import Scale, Zero
from pythia_rt.insides.basis import Affine, Basis

Floats = NDArray[np.float32]
Captured = dict[tuple[str, int], Floats]
every_family = pytest.mark.parametrize(("name", "number"), families.CASES)
one_of_each = pytest.mark.parametrize(("name", "number"), [(name, 0) for name in families.ROWS])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, str], FlatFile]:
    """A function from a family, a variant and a format to its file; "balanced" is one in f32."""

    @functools.cache
    def folder(name: str, number: int) -> Path:
        target = tmp_path_factory.mktemp("basis") / "source"
        return families.save(uneven(families.make_model(name, number)), target, number)

    @functools.cache
    def make(name: str, number: int, form: str) -> FlatFile:
        return flat(folder(name, number), form)

    return make


@torch.no_grad()
def uneven(model: Any) -> Any:
    """Return `model` with channels of unlike sizes, gains of 0, and channels that nothing reads."""
    generator = torch.Generator().manual_seed(1)

    def spread(*shape: int) -> torch.Tensor:
        return torch.exp(0.5 * torch.randn(shape, generator=generator))

    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, transformers.pytorch_utils.Conv1D)):
            weight = module.weight.T if isinstance(module, torch.nn.Linear) else module.weight
            weight *= spread(len(weight), 1) * spread(weight.shape[1])  # [in, out]
            weight[5::13] = 0
        elif "Norm" in type(module).__name__ and getattr(module, "weight", None) is not None:
            module.weight *= spread(*module.weight.shape)
            module.weight[..., 7::11] = 0
            module.weight[..., 3::7] *= -1
    return model


def flat(folder: Path, form: str) -> FlatFile:
    target = folder.with_name(f"{folder.name} {form}")
    with pytest.MonkeyPatch.context() as patch:
        if form == "balanced":
            modules = "pythia_rt.convert.quantise.balancing.rewrites"
            patch.setattr(importlib.import_module(modules), "is_quantised", {"f32"}.__contains__)
        return FlatFile(convert(folder, target, format="f32" if form == "balanced" else form))


def model_of(file: FlatFile) -> Any:
    return _core.Model(dict(file.spec), file.formats, file.tensors, threads=1)


def captured(file: FlatFile, tokens: NDArray[np.int32]) -> Captured:
    """What is at every point of the model, as its own weights make it."""
    model = model_of(file)
    places = places_of(model)
    session = _core.Session(model, kv_format="f32")
    _, found = _core.run([session], [tokens], capture=places)
    return dict(zip(places, found, strict=True))


def in_the_checkpoint(file: FlatFile, found: Captured) -> Captured:
    basis = Basis(file)
    result = {}
    for (name, layer), values in found.items():
        back = basis.of(name, layer)
        result[name, layer] = values if back is None else back.to_checkpoint(values)
    return result


def relative(found: Floats, expected: Floats) -> Floats:
    """The error of each channel, as a part of what is usual in it or, if larger, in all of them."""
    usual = np.sqrt(np.square(expected).mean())
    sizes = np.maximum(np.sqrt(np.square(expected).mean(axis=0)), 0.1 * usual)
    error: Floats = np.sqrt(np.square(found - expected).mean(axis=0)) / np.maximum(sizes, 1e-6)
    return error


def key_constants(file: FlatFile) -> dict[int, Floats]:
    """What the keys' bias adds in dimensions that do not rotate, of a file in f32."""
    spec = file.spec
    found = {}
    for layer in range(spec["n_layers"]):
        keys = np.zeros((spec["n_kv_heads"], spec["head_dim"]), np.float32)
        if spec["qkv_bias"] and spec["qk_norm"] == "none":
            bias = file.tensors[f"layers.{layer}.qkv.bias"].view(np.float32)
            first = spec["n_heads"] * spec["head_dim"]
            keys[:] = bias[first : first + keys.size].reshape(keys.shape)
            keys[:, : spec["rotary_dim"]] = 0
        found[layer] = keys.reshape(-1)
    return found


def truth(file: FlatFile, tokens: NDArray[np.int32]) -> Captured:
    """Of a file in f32: what the runtime has, and of the keys what the checkpoint has."""
    found = captured(file, tokens)
    for layer, constant in key_constants(file).items():
        for name in ("k", "rot_k"):
            if (name, layer) in found:
                found[name, layer] = found[name, layer] + constant
    return found


@every_family
def test_balanced_points_are_those_of_the_checkpoint(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    plain, balanced = made(name, number, "f32"), made(name, number, "balanced")
    tokens = families.tokens_of(name, number)
    expected = truth(plain, tokens)
    for place, values in in_the_checkpoint(plain, captured(plain, tokens)).items():
        np.testing.assert_array_equal(values, expected[place], str(place))
    raw = captured(balanced, tokens)
    for place, values in in_the_checkpoint(balanced, raw).items():
        assert relative(values, expected[place]).max() < 1e-3, place
    # And without the basis it does show.
    assert relative(raw["v", 0], expected["v", 0]).max() > 0.3


@one_of_each
def test_quantised_points_are_those_of_the_checkpoint(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    """Points that were scaled are as near as those that never were."""
    plain, quantised = made(name, number, "f32"), made(name, number, "q8")
    tokens = families.tokens_of(name, number)
    expected, basis = truth(plain, tokens), Basis(quantised)
    found = in_the_checkpoint(quantised, captured(quantised, tokens))
    errors = {place: np.median(relative(v, expected[place])) for place, v in found.items()}
    scaled = {place for place in found if basis.of(place[0], place[1]) is not None}
    assert {("v", 0), ("q", 1)} <= scaled or quantised.spec["qk_norm"] != "none"
    most = max(error for place, error in errors.items() if place not in scaled)
    for place in scaled:
        assert errors[place] <= 2 * most, place


@pytest.mark.parametrize(("name", "number"), [
    ("GPT-NeoX", 0), ("GPT-NeoX", 2), ("LLaMA", 2), ("OPT", 0), ("GPT-J", 0), ("StableLM", 3),
    ("Qwen2", 1), ("Falcon-40B", 2),
])  # fmt: skip
def test_an_edit_does_what_it_does_in_the_checkpoint(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    """Rows that other tokens have, at each point that is scaled, and what makes of it a c + b."""
    plain, balanced = made(name, number, "f32"), made(name, number, "balanced")
    tokens = families.tokens_of(name, number)[:30]
    expected, basis = truth(plain, tokens), Basis(balanced)
    raw, numbers = captured(balanced, tokens), [3, 11, 20]
    some = np.random.default_rng(0)
    clean = logits_with(plain, tokens)
    for point, layer in expected:
        back = basis.of(point, layer)
        if back is None:
            continue
        rows = expected[point, layer][[20, 3, 11]]
        changed = rows + 0.5 * some.normal(size=rows.shape).astype(np.float32) * (back.scale != 0)
        there = Basis(plain).of(point, layer)
        theirs = changed if there is None else there.to_runtime(changed)
        truly = logits_with(plain, tokens, (point, layer, numbers, theirs))
        ours = logits_with(balanced, tokens, (point, layer, numbers, back.to_runtime(changed)))
        assert np.abs(ours - truly).max() < 1e-3 * np.abs(truly).max(), (point, layer)
        assert np.abs(truly - clean).max() > 1e-2 * np.abs(truly).max(), (point, layer)
        scale = np.where(back.scale == 0, 1, some.normal(size=len(back.scale)))
        shift = np.where(back.scale == 0, 0, some.normal(size=len(back.scale)))
        a, b = back.edit(scale, shift)
        np.testing.assert_allclose(
            back.to_checkpoint(a * raw[point, layer] + b),
            scale * back.to_checkpoint(raw[point, layer]) + shift, rtol=1e-4, atol=1e-4,
        )  # fmt: skip


def logits_with(file: FlatFile, tokens: NDArray[np.int32], *replace: Any) -> Floats:
    model = model_of(file)
    session = _core.Session(model, kv_format="f32")
    edits = replacing(_core, model, replace, [len(tokens)])
    logits: Floats = _core.run([session], [tokens], edits=edits)[0][0]
    return logits


@one_of_each
def test_an_edit_of_a_pattern_does_what_it_does_in_the_checkpoint(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    """Of a row that does not sum to 1, too: of what was moved out of values it mixes less."""
    tokens = families.tokens_of(name, number)[:30]
    edits = [Scale("layers.0.pattern", 0.25), Zero("layers.1.scores", positions=range(5, 25, 2)),
             Zero("layers.1.pattern", heads=0)]  # fmt: skip
    points = ["layers.*.z", "layers.*.v", "layers.*.pattern"]
    runs = [
        Model(made(name, number, form), kv_format="f32").run(tokens, points, edits=edits)
        for form in ("f32", "balanced")
    ]
    for point in runs[0]:
        np.testing.assert_allclose(
            runs[1][point], runs[0][point], rtol=1e-3, atol=1e-4 * np.abs(runs[0][point]).max()
        )
    assert np.abs(runs[1].logits - runs[0].logits).max() < 1e-3 * np.abs(runs[0].logits).max()


def test_what_the_checkpoint_makes_constant_cannot_be_edited() -> None:
    back = Affine(np.array([2, 0, 1], np.float32), np.array([0, 3, 1], np.float32))
    same = np.array([[4, 3, 5], [1, 3, 0]], np.float32)
    np.testing.assert_array_equal(back.to_checkpoint(back.to_runtime(same)), same)
    with pytest.raises(ValueError, match="channel 1 is constant here"):
        back.to_runtime(np.array([[4, 3, 5], [1, 2, 0]], np.float32))
    with pytest.raises(ValueError, match="channel 1 is constant here"):
        back.edit(np.full(3, 2), np.zeros(3))
    a, b = back.edit(np.array([2, 0, 0]), np.array([0, 3, 7]))
    np.testing.assert_array_equal(a * np.float32([1, 9, 2]) + b, [2, 9, 6])


@one_of_each
def test_what_scores_lack_is_what_the_constant_adds(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    spec, tokens = made(name, number, "f32").spec, families.tokens_of(name, number)[:9]
    group = spec["n_heads"] // spec["n_kv_heads"]

    def heads(values: Floats) -> Floats:
        split = values.reshape(len(values), -1, spec["head_dim"])
        return np.repeat(split, spec["n_heads"] // split.shape[1], axis=1)

    for form in ("f32", "balanced"):
        raw, basis = captured(made(name, number, form), tokens), Basis(made(name, number, form))
        whole = in_the_checkpoint(made(name, number, form), raw)
        for layer in range(spec["n_layers"]):
            lacking = np.einsum("qhd,khd->hqk", heads(raw["q", layer]), heads(raw["k", layer]))
            constant = basis.key_constant(layer, runtime=True).reshape(-1, spec["head_dim"])
            added = np.einsum(
                "qhd,hd->hq", heads(raw["q", layer]), np.repeat(constant, group, axis=0)
            )
            scores = np.einsum("qhd,khd->hqk", heads(whole["q", layer]), heads(whole["k", layer]))
            error = np.abs(lacking + added[..., None] - scores).max()
            assert error < 1e-4 * np.abs(scores).max()


def test_the_constant_of_keys_is_there_where_it_should_be(
    made: Callable[[str, int, str], FlatFile],
) -> None:
    for form in ("f32", "balanced"):
        constant = Basis(made("GPT-NeoX", 0, form)).key_constant(1).reshape(5, 12)
        assert not constant[:, :6].any()
        assert constant[:, 6:].all()


@every_family
def test_biases_are_kept_where_the_file_has_others(
    made: Callable[[str, int, str], FlatFile], name: str, number: int
) -> None:
    plain, quantised = made(name, number, "f32"), made(name, number, "q8")
    kept, differ = set(), set()
    for matrix in linears(plain.spec):
        bias = f"{matrix.name}.bias"
        if f"basis.{matrix.role}.bias" in quantised.basis:
            kept.add(matrix.role)
        if matrix.bias and plain.tensors[bias].tobytes() != quantised.tensors[bias].tobytes():
            differ.add(matrix.role)
    assert kept == differ


def normed(file: FlatFile, values: Floats) -> NDArray[np.float64]:
    """What a norm makes of the stream before its gain and bias."""
    x = values.astype(np.float64)
    if file.spec["norm"] == "layer":
        x = x - x.mean(axis=1, keepdims=True)
    found: NDArray[np.float64] = x / np.sqrt(
        np.square(x).mean(axis=1, keepdims=True) + file.spec["norm_eps"]
    )
    return found


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(("name", "number"), [("GPT-NeoX", 1), ("GPT-NeoX", 2), ("LLaMA", 0)])
def test_norms_are_the_checkpoints_to_the_last_digits(
    tmp_path: Path, name: str, number: int, calibrated: bool
) -> None:
    """Their inputs are of no other scale, so no error of quantising is between."""
    folder = families.save(uneven(families.make_model(name, number)), tmp_path / "source", number)
    plain = FlatFile(convert(folder, tmp_path / "f32", format="f32"))
    text = np.tile(families.tokens_of(name, number), 3) if calibrated else None
    path = convert(folder, tmp_path / "q4", format="q4", calibrate=text)
    file, tokens = FlatFile(path), families.tokens_of(name, number)
    found = in_the_checkpoint(file, captured(file, tokens))
    streams = {"attn_norm": "resid_pre", "mlp_norm": "resid_mid"}
    if file.spec["block"] == "parallel":
        streams["mlp_norm"] = "resid_pre"
    places = [(norm, stream, i) for i in (0, 1) for norm, stream in streams.items()]
    for norm, stream, layer in [*places, ("final_norm", "resid_post", -1)]:
        role = norm if layer < 0 else f"layers.{layer}.{norm}"
        expected = normed(file, found[stream, layer % file.spec["n_layers"]])
        expected *= plain.tensors[f"{role}.weight"].view(np.float32)[:60]
        if f"{role}.bias" in plain.tensors:
            expected += plain.tensors[f"{role}.bias"].view(np.float32)[:60]
        np.testing.assert_allclose(found[norm, layer], expected, rtol=1e-5, atol=2e-6)
        ours = file.tensors[f"{role}.weight"]
        assert ours.tobytes() != plain.tensors[f"{role}.weight"].tobytes()


def test_what_nothing_reads_changes_no_logit(tmp_path: Path) -> None:
    """A channel whose columns are all 0 can be seen, and costs the others no bit."""
    source = families.save(uneven(families.make_model("GPT-NeoX", 0)), tmp_path / "source", 0)
    for recipe in ("q8", "q4"):
        file = FlatFile(convert(source, tmp_path / recipe, format=recipe))
        without = {name: data.copy() for name, data in file.tensors.items()}
        tiny = 0
        for name, data in without.items():
            if name.endswith("_norm.weight"):
                gains = data.view(np.float32)
                tiny += np.count_nonzero((np.abs(gains) < 1e-6) & (gains != 0))
                gains[np.abs(gains) < 1e-6] = 0
        assert tiny > 10
        tokens = families.tokens_of("GPT-NeoX", 0)
        other = _core.Model(dict(file.spec), file.formats, without, threads=1)
        (one,), (two,) = (
            _core.forward([_core.Session(model)], [tokens]) for model in (model_of(file), other)
        )
        np.testing.assert_array_equal(one, two)


@torch.inference_mode()
def seen_by(model: Any, module: str, tokens: NDArray[np.int32]) -> Floats:
    """What a module of transformers puts out."""
    seen = []
    model.get_submodule(module).register_forward_hook(lambda _, given, out: seen.append(out))
    model(torch.from_numpy(tokens.astype(np.int64))[None])
    values: Floats = seen[0].reshape(len(tokens), -1).numpy()
    return values


@pytest.mark.parametrize(("name", "number", "point", "modules"), [
    ("GPT-J", 0, "q", ["transformer.h.1.attn.q_proj"]),
    ("GPT-J", 1, "k", ["transformer.h.1.attn.k_proj"]),
    ("LLaMA", 0, "mlp_pre", ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]),
    ("LLaMA", 4, "mlp_pre", ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]),
    ("LLaMA", 2, "q", ["model.layers.1.self_attn.q_proj"]),
    ("GPT-NeoX", 0, "mlp_pre", ["gpt_neox.layers.1.mlp.dense_h_to_4h"]),
])  # fmt: skip
def test_channels_have_the_order_of_transformers(
    made: Callable[[str, int, str], FlatFile], name: str, number: int, point: str,
    modules: list[str],
) -> None:  # fmt: skip
    tokens, model = families.tokens_of(name, number), uneven(families.make_model(name, number))
    for form in ("f32", "balanced"):
        file = made(name, number, form)
        found = in_the_checkpoint(file, captured(file, tokens))[point, 1]
        order = Basis(file).order(point)
        assert (order is None) == (name == "GPT-NeoX" or (name, point) == ("LLaMA", "q"))
        found = found if order is None else found[:, order]
        expected = np.concatenate([seen_by(model, module, tokens) for module in modules], axis=1)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_an_mlp_that_was_filled_up_has_its_own_width(
    made: Callable[[str, int, str], FlatFile],
) -> None:
    file = made("LLaMA", 0, "q8")
    assert (file.spec["mlp_size"], file.source_mlp_size) == (96, 88)
    np.testing.assert_array_equal(Basis(file).order("mlp_post"), np.arange(88))
    assert Basis(made("LLaMA", 4, "q8")).order("mlp_post") is None
    file.source_mlp_size = None  # as of files of older versions
    with pytest.raises(MissingBasis, match="what takes mlp_pre back"):
        Basis(file).order("mlp_pre")


def test_files_without_their_basis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = families.save(families.make_model("LLaMA", 0), tmp_path / "source", 0)
    monkeypatch.setattr("pythia_rt.convert.quantise.basis.SourceBasis.stored", lambda self: {})
    path = convert(source, tmp_path / "q8", format="q8")
    basis = Basis(FlatFile(path))
    assert basis.of("resid_post", 1) is None
    for point in ("attn_norm", "q", "k", "v", "z", "rot_q", "rot_k", "mlp_norm", "mlp_post"):
        with pytest.raises(MissingBasis, match=rf"what takes {point} of layer 1 back .*: convert"):
            basis.of(point, 1)
    with pytest.raises(MissingBasis, match="what takes final_norm back"):
        basis.of("final_norm")
    with pytest.raises(MissingBasis, match="what takes scores of layer 0 back"):
        basis.key_constant(0, point="scores")
    exact = convert(source, tmp_path / "f32", format="f32")
    assert Basis(FlatFile(exact)).of("q", 1) is None
    for made, is_known in ((path, False), (exact, True)):
        facts = describe(made)
        assert facts["basis"] is is_known
        assert any("not recorded: convert again" in line for line in lines(facts)) != is_known


@pytest.mark.parametrize(("name", "value"), [
    ("basis.keys", 0), ("basis.values", np.nan), ("basis.attn_norm.bias", np.inf),
])  # fmt: skip
def test_nonsense_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(
        "pythia_rt.convert.quantise.basis.store",
        lambda values: (Stored("F32", values.shape), values.tobytes()),
    )
    source = families.save(families.make_model("GPT-NeoX", 0), tmp_path / "source", 0)
    path = convert(source, tmp_path / "q8", format="q8")
    entry = FlatFile(path).entries[name]
    assert entry.dtype == "F32"
    with path.open("r+b") as file:
        file.seek(entry.offset + 4)
        file.write(np.float32(value).tobytes())
    with pytest.raises(FlatFileError, match=f"its {name} is no basis: convert its source again"):
        Basis(FlatFile(path))
