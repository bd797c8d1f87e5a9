"""Balancing keeps the function, forgets how a checkpoint chose its scales, and saves its digits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import planted
import pytest
from checkpoints import make_config, write_checkpoint
from models import contents
from numpy.typing import NDArray

import pythia_rt
from pythia_rt import _core
from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.evaluation.weights import relative_errors

Model = pythia_rt.Model
Floats = NDArray[np.float32]

TOKENS = np.random.default_rng(0).integers(0, 96, 60, np.int32)
SHAPES: dict[str, dict[str, Any]] = {
    "parallel": {},
    "sequential": {"use_parallel_residual": False},
    "no bias in attention": {"attention_bias": False},
    "tied head": {"tie_word_embeddings": True},
    "all rotated": {"rotary_pct": 1.0},
    "odd sizes": {"heads": 3, "head_dim": 40, "intermediate_size": 150},
}


def balance_only(monkeypatch: pytest.MonkeyPatch, formats: set[str]) -> None:
    """Have conversion balance the matrices in these formats, whatever they are."""
    module = importlib.import_module("pythia_rt.convert.quantise.balancing.rewrites")
    monkeypatch.setattr(module, "is_quantised", formats.__contains__)


def flat(source: Path, monkeypatch: pytest.MonkeyPatch, *, balanced: bool) -> FlatFile:
    """The checkpoint as a flat file in f32, balanced or not."""
    target = source.with_name(f"{source.name} {balanced}")
    with monkeypatch.context() as patched:
        balance_only(patched, {"f32"} if balanced else set())
        return FlatFile(convert(source, target, format="f32"))


def logits(file: FlatFile, tokens: NDArray[np.int32] = TOKENS) -> Floats:
    return Model(file, threads=1, kv_format="f32").logits(tokens)


def dead_channels(
    tensors: planted.Tensors, config: planted.Config, generator: np.random.Generator
) -> None:
    """Gains that are 0 or negative; channels that lead nowhere or come from nowhere."""
    for name, tensor in tensors.items():
        if "norm.weight" in name:
            tensor[::7] = 0
            tensor[3::7] *= -1
        elif "norm.bias" in name:
            tensor[2::5] = 0
        elif "query_key_value" in name:
            tensor[::9] = 0  # rows of queries, keys and values
            if tensor.ndim == 2:
                tensor[:, 5] = 0
        elif "attention.dense.weight" in name:
            tensor[:, 3::8] = 0
        elif "dense_h_to_4h.weight" in name:
            tensor[4::6] = 0


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_function_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, dead: bool
) -> None:
    config = make_config(vocab_size=96, **SHAPES[shape])
    source = write_checkpoint(tmp_path / "source", config, seed=3)
    if dead:
        source = planted.plant(source, tmp_path / "dead", dead_channels)
    plain, balanced = (flat(source, monkeypatch, balanced=b) for b in (False, True))
    rewritten = contents(balanced)
    assert all(np.isfinite(values).all() for values in rewritten.values())
    changed = [n for n, v in contents(plain).items() if not np.array_equal(v, rewritten[n])]
    assert {"layers.0.qkv", "layers.0.attn_out", "layers.1.mlp_up"} <= set(changed)
    assert ("head" in changed) == (shape != "tied head")
    truth = logits(plain)
    assert np.abs(logits(balanced) - truth).max() <= 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_scales_of_the_source_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    config = make_config(vocab_size=96, **SHAPES[shape])
    source = write_checkpoint(tmp_path / "source", config, dtype="float32", seed=5)
    hard = planted.plant(source, tmp_path / "hard", *planted.EVERYTHING)
    one, two = (contents(flat(s, monkeypatch, balanced=True)) for s in (source, hard))
    for name, values in one.items():
        assert np.abs(two[name] - values).max() <= 1e-4 * np.abs(values).max(), name


def test_float_files_are_not_balanced(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", make_config(vocab_size=96))
    file = FlatFile(convert(source, tmp_path / "f16", format="f16", head="q8"))
    exact = FlatFile(convert(source, tmp_path / "f32", format="f16"))
    different = [
        name
        for name in file.tensors
        if file.tensors[name].tobytes() != exact.tensors.get(name, np.zeros(0)).tobytes()
    ]
    assert {name.partition(".")[0] for name in different} == {"final_norm", "head"}


def test_too_large_for_sums_of_squares(tmp_path: Path) -> None:
    """Then the layer stays as it is, for the format to refuse."""

    def enlarge(
        tensors: planted.Tensors, config: planted.Config, generator: np.random.Generator
    ) -> None:
        for name, tensor in tensors.items():
            if "attention" in name:
                tensor *= 1e21

    source = write_checkpoint(tmp_path / "source", make_config(vocab_size=96))
    huge = planted.plant(source, tmp_path / "huge", enlarge)
    with pytest.raises(CheckpointError, match="does not fit the format q8"):
        convert(huge, tmp_path / "file", format="q8")


# A trained model, with everything planted


@pytest.fixture(scope="module")
def hard_demo(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard") / "demo"
    return planted.plant(demo_folder, folder, *planted.EVERYTHING)


@pytest.fixture(scope="module")
def text_tokens(technical_text: str, demo_file: Callable[[str], Path]) -> NDArray[np.int32]:
    """30 windows of 256 tokens, spread over the text."""
    tokenizer = Model.load(demo_file("f32")).tokenizer
    assert tokenizer is not None
    tokens = np.array(tokenizer.encode(technical_text), np.int32)
    windows = tokens[: len(tokens) // 256 * 256].reshape(-1, 256)
    chosen: NDArray[np.int32] = windows[np.linspace(0, len(windows) - 1, 30).astype(int)]
    return chosen.ravel()


def test_planting_keeps_the_function(
    hard_demo: Path, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    tokens = np.random.default_rng(1).integers(0, 4096, 256, np.int32)
    hard = FlatFile(convert(hard_demo, tmp_path / "hard", format="f32"))
    truth = logits(FlatFile(demo_file("f32")), tokens)
    assert np.abs(logits(hard, tokens) - truth).max() <= 1e-4 * np.abs(truth).max()
    norms = [np.abs(values).max() for name, values in contents(hard).items() if "norm" in name]
    assert max(norms) > 100


@pytest.mark.parametrize("recipe", ["q8", "q4"])
def test_planting_costs_nothing(
    recipe: str,
    hard_demo: Path,
    demo_file: Callable[[str], Path],
    text_tokens: NDArray[np.int32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With both caches; a quantiser that does not balance loses the model."""
    reference = Model.load(demo_file("f32"), kv_format="f32")

    def measure(path: Path, kv_format: str) -> tuple[float, float]:
        result = pythia_rt.evaluate(
            Model.load(path, kv_format=kv_format), text_tokens, window=256, reference=reference
        )
        assert result.comparison is not None
        found = result.comparison
        return found.divergence.value, abs(found.perplexity_change.value)

    hard = convert(hard_demo, tmp_path / "hard", format=recipe)
    for kv_format in ("f16", "q8"):
        plain_divergence, plain_change = measure(demo_file(recipe), kv_format)
        divergence, change = measure(hard, kv_format)
        assert divergence <= 1.2 * plain_divergence
        assert change <= max(2 * plain_change, 1e-3)
    balance_only(monkeypatch, set())
    naive = convert(hard_demo, tmp_path / "naive", format=recipe)
    assert measure(naive, "f16")[0] >= 100 * divergence


@pytest.mark.parametrize("recipe", ["q8", "q4"])
def test_weight_errors_are_those_of_the_balanced_weights(
    recipe: str, hard_demo: Path, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    hard = FlatFile(convert(hard_demo, tmp_path / "hard", format=recipe))
    exact = FlatFile(convert(hard_demo, tmp_path / "exact", format="f32"))
    plain = relative_errors(FlatFile(demo_file(recipe)), FlatFile(demo_file("f32")))
    for name, error in relative_errors(hard, exact).items():
        assert error == pytest.approx(plain[name], rel=0.02), name
    # Each of the two against the other's source: the same function has the same weights here.
    for name, error in relative_errors(hard, FlatFile(demo_file("f32"))).items():
        assert error == pytest.approx(plain[name], rel=0.02), name


# Scores far below -1e5


def test_far_scores_are_finite(tmp_path: Path, kv_format: str) -> None:
    far = far_source(tmp_path)
    for recipe in _core.format_names():
        file = convert(far, tmp_path / recipe, format=recipe)
        ours = Model.load(file, threads=1, kv_format=kv_format).logits(TOKENS)
        assert np.isfinite(ours).all(), recipe


def test_far_scores_as_transformers_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    far = far_source(tmp_path)
    maker: Any = transformers.AutoModelForCausalLM
    model = maker.from_pretrained(far, dtype=torch.float32, attn_implementation="eager")
    softmax, least = torch.nn.functional.softmax, []

    def spy(scores: Any, *args: Any, **options: Any) -> Any:
        least.append(float(scores[scores > -1e30].min()))  # without what the mask hides
        return softmax(scores, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "softmax", spy)
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS[None].astype(np.int64))).logits[0].numpy()
    assert min(least) < -1e5
    ours = logits(FlatFile(convert(far, tmp_path / "f32", format="f32")))
    assert np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def far_source(folder: Path) -> Path:
    source = write_checkpoint(folder / "source", make_config(vocab_size=96), seed=2)
    return planted.plant(source, folder / "far", planted.far_scores)
