"""What a probe sees of a pass is what transformers computes there, and seeing it changes no bit.

What a probe puts in its place is what the rest of the model goes on with, as a plain model in
double precision says (oracle/decoder.py).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import make_config, write_checkpoint
from models import contents
from numpy.typing import NDArray
from oracle import decoder as oracle
from probing import (
    LENGTHS,
    Floats,
    Place,
    assert_same,
    load,
    places_of,
    replacing,
    run,
    sessions_of,
    tokens_of,
)

from pythia_rt import _core
from pythia_rt.convert import FlatFile, convert

MOST = 1e-4  # largest difference, as a part of the largest magnitude
CONFIGS: dict[str, dict[str, Any]] = {
    "parallel": {},
    "sequential": {"use_parallel_residual": False},
    "all rotated, tanh": {"rotary_pct": 1.0, "hidden_act": "gelu_fast", "heads": 3},
    "odd sizes": {"heads": 5, "head_dim": 8, "rotary_pct": 0.5, "intermediate_size": 150},
    "odd sizes, sequential": {
        "heads": 3, "head_dim": 20, "rotary_pct": 0.2, "intermediate_size": 77,
        "use_parallel_residual": False,
    },
    "no bias in attention": {"attention_bias": False},
}  # fmt: skip


def assert_close(found: Floats, expected: NDArray[Any], what: object) -> None:
    assert found.shape == expected.shape, what
    assert np.abs(found - expected).max() <= MOST * np.abs(expected).max(), what


@torch.inference_mode()
def of_transformers(
    folder: Path, tokens: NDArray[np.int32], rotary_dim: int
) -> dict[Place, Floats]:
    """Return what is at every place of transformers' model, of one sequence."""
    maker: Any = transformers.AutoModelForCausalLM
    theirs = maker.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    config = theirs.config
    heads, n_tokens = config.num_attention_heads, len(tokens)
    head_dim = config.hidden_size // heads
    seen: dict[Place, Floats] = {}

    def keep(place: Place, value: Any) -> None:
        value = value[0] if isinstance(value, tuple) else value
        seen[place] = value.reshape(n_tokens, -1).numpy().copy()

    def keep_input(place: Place, module: Any) -> None:
        module.register_forward_pre_hook(lambda _, inputs: keep(place, inputs))

    def keep_output(place: Place, module: Any) -> None:
        module.register_forward_hook(lambda _, inputs, output: keep(place, output))

    keep_output(("embed", -1), theirs.gpt_neox.embed_in)
    keep_output(("final_norm", -1), theirs.gpt_neox.final_layer_norm)
    for i, layer in enumerate(theirs.gpt_neox.layers):
        keep_input(("resid_pre", i), layer)
        keep_output(("attn_norm", i), layer.input_layernorm)
        keep_output(("qkv", i), layer.attention.query_key_value)
        keep_input(("z", i), layer.attention.dense)
        keep_output(("attn_out", i), layer.attention.dense)
        keep_input(("resid_mid", i), layer.post_attention_layernorm)
        keep_output(("mlp_norm", i), layer.post_attention_layernorm)
        keep_output(("mlp_pre", i), layer.mlp.dense_h_to_4h)
        keep_input(("mlp_post", i), layer.mlp.dense_4h_to_h)
        keep_output(("mlp_out", i), layer.mlp.dense_4h_to_h)
        keep_output(("resid_post", i), layer)

    modeling = transformers.models.gpt_neox.modeling_gpt_neox
    apply, turned = modeling.apply_rotary_pos_emb, []

    def rotate(*arguments: Any, **options: Any) -> Any:
        turned.append(apply(*arguments, **options))
        return turned[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "apply_rotary_pos_emb", rotate)
        theirs(torch.from_numpy(tokens.astype(np.int64))[None])
    for i, layer in enumerate(theirs.gpt_neox.layers):
        split = seen.pop(("qkv", i)).reshape(n_tokens, heads, 3, head_dim)
        for j, name in enumerate(("q", "k", "v")):
            seen[name, i] = split[:, :, j].reshape(n_tokens, -1)
        for name, value in zip(("rot_q", "rot_k"), turned[i], strict=True):
            keep((name, i), value[0].transpose(0, 1))
        bias = layer.attention.query_key_value.bias
        if bias is None:
            continue
        # What the runtime leaves out of the keys (points.inc).
        constant = bias.numpy().reshape(heads, 3, head_dim)[:, 1].copy()
        constant[:, :rotary_dim] = 0
        for name in ("k", "rot_k"):
            seen[name, i] -= constant.reshape(-1)
    return seen


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """A function from a name of CONFIGS and a recipe to a checkpoint's folder and its flat file."""

    @functools.cache
    def make(name: str, recipe: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("probes")
        write_checkpoint(folder / "checkpoint", make_config(**CONFIGS[name]), seed=5)
        return folder / "checkpoint", convert(folder / "checkpoint", folder / recipe, format=recipe)

    return make


def assert_as_transformers(folder: Path, path: Path) -> None:
    model = load(_core, path)
    tokens = tokens_of(model.spec["n_tokens"])
    places = places_of(model)
    _, captured = run(_core, model, tokens, capture=places)
    expected = [of_transformers(folder, sequence, model.spec["rotary_dim"]) for sequence in tokens]
    for place, values in zip(places, captured, strict=True):
        assert_close(values, np.concatenate([seen[place] for seen in expected]), place)
    # What transformers has besides: the MLP's input is no residual of its own in parallel models.
    assert {name for name, _ in set(expected[0]) - set(places)} <= {"resid_mid"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_point_is_that_of_transformers(
    made: Callable[[str, str], tuple[Path, Path]], name: str
) -> None:
    assert_as_transformers(*made(name, "f32"))


def test_the_demo_model_point_by_point(demo_folder: Path, demo_file: Callable[[str], Path]) -> None:
    assert_as_transformers(demo_folder, demo_file("f32"))


def assert_unchanged(module: Any, model: Any, kv_format: str, reference: list[Floats]) -> None:
    """To look changes no bit, nor does to put back what was there; and it is what the reference is.

    `reference` are the scalar backend's logits and captured values.
    """
    tokens = tokens_of(model.spec["n_tokens"])
    n = sum(LENGTHS)
    places = places_of(model)
    sessions = sessions_of(module, model, len(tokens), kv_format)
    assert_same(np.concatenate(module.forward(sessions, tokens)), reference[0])
    logits, captured = run(module, model, tokens, kv_format, capture=places)
    assert_same(logits, reference[0])
    for found, expected in zip(captured, reference[1:], strict=True):
        assert_same(found, expected)
    for place, values in zip(places, captured, strict=True):
        one, (seen,) = run(module, model, tokens, kv_format, capture=[place])
        assert_same(one, reference[0])
        assert_same(seen, values)
    back = [
        (*place, list(range(n)), values) for place, values in zip(places, captured, strict=True)
    ]
    for replaced in (*([one] for one in back), back):
        edits = replacing(module, model, replaced, LENGTHS)
        assert_same(run(module, model, tokens, kv_format, edits=edits)[0], reference[0])


def of_scalar(path: Path, kv_format: str, monkeypatch: pytest.MonkeyPatch) -> list[Floats]:
    with monkeypatch.context() as patch:
        patch.setenv("PYTHIA_RT_ISA", "scalar")
        model = load(_core, path)
    tokens = tokens_of(model.spec["n_tokens"])
    logits, captured = run(_core, model, tokens, kv_format, capture=places_of(model))
    return [logits, *captured]


@pytest.mark.parametrize(("name", "recipe", "kv"), [
    ("parallel", "q4", "f16"), ("odd sizes, sequential", "q8", "q8"), ("odd sizes", "f32", "f32"),
])  # fmt: skip
def test_a_probe_changes_no_bit(
    made: Callable[[str, str], tuple[Path, Path]], isa: str, name: str, recipe: str, kv: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = made(name, recipe)[1]
    reference = of_scalar(path, kv, monkeypatch)
    assert_unchanged(_core, load(_core, path), kv, reference)


@pytest.mark.parametrize("gpu_layers", [1, 2])
@pytest.mark.parametrize("name", ["parallel", "odd sizes, sequential"])
def test_a_probe_on_a_device_changes_no_bit(
    made: Callable[[str, str], tuple[Path, Path]], name: str, gpu_layers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from backends import _emulated

    path = made(name, "q4")[1]
    reference = of_scalar(path, "f16", monkeypatch)
    model = load(_emulated, path, device="cuda", gpu_layers=gpu_layers)
    assert_unchanged(_emulated, model, "f16", reference)


@pytest.mark.parametrize("name", CONFIGS)
def test_replaced_values_are_what_the_rest_of_the_model_goes_on_with(
    made: Callable[[str, str], tuple[Path, Path]], name: str
) -> None:
    """Some tokens of each sequence get other values, at one place at a time and at all of them."""
    path = made(name, "f32")[1]
    spec, weights = FlatFile(path).spec, contents(FlatFile(path))
    model = load(_core, path)
    tokens = tokens_of(spec["vocab_size"], (12, 1, 7))
    places = places_of(model)
    _, clean = run(_core, model, tokens, capture=places)
    numbers = [1, 7, 12, 13, 19]  # of all 20 tokens
    random = np.random.default_rng(1)
    changed = {
        place: values[random.permutation(len(values))[: len(numbers)]]
        for place, values in zip(places, clean, strict=True)
    }
    ends = np.cumsum([0, *map(len, tokens)])

    def compare(chosen: list[Place]) -> None:
        replaced = [(*place, numbers, changed[place]) for place in chosen]
        edits = replacing(_core, model, replaced, [len(text) for text in tokens])
        logits, captured = run(_core, model, tokens, capture=places, edits=edits)
        expected = []
        for start, sequence in itertools.zip_longest(ends[:-1], tokens):

            def at(
                point: str, layer: int, values: oracle.Doubles, start: int = int(start)
            ) -> oracle.Doubles:
                if (point, layer) in chosen:
                    values = values.copy()
                    for number, row in zip(numbers, changed[point, layer], strict=True):
                        if start <= number < start + len(values):
                            values[number - start] = row
                return values

            expected.append(oracle.forward(spec, weights, sequence, at))
        assert_close(logits, np.concatenate(expected), chosen)
        for place, values in zip(places, captured, strict=True):
            if place in chosen:
                assert_same(values[numbers], changed[place])

    compare([])
    for place in places:
        compare([place])
    compare(places)


def test_tokens_that_nobody_asks_about_are_left_alone(
    made: Callable[[str, str], tuple[Path, Path]],
) -> None:
    """A sampled token that waits is run before those that are given; a probe does not see it."""
    model = load(_core, made("parallel", "q4")[1])
    tokens = np.arange(5, 15, dtype=np.int32)
    whole = _core.Session(model)
    place = ("resid_post", 0)
    everything, (all_values,) = _core.run([whole], [tokens], capture=[place])
    session = _core.Session(model)
    session.prefill(tokens[:3])
    session.append(tokens[3:6])
    logits, (values,) = _core.run([session], [tokens[6:]], capture=[place])
    assert_same(values, all_values[6:])
    assert_same(logits[0], everything[0][6:])
    assert session.position == 10
