"""What is made of runs is what slow and plain numpy makes of transformers' values."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import families
import numpy as np
import pytest
import torch
import transformers
from checkpoints import make_config, write_checkpoint
from hooked import seen
from numpy.typing import NDArray

from pythia_rt import Model
from pythia_rt.convert import convert
from pythia_rt.insides import (
    PerText,
    Replace,
    Zero,
    ablate_grid,
    divergence,
    head_scores,
    hidden_states,
    logit_attribution,
    logit_lens,
    moments,
    patch_grid,
    token_stats,
)
from pythia_rt.insides.weights import Weights

MOST = 1e-4  # largest difference, as a part of the largest magnitude
CONFIGS: dict[str, dict[str, Any]] = {
    "parallel": {"heads": 3, "head_dim": 16},
    "sequential": {"heads": 3, "head_dim": 16, "use_parallel_residual": False},
}
RANDOM = np.random.default_rng(8)
TOKENS = np.concatenate([RANDOM.integers(0, 128, 9), RANDOM.integers(0, 128, 30)]).astype(np.int32)
TEXTS = [TOKENS, TOKENS[5:17], np.tile(TOKENS[:8], 3)]


class Made(NamedTuple):
    ours: Model
    theirs: Any

    def seen(self, tokens: NDArray[np.int32]) -> dict[str, NDArray[np.float32]]:
        return seen(self.theirs, tokens, self.ours.spec)


@pytest.fixture(scope="module", params=CONFIGS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("helpers")
    write_checkpoint(folder / "source", make_config(**CONFIGS[request.param]), seed=3)
    path = convert(folder / "source", folder / "f32", format="f32")
    maker: Any = transformers.AutoModelForCausalLM
    theirs = maker.from_pretrained(
        folder / "source", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    return Made(Model.load(path, threads=2), theirs)


def close(found: Any, expected: Any, most: float = MOST) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= most * np.abs(expected).max()


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@torch.inference_mode()
def test_hidden_states_are_those_of_transformers(made: Made) -> None:
    found = hidden_states(made.ours, TEXTS)
    for text, ours in zip(TEXTS, found, strict=True):
        ids = torch.from_numpy(text.astype(np.int64))[None]
        theirs = made.theirs(ids, output_hidden_states=True).hidden_states
        close(ours, np.stack([state[0].numpy() for state in theirs]))
    np.testing.assert_array_equal(hidden_states(made.ours, TOKENS), found[0])
    np.testing.assert_array_equal(
        hidden_states(made.ours, TEXTS, positions=[-1])[1], found[1][:, -1:]
    )


@torch.inference_mode()
def test_the_lens_is_norm_and_head_of_every_layer(made: Made) -> None:
    found = logit_lens(made.ours, TEXTS[:2], positions=[0, -1])
    for text, ours in zip(TEXTS, found, strict=False):
        states = made.seen(text)
        last: list[NDArray[np.float32]] = []
        made.theirs.gpt_neox.final_layer_norm.register_forward_pre_hook(
            lambda _, given, last=last: last.append(given[0][0].numpy())
        )
        made.theirs(torch.from_numpy(text.astype(np.int64))[None])
        made.theirs.gpt_neox.final_layer_norm._forward_pre_hooks.clear()
        streams = [states["layers.0.resid_post"], last[0]]
        for layer, stream in enumerate(streams):
            rows = torch.from_numpy(stream[[0, -1]].copy())
            expected = made.theirs.lm_head(made.theirs.gpt_neox.final_layer_norm(rows))
            close(ours[layer], expected.numpy())
    np.testing.assert_array_equal(
        logit_lens(made.ours, TOKENS, layers=[-1])[0], made.ours.logits(TOKENS)
    )


@pytest.mark.parametrize("by", ["component", "layer", "head"])
def test_what_is_attributed_sums_to_the_logits(made: Made, by: str) -> None:
    right, wrong = [3, 7, 9], [5, 1, 2]
    whole = logit_attribution(made.ours, TEXTS, right, wrong, by=by)
    single = logit_attribution(made.ours, TEXTS[1], 7, by=by, position=4)
    assert len(set(whole.labels)) == len(whole.labels) == whole.values.shape[1]
    for text, total, a, b in zip(TEXTS, whole.total, right, wrong, strict=True):
        logits = made.seen(text)["logits"]
        assert abs(total - (logits[-1, a] - logits[-1, b])) <= MOST * np.abs(logits).max()
    logits = made.seen(TEXTS[1])["logits"]
    assert abs(single.total - logits[4, 7]) <= MOST * np.abs(logits).max()


def test_each_part_is_attributed_what_it_adds(made: Made) -> None:
    """With the scale of the whole stream, in double precision, of transformers' weights."""
    text, theirs = TEXTS[0], made.theirs
    found = logit_attribution(made.ours, text, 3, 5, by="head")
    states = {name: values.astype(np.float64) for name, values in made.seen(text).items()}
    weights = {n: p.detach().double().numpy() for n, p in theirs.named_parameters()}
    head = weights["lm_head.weight"]
    direction = head[3] - head[5]
    gain = weights["gpt_neox.final_layer_norm.weight"]
    parts = {"embed": states["layers.0.resid_pre"][-1]}
    for layer in range(2):
        out = weights[f"gpt_neox.layers.{layer}.attention.dense.weight"].reshape(48, 3, 16)
        z = states[f"layers.{layer}.z"][-1].reshape(3, 16)
        for n in range(3):
            parts[f"{layer}_head_{n}"] = out[:, n] @ z[n]
        parts[f"{layer}_attn_bias"] = weights[f"gpt_neox.layers.{layer}.attention.dense.bias"]
        parts[f"{layer}_mlp_out"] = states[f"layers.{layer}.mlp_out"][-1]
    stream = np.sum(list(parts.values()), axis=0)
    scale = np.sqrt(stream.var() + 1e-5)
    for label, part in parts.items():
        expected = ((part - part.mean()) / scale * gain) @ direction
        value = found.values[found.labels.index(label)]
        assert abs(value - expected) <= MOST * np.abs(found.values).max(), label
    assert found.heads(3).shape == (2, 3)


@pytest.mark.parametrize("name", ["GPT-J", "Phi"])
def test_parts_sum_to_the_logits_of_a_rounded_head(tmp_path: Path, name: str) -> None:
    """Whose bias has what balancing moved into it, by weights that are rounded since."""
    folder = families.save(families.make_model(name, 0), tmp_path / "source", 0)
    path = convert(folder, tmp_path / "q4", format="f32", head="q4")
    model, text = Model.load(path, kv_format="f32"), families.tokens_of(name, 0)[:20]
    totals = [float(logit_attribution(model, text, token).total) for token in range(families.VOCAB)]
    _, bias = Weights(model.file).matrix("head")
    moved = np.square(bias - model.weight("head.bias")).mean()
    assert np.square(totals - model.logits(text)[-1]).mean() < 0.2 * moved


def targets(kind: str, tokens: list[int], query: int) -> list[int]:
    match kind:
        case "previous":
            return [query - 1] if query else []
        case "duplicate":
            return [key for key in range(query) if tokens[key] == tokens[query]]
        case _:  # behind an earlier one
            return [key + 1 for key in range(query) if tokens[key] == tokens[query]]


@pytest.mark.parametrize("kind", ["previous", "duplicate", "induction"])
def test_head_scores_are_means_of_the_pattern(made: Made, kind: str) -> None:
    found = head_scores(made.ours, TEXTS, kind)
    for layer in range(2):
        masses = []
        for text in TEXTS:
            pattern = made.seen(text)[f"layers.{layer}.pattern"]
            for query in range(len(text)):
                keys = targets(kind, text.tolist(), query)
                if keys:
                    masses.append(pattern[:, query, keys].sum(axis=1))
        close(found[layer], np.mean(masses, axis=0))


def test_a_score_of_no_tokens_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="no token of these texts has a key that a duplicate head"):
        head_scores(made.ours, [1, 2, 3], "duplicate")
    with pytest.raises(ValueError, match="kind must be one of previous, duplicate, induction"):
        head_scores(made.ours, [1, 2, 3], "copying")


def test_token_stats_are_those_of_the_logits(made: Made) -> None:
    for found, text in zip(token_stats(made.ours, TEXTS), TEXTS, strict=True):
        logits = made.seen(text)["logits"][:-1]
        logs = log_softmax(logits)
        own = logs[np.arange(len(logs)), text[1:]]
        assert np.abs(found.logprob - own).max() <= MOST * np.abs(own).max()
        close(found.entropy, -(np.exp(logs) * logs).sum(axis=1))
        np.testing.assert_array_equal(found.top1, logits.argmax(axis=1))
        np.testing.assert_array_equal(found.rank, (logs > own[:, None]).sum(axis=1))
        np.testing.assert_array_equal(found.tokens, text[1:])
    assert len(token_stats(made.ours, [5]).rank) == 0


@pytest.mark.parametrize(("window", "stride"), [(600, None), (300, 100), (512, 512)])
def test_long_texts_are_read_in_windows_of_score(
    made: Made, window: int, stride: int | None
) -> None:
    text = np.random.default_rng(2).integers(0, 128, 1300, np.int32)
    window = min(window, made.ours.max_positions)
    found = token_stats(made.ours, text, window=window, stride=stride)
    (score,) = made.ours.score([text], window=window, stride=stride)
    assert len(found.rank) == 1299
    np.testing.assert_array_equal(found.logprob, score.log_probabilities)
    np.testing.assert_array_equal(found.rank == 0, score.is_likeliest)


def kl(p: NDArray[Any], q: NDArray[Any]) -> NDArray[Any]:
    total: NDArray[Any] = (np.exp(p) * (p - q)).sum(axis=1)
    return total


def test_divergences_from_arrays_functions_and_models(made: Made, tmp_path: Path) -> None:
    other = copy.deepcopy(made.theirs)
    with torch.no_grad():
        for values in other.parameters():
            values.mul_(1.05)
    other.save_pretrained(tmp_path / "other")
    second = Model.load(convert(tmp_path / "other", tmp_path / "f32", format="f32"), threads=2)
    size = 100
    spread = np.random.default_rng(1).normal(size=128).astype(np.float32)
    of_texts = [second.logits(text)[:-1] for text in TEXTS]
    by_model = divergence(made.ours, TEXTS, second, vocabulary=size)
    by_arrays = divergence(made.ours, TEXTS, of_texts, vocabulary=size)
    by_function = divergence(
        made.ours, TEXTS, lambda ids, at: second.logits(ids)[at], vocabulary=size
    )
    by_one = divergence(made.ours, TEXTS, spread, vocabulary=size)
    for number, text in enumerate(TEXTS):
        p = log_softmax(made.seen(text)["logits"][:-1, :size])
        for found, theirs in (
            (by_model[number], of_texts[number]),
            (by_arrays[number], of_texts[number]),
            (by_function[number], of_texts[number]),
            (by_one[number], np.broadcast_to(spread, (len(p), 128))),
        ):
            q = log_softmax(theirs[:, :size])
            middle = np.log((np.exp(p) + np.exp(q)) / 2)
            assert np.abs(found.kl - kl(p, q)).max() < 1e-5
            assert np.abs(found.reverse_kl - kl(q, p)).max() < 1e-5
            assert np.abs(found.js - (kl(p, middle) + kl(q, middle)) / 2).max() < 1e-5
    same = divergence(made.ours, TOKENS, made.ours)
    assert not same.kl.any() and not same.reverse_kl.any() and same.js.max() < 1e-14


@pytest.mark.parametrize(("other", "sentence"), [
    (np.zeros(99), r"the shape \[1, 99\] where \[n, 128\] is needed"),
    (np.zeros((3, 128)), "3 distributions for a text of 39 tokens: 38 are needed"),
    (lambda ids, at: np.zeros((1, 128)), r"\[1, 128\] where"),
])  # fmt: skip
def test_distributions_that_do_not_fit_are_refused(made: Made, other: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        divergence(made.ours, TOKENS, other)


@pytest.mark.parametrize("point", ["layers.1.resid_pre", "layers.0.z", "layers.1.mlp_post"])
def test_moments_are_those_of_all_tokens(made: Made, point: str) -> None:
    many = [*TEXTS, *(np.roll(TOKENS, i) for i in range(40))]  # more than go together
    found = moments(made.ours, many, point)
    rows = np.concatenate(made.ours.run(many, point, logits=None)[point]).astype(np.float64)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=0, atol=1e-9)
    flat = rows.reshape(len(rows), -1)
    np.testing.assert_allclose(found.covariance, np.cov(flat.T), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.second, flat.T @ flat / len(flat), rtol=0, atol=1e-9)
    parts = moments(made.ours, many[:9], point) + moments(made.ours, many[9:], point)
    np.testing.assert_allclose(parts.scatter, found.scatter, rtol=0, atol=1e-6)


def test_what_has_no_moments_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="pattern has no moments"):
        moments(made.ours, TEXTS, "layers.0.pattern")
    with pytest.raises(ValueError, match="do not add up"):
        moments(made.ours, TOKENS, "layers.0.z") + moments(made.ours, TOKENS, "layers.0.mlp_post")


CLEAN = [RANDOM.integers(0, 128, 7, np.int32) for _ in range(3)]
CORRUPT = [np.where(np.arange(7) == 3, 11, text).astype(np.int32) for text in CLEAN]
METRIC = lambda logits: logits[:, 5] - logits[:, 9]  # noqa: E731


def one_by_one(made: Made, edits: list[list[Any]]) -> NDArray[Any]:
    """The metric of the corrupted prompts, each run alone from its beginning."""
    logits = [
        made.ours.run(text, edits=edit, logits="last").logits
        for text, edit in zip(CORRUPT, edits, strict=True)
    ]
    found: NDArray[Any] = METRIC(np.concatenate(logits))
    return found


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out"])
def test_a_grid_by_position_is_that_of_single_runs(made: Made, kind: str) -> None:
    found = patch_grid(made.ours, CLEAN, CORRUPT, METRIC, kind)
    assert found.shape == (2, 7, 3)
    for layer in range(2):
        name = (kind, layer)
        clean = [made.ours.run(text, name)[name] for text in CLEAN]
        for at in range(7):
            edits: list[list[Any]] = [[Replace(name, text[at], positions=at)] for text in clean]
            np.testing.assert_array_equal(found[layer, at], one_by_one(made, edits))


def putting(kind: str, head: int, clean: NDArray[np.float32]) -> Any:
    """A function that puts in a head's clean values."""

    def put(values: Any, at: Any) -> None:
        values[:, head] = clean[head] if kind == "pattern" else clean[:, head]

    return put


@pytest.mark.parametrize("kind", ["z", "q", "k", "v", "pattern"])
def test_a_grid_by_head_is_that_of_single_runs(made: Made, kind: str) -> None:
    found = patch_grid(made.ours, CLEAN, CORRUPT, METRIC, kind, layers=[1])
    assert found.shape == (1, 3, 3)
    name = (kind, 1)
    clean = [made.ours.run(text, name)[name] for text in CLEAN]
    for head in range(3):
        edits: list[list[Any]] = [[(name, putting(kind, head, text))] for text in clean]
        close(found[0, head], one_by_one(made, edits), 1e-5)


def test_a_grid_says_what_transformers_says(made: Made) -> None:
    found = patch_grid(made.ours, CLEAN, CORRUPT, METRIC, "z")
    for layer in range(2):
        dense = made.theirs.gpt_neox.layers[layer].attention.dense
        for head in range(3):
            for i in range(3):
                z = made.seen(CLEAN[i])[f"layers.{layer}.z"].reshape(7, 3, 16)

                def put(_: Any, given: Any, z: Any = z, head: int = head) -> Any:
                    values = given[0].clone()
                    values[0, :, head * 16 : head * 16 + 16] = torch.from_numpy(z[:, head])
                    return (values,)

                handle = dense.register_forward_pre_hook(put)
                logits = made.seen(CORRUPT[i])["logits"]
                handle.remove()
                expected = logits[-1, 5] - logits[-1, 9]
                most = MOST * np.abs(logits).max()
                assert abs(found[layer, head, i] - expected) <= most


@pytest.mark.parametrize("by", ["zero", "mean"])
@pytest.mark.parametrize("kind", ["heads", "layers", "mlps"])
def test_ablations_are_those_of_single_runs(made: Made, kind: str, by: str) -> None:
    found = ablate_grid(made.ours, CORRUPT, METRIC, kind, by=by)
    points = {"heads": ["z"], "layers": ["attn_out", "mlp_out"], "mlps": ["mlp_out"]}[kind]
    for layer in range(2):
        means = {p: moments(made.ours, CORRUPT, (p, layer)).mean for p in points}
        for head in range(3) if kind == "heads" else [None]:
            heads = {} if head is None else {"heads": head}
            edits = [
                Zero((p, layer), **heads)
                if by == "zero"
                else Replace((p, layer), means[p].astype(np.float32), **heads)
                for p in points
            ]
            expected = one_by_one(made, [edits] * 3)
            at = (layer,) if head is None else (layer, head)
            close(found[at], expected, 1e-5)


def test_a_metric_may_give_a_number(made: Made) -> None:
    found = patch_grid(made.ours, CLEAN, CORRUPT, lambda logits: METRIC(logits).mean(), "z")
    assert found.shape == (2, 3)


@pytest.mark.parametrize(("given", "sentence"), [
    ((CLEAN, CORRUPT[:2], METRIC, "z"), "as many tokens as each other"),
    ((CLEAN, CORRUPT, METRIC, "heads"), "kind must be one of resid_pre, "),
    (([CLEAN[0], TOKENS], [CLEAN[0], TOKENS], METRIC, "resid_pre"), "by position all prompts"),
])  # fmt: skip
def test_grids_that_cannot_be_are_refused(made: Made, given: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        patch_grid(made.ours, *given)


def test_edits_of_each_text(made: Made) -> None:
    edits = PerText([Zero("layers.0.z"), [], Zero("layers.1.mlp_out")])
    found = made.ours.run(CLEAN, edits=edits).logits
    for text, edit, logits in zip(CLEAN, edits.edits, found, strict=True):
        np.testing.assert_array_equal(made.ours.run(text, edits=edit).logits, logits)
