"""`Model.run`: what it keeps and leaves out, how it starts and stops, and what edits do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray

from pythia_rt import Engine, Model, Request
from pythia_rt.convert import convert
from pythia_rt.insides import Add, At, Mean, PerText, Replace, Scale, Zero

RANDOM = np.random.default_rng(4)
TOKENS = RANDOM.integers(0, 128, 11, np.int32)
TEXTS = [TOKENS, TOKENS[:1], RANDOM.integers(0, 128, 280, np.int32)]  # the last takes two passes
HIDDEN, HEADS, DIM = 64, 2, 32


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    """A function from a recipe, and changes of the config, to a model of three layers."""
    folder = tmp_path_factory.mktemp("run")
    kept: dict[tuple[Any, ...], Model] = {}

    def make(recipe: str = "f32", **changes: Any) -> Model:
        name = "-".join([recipe, *map(str, changes.values())])
        if name not in kept:
            config = make_config(num_hidden_layers=3, **changes)
            source = write_checkpoint(folder / name, config, seed=6)
            path = convert(source, folder / f"{name}.flat", format=recipe)
            kept[name] = Model.load(path, threads=2)
        return kept[name]

    return make


@pytest.fixture
def model(files: Callable[..., Model]) -> Model:
    return files()


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found, expected)


def close(found: Any, expected: Any, most: float = 1e-5) -> None:
    assert np.shape(found) == np.shape(expected)
    assert np.abs(found - expected).max() <= most * np.abs(expected).max()


# What is kept


def test_a_run_that_captures_nothing_gives_the_model_s_logits(model: Model) -> None:
    same(model.run(TOKENS).logits, model.logits(TOKENS))
    same(model.run(TOKENS, logits="last").logits, model.logits(TOKENS)[-1:])
    batch = model.run(TEXTS)
    for text, logits in zip(TEXTS, batch.logits, strict=True):
        same(logits, model.logits(text))
    with pytest.raises(ValueError, match="it was to compute none"):
        _ = model.run(TOKENS, logits=None).logits


def test_shapes_and_names(model: Model) -> None:
    run = model.run(
        TOKENS, ["layers.*.z", "embed", "blocks.1.attn.hook_pattern", ("scale", 1, "ln2")]
    )
    assert list(run) == [
        "layers.0.z", "layers.1.z", "layers.2.z", "embed", "layers.1.pattern",
        "layers.1.mlp_norm.scale",
    ]  # fmt: skip
    assert run["z", -1].shape == (11, HEADS, DIM)
    assert run["blocks.2.attn.hook_z"] is not None and run["pattern1"].shape == (HEADS, 11, 11)
    assert run["layers.1.mlp_norm.scale"].shape == (11, 1)
    assert "embed" in run and "hook_embed" in run and "final_norm" not in run and "x" not in run
    assert run.stack("z").shape == (3, 11, HEADS, DIM)
    assert all(values.dtype == np.float32 for values in run.values())
    with pytest.raises(KeyError, match="final_norm was not captured"):
        run["final_norm"]
    with pytest.raises(KeyError, match="captured in no layer"):
        run.stack("q")
    with pytest.raises(ValueError, match="cannot be flat"):
        run.flat("layers.1.pattern")


def test_a_batch_is_its_texts(model: Model) -> None:
    """Whatever shares a pass, and more texts than go together."""
    texts = [*TEXTS, *[np.roll(TOKENS, i) for i in range(99)]]
    points = ["layers.*.resid_post", "layers.1.scores", "layers.2.q"]
    batch = model.run(texts, points, logits=None)
    for number in (0, 1, 2, 50, 101):
        alone = model.run(texts[number], points, logits=None)
        for name in batch:
            same(batch[name][number], alone[name])
    ends = batch.offsets
    assert ends[-1] == len(batch.flat("layers.2.q")) == sum(map(len, texts))
    same(batch.flat("layers.2.q")[ends[50] : ends[51]], batch["layers.2.q"][50])
    same(batch.stack("resid_post")[1], model.run(texts[1], points).stack("resid_post"))
    assert [len(text) for text in batch.tokens] == [len(text) for text in texts]


@pytest.mark.parametrize(("positions", "of_first"), [
    (-1, [10]), ([0, -1], [0, 10]), (slice(2, 9, 3), [2, 5, 8]), ([], []),
    (np.array([4, 3]), [3, 4]),
])  # fmt: skip
def test_positions(model: Model, positions: Any, of_first: list[int]) -> None:
    points = ["layers.1.mlp_pre", "layers.1.pattern", "final_norm.normalized"]
    whole = model.run(TOKENS, points)
    some = model.run(TOKENS, points, positions=positions)
    same(some.positions, of_first)
    for name in some:
        at = np.array(of_first, np.int64)
        same(some[name], whole[name][:, at] if name.endswith("pattern") else whole[name][at])
    same(some.logits, whole.logits)


def test_positions_of_each_text(model: Model) -> None:
    texts = [TOKENS, TOKENS[3:]]
    run = model.run(texts, "layers.0.resid_post", positions=[[1, 2], slice(-1, None)])
    assert [len(values) for values in run["layers.0.resid_post"]] == [2, 1]
    same(
        run["layers.0.resid_post"][1],
        model.run(texts[1], "layers.0.resid_post", positions=-1)["layers.0.resid_post"],
    )


def test_halves(model: Model) -> None:
    points = ["layers.1.resid_post", "layers.1.k", "layers.0.scores"]
    full, half = model.run(TOKENS, points), model.run(TOKENS, points, dtype="f16")
    for name in points:
        assert half[name].dtype == np.float16
        same(half[name], full[name].astype(np.float16))
    big = [Add("layers.1.resid_pre", 1e5)]
    with pytest.raises(OverflowError, match=r"layers\.1\.resid_pre has values that float16"):
        model.run(TOKENS, "layers.1.resid_pre", edits=big, dtype="f16")


def test_a_sink_gets_all_and_nothing_is_kept(model: Model) -> None:
    points = ["layers.*.resid_post", "layers.1.q", "layers.2.mlp_norm.normalized"]
    kept: dict[tuple[str, int], list[NDArray[Any]]] = {}

    def sink(name: str, text: int, positions: NDArray[np.int64], values: NDArray[Any]) -> None:
        before = sum(map(len, kept.get((name, text), [])))
        same(positions, np.arange(before, before + len(values)))
        kept.setdefault((name, text), []).append(values)

    run = model.run(TEXTS, points, sink=sink, logits=None)
    assert len(run) == 0
    whole = model.run(TEXTS, points, logits=None)
    for name in whole:
        for text in range(len(TEXTS)):
            same(np.concatenate(kept[name, text]), whole[name][text])

    def full(*_: Any) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        model.run(TEXTS, points, sink=full)


# Where it starts and stops


def test_a_run_starts_with_a_stream(model: Model) -> None:
    clean = model.run(TEXTS, ["layers.*.resid_pre", "layers.*.resid_post"])
    for layer in range(3):
        for start in ((layer, clean), (layer - 3, clean["resid_pre", layer])):
            run = model.run(TEXTS, ["layers.2.resid_post"], start_at=start)
            for found, expected in zip(run.logits, clean.logits, strict=True):
                same(found, expected)
    alone = model.run(TOKENS, start_at=(1, clean["layers.1.resid_pre"][0]))
    same(alone.logits, clean.logits[0])


def test_a_run_stops_after_a_layer(model: Model) -> None:
    clean = model.run(TOKENS, "layers.*.*")
    for stop in (0, 1, -1):
        run = model.run(TOKENS, "layers.*.*", stop_after_layer=stop)
        assert {name.split(".")[1] for name in run} == set(map(str, range(stop % 3 + 1)))
        for name in run:
            same(run[name], clean[name])
        with pytest.raises(ValueError, match="no logits"):
            _ = run.logits
    middle = model.run(TOKENS, "*.resid_post", start_at=(1, clean), stop_after_layer=1)
    assert list(middle) == ["layers.1.resid_post"]
    same(middle["layers.1.resid_post"], clean["layers.1.resid_post"])


def test_layers_are_left_out_and_change_places(model: Model) -> None:
    clean = model.run(TOKENS, "layers.*.resid_post")
    without = model.run(TOKENS, "layers.*.resid_post", layers=[0, 2])
    assert list(without) == ["layers.0.resid_post", "layers.2.resid_post"]
    same(without.logits, model.run(TOKENS, start_at=(2, clean["layers.0.resid_post"])).logits)
    swapped = model.run(TOKENS, "layers.*.resid_*", layers=[1, 0, 2])
    same(
        swapped["layers.1.resid_pre"], model.run(TOKENS, "layers.0.resid_pre")["layers.0.resid_pre"]
    )
    same(swapped["layers.0.resid_pre"], swapped["layers.1.resid_post"])
    same(model.run(TOKENS, layers=[0, 1, 2]).logits, clean.logits)


# Edits


def by_function(model: Model, edit: Any) -> Callable[[Any, At], Any]:
    """What a data form does, as a function of the values."""

    def change(values: NDArray[Any], at: At) -> None:
        rows = np.isin(at.positions, np.arange(11) if edit.positions is None else edit.positions)
        each = np.flatnonzero(rows)
        heads = slice(None) if edit.heads is None else edit.heads
        index: Any = (each, heads) if values.ndim == 3 else (each,)
        match edit:
            case Zero():
                values[index] = 0
            case Scale():
                values[index] = values[index] * np.float32(edit.by)
            case Add():
                values[index] = values[index] + np.asarray(edit.vector, np.float32)
            case Replace():
                values[index] = np.asarray(edit.values, np.float32)
            case Mean():
                mean = np.asarray(edit.mean, np.float32)
                values[index] = mean[heads] if values.ndim == 3 else mean

    return change


EDITS = [
    Zero("layers.1.resid_pre"),
    Zero("layers.1.z", heads=1),
    Zero("layers.0.mlp_post", positions=[2, 5]),
    Scale("layers.1.attn_out", 2.5),
    Scale("layers.0.k", -1, heads=0),
    Add("layers.1.resid_post", np.linspace(-1, 1, HIDDEN)),
    Add("layers.0.v", np.ones(DIM), heads=1, positions=-2 % 11),
    Add("final_norm", 0.25),
    Replace("layers.2.q", np.full((HEADS, DIM), 0.5)),
    Replace("embed", RANDOM.normal(size=(2, HIDDEN)), positions=[0, 4]),
    Replace("layers.0.mlp_out", RANDOM.normal(size=(11, HIDDEN))),
    Mean("layers.1.z", RANDOM.normal(size=(HEADS, DIM)), heads=0),
    Mean("layers.1.mlp_norm", RANDOM.normal(size=HIDDEN)),
    Zero("layers.1.pattern", heads=1),
    Scale("layers.2.pattern", 0.5),
    Replace("layers.0.scores", -1e30, positions=[3]),
]


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_a_data_form_is_what_a_function_does(files: Callable[..., Model], number: int) -> None:
    edit = EDITS[number]
    for model in (files(), files(use_parallel_residual=False), files("q8")):
        point = str(edit.point)
        if point.endswith("scores"):
            # Keys that are not seen stay so.
            edit = Scale(point, 3.0, heads=1)
        names = [point, "layers.*.resid_post"]
        found = model.run(TOKENS, names, edits=edit)
        most = 1e-5 if model.formats["head"] == "f32" else 0.02
        is_map = point.endswith(("pattern", "scores"))
        if is_map:
            heads = slice(None) if edit.heads is None else edit.heads

            def change(values: Any, at: At, edit: Any = edit, heads: Any = heads) -> None:
                match edit:
                    case Zero():
                        values[:, heads] = 0
                    case Scale():
                        values[:, heads] *= edit.by
                    case Add():
                        values[:, heads] += edit.vector

            expected = model.run(TOKENS, names, edits=[(point, change)])
        else:
            expected = model.run(TOKENS, names, edits=[(point, by_function(model, edit))])
        clean = model.run(TOKENS, names)
        for name in names[:1] if is_map else found:
            ours, theirs = found[name], expected[name]
            finite = np.isfinite(theirs)
            same(np.isfinite(ours), finite)
            close(np.where(finite, ours, 0), np.where(finite, theirs, 0), most)
        close(found.logits, expected.logits, most)
        assert np.abs(found.logits - clean.logits).max() > 1e-4


def test_edits_come_in_their_order_and_their_values_are_captured(model: Model) -> None:
    point = "layers.1.resid_post"
    clean = model.run(TOKENS, point)[point]
    edits = [Add(point, 1.0), Scale(point, 2.0), (point, lambda values, at: values - 3)]
    close(model.run(TOKENS, point, edits=edits)[point], (clean + 1) * 2 - 3)


def test_a_function_is_told_where_it_is(model: Model) -> None:
    seen: list[At] = []

    def look(values: Any, at: At) -> None:
        assert values.shape == (len(at.positions), HEADS, DIM)
        seen.append(at)

    run = model.run(TEXTS, edits=[("layers.2.rot_k", look)])
    for found, text in zip(run.logits, TEXTS, strict=True):
        same(found, model.logits(text))  # to look changes no bit
    for number, text in enumerate(TEXTS):
        of_text = [at for at in seen if at.text == number]
        same(np.concatenate([at.positions for at in of_text]), np.arange(len(text)))
        assert {(at.name, at.layer) for at in of_text} == {("rot_k", 2)}


def test_edits_in_the_checkpoint_s_basis(files: Callable[..., Model]) -> None:
    """A quantised file is balanced, and its values and edits are those of the checkpoint."""
    plain, balanced = files(), files("q8")
    for point in ("layers.1.k", "layers.1.v", "layers.1.z", "layers.0.q", "layers.2.attn_norm"):
        clean = plain.run(TOKENS, point)[point]
        close(balanced.run(TOKENS, point)[point], clean, 0.05)
        values = np.roll(clean, 1, axis=0)
        ours = balanced.run(TOKENS, point, edits=Replace(point, values))
        close(ours[point], values)
        theirs = plain.run(TOKENS, edits=Replace(point, values))
        close(ours.logits, theirs.logits, 0.05)


# In what is written


def test_edits_while_writing(model: Model) -> None:
    """Every token is the one that a run with the edits finds likeliest."""
    edit = Add("layers.1.resid_post", np.linspace(-9, 9, HIDDEN))
    prompts = [TOKENS, TOKENS[:4]]
    texts = model.generate(prompts, edits=[edit], max_new_tokens=6, temperature=0)
    plain = model.generate(prompts, max_new_tokens=6, temperature=0)
    assert [text.tokens for text in texts] != [text.tokens for text in plain]
    for prompt, text in zip(prompts, texts, strict=True):
        ids = np.concatenate([prompt, np.array(text.tokens, np.int32)])
        logits = model.run(ids[:-1], edits=edit).logits
        same(logits[len(prompt) - 1 :].argmax(axis=1), text.tokens)


def test_no_prefix_is_shared_with_a_text_of_other_edits(model: Model) -> None:
    prompt = np.tile(TOKENS, 30)[:300]
    edits = [Add("layers.0.resid_post", np.linspace(-9, 9, HIDDEN))]
    alone = model.generate(prompt, max_new_tokens=5, temperature=0, edits=edits)
    plain = model.generate(prompt, max_new_tokens=5, temperature=0)
    with Engine(model) as engine:
        for request, expected in ((None, plain), (edits, alone), (None, plain), (edits, alone)):
            handle = engine.submit(
                Request(prompt, edits=request or ()), max_new_tokens=5, temperature=0
            )
            assert handle.result().tokens == expected.tokens
    assert alone.tokens != plain.tokens


def test_a_function_that_raises_while_writing_ends_the_text(model: Model) -> None:
    def fail(values: Any, at: At) -> None:
        if at.positions[-1] >= 12:
            raise LookupError("far enough")

    with pytest.raises(LookupError, match="far enough"):
        model.generate(TOKENS, edits=[("layers.0.z", fail)], max_new_tokens=9)


# What cannot be


@pytest.mark.parametrize(("arguments", "sentence"), [
    ({"capture": "layers.9.z"}, "no layer 9"),
    ({"capture": "layers.1.resid_mid"}, "attention and the MLP both read resid_pre"),
    ({"logits": "first"}, "logits must be one of all, last"),
    ({"dtype": "bf16"}, "dtype must be one of f32, f16"),
    ({"logits": "last", "stop_after_layer": 1}, "stops after a layer has no logits"),
    ({"capture": "layers.2.z", "stop_after_layer": 1}, "does not come to layers.2.z: it stops"),
    ({"capture": "final_norm", "stop_after_layer": 1}, "to final_norm: it stops after layer 1"),
    ({"stop_after_layer": 3}, "stop_after_layer names layer 3: there are the layers 0 to 2"),
    ({"stop_after_layer": "1"}, "by whole numbers"),
    ({"start_at": 1}, "start_at must be a tuple"),
    ({"start_at": (1, np.zeros((3, HIDDEN)))}, r"shape \[3, 64\] where a text needs \[11, 64\]"),
    ({"start_at": (2, np.zeros((11, HIDDEN))), "stop_after_layer": 1}, "cannot stop after layer 1"),
    ({"start_at": (2, np.zeros((11, HIDDEN))), "capture": "layers.1.z"}, "it starts at layer 2"),
    ({"start_at": (2, np.zeros((11, HIDDEN))), "capture": "embed"}, "it starts at layer 2"),
    ({"layers": [0, 0]}, "names a layer twice"),
    ({"layers": [0], "stop_after_layer": 0}, "leave out stop_after_layer"),
    ({"layers": [0, 2], "capture": "layers.1.z"}, "it runs the layers 0, 2"),
    ({"positions": 11}, "no position 11 in a text of 11 tokens"),
    ({"positions": [1, 1]}, "named twice"),
    ({"positions": 1.5}, "whole numbers, a slice or a list"),
    ({"edits": "layers.0.z"}, "edits must be a list"),
    ({"edits": [3]}, "an edit is a Zero"),
    ({"edits": [("layers.0.z", 3)]}, "an edit is a Zero"),
    ({"edits": Zero("layers.0.zz")}, "no point 'layers.0.zz'"),
    ({"edits": Zero("layers.0.attn_norm.scale")}, "computed of layers.0.resid_pre, which can"),
    ({"edits": Zero("layers.0.z", heads=2)}, "layers.0.z has 2 heads, and none of number 2"),
    ({"edits": Zero("layers.0.mlp_out", heads=0)}, "layers.0.mlp_out has no heads"),
    ({"edits": Zero("layers.0.mlp_post", neurons=[256])}, "256 neurons, and none of number 256"),
    ({"edits": Zero("layers.0.z", positions=11)}, "11 positions, and none of number 11"),
    ({"edits": Zero("layers.0.z", positions=[1, -10])}, "names one of its positions twice"),
    ({"edits": Add("layers.0.z", np.zeros(7))}, r"shape \[7\] where \[2, 32\] or \[positions, 2"),
    ({"edits": Replace("layers.0.z", np.zeros((4, 2, 32)))}, "values of 4 positions for 11"),
    ({"edits": Mean("layers.0.z", np.zeros((3, 32)))}, r"\[3, 32\] where \[2, 32\] is needed"),
    ({"edits": Scale("layers.0.z", "much")}, "needs numbers, not 'much'"),
    ({"edits": [("layers.0.z", lambda v, at: v[:1])]}, r"returned an array \[1, 2, 32\]"),
    ({"edits": PerText([[]] * 2)}, "edits of 2 texts for 1"),
    ({"edits": Zero("layers.2.z"), "stop_after_layer": 0}, "does not come to layers.2.z"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    model: Model, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        model.run(TOKENS, **arguments)
    assert "\n" not in str(caught.value)


def test_bad_texts_are_refused_before_anything_runs(model: Model) -> None:
    with pytest.raises(ValueError, match="text 2 of 2: token id 500 is not in the vocabulary"):
        model.run([TOKENS, [500]], sink=lambda *_: pytest.fail("something ran"))
    with pytest.raises(ValueError, match="the prompt is empty"):
        model.run([])


def test_what_a_function_raises_comes_out(model: Model) -> None:
    def fail(values: Any, at: At) -> None:
        raise ZeroDivisionError("of mine")

    with pytest.raises(ZeroDivisionError, match="of mine"):
        model.run(TOKENS, edits=[("layers.1.z", fail)])


@pytest.mark.parametrize("edits", [PerText([[]]), [Zero("layers.0.z", positions=-1)], ["z"]])
def test_edits_that_no_text_can_be_written_with(model: Model, edits: Any) -> None:
    with pytest.raises(ValueError):
        model.generate(TOKENS, edits=edits, max_new_tokens=2)


def test_a_file_without_its_basis_names_the_point(
    files: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model.load(files("q8").file.path)
    monkeypatch.setattr(type(model.file), "basis", {})
    with pytest.raises(ValueError, match=r"v of layer 1 .*convert its source again"):
        model.run(TOKENS, "layers.1.v")
    assert model.run(TOKENS, "layers.1.resid_post")["layers.1.resid_post"].shape == (11, HIDDEN)
