"""Measures of quality against slow, obvious ones: transformers, and formulas written out."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import pythia_rt
from pythia_rt import Evaluation, Model, evaluate
from pythia_rt.convert import FlatFile
from pythia_rt.evaluation.measures import NotFiniteError, Tally
from pythia_rt.evaluation.weights import relative_errors
from pythia_rt.evaluation.windows import Window, cut
from pythia_rt.model import DEMO_FOLDER

Floats = NDArray[np.float64]

TEXT = (
    "The kernel reads the configuration of the driver, allocates a buffer in memory and returns "
    "an error when the device does not answer. A process that waits for data is put to sleep. "
) * 4


@pytest.fixture(scope="module")
def f32(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("f32"))


@pytest.fixture(scope="module")
def q4(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("q4"))


@pytest.fixture(scope="module")
def tokens(f32: Model) -> NDArray[np.int32]:
    assert f32.tokenizer is not None
    return np.array(f32.tokenizer.encode(TEXT), np.int32)


def log_softmax(logits: NDArray[np.float32]) -> Floats:
    values = logits.astype(np.float64)
    top = values.max(axis=-1, keepdims=True)
    result: Floats = values - top - np.log(np.exp(values - top).sum(axis=-1, keepdims=True))
    return result


# Perplexity


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (64, 24), (32, 1)])
def test_perplexity_as_transformers_has_it(
    f32: Model, tokens: NDArray[np.int32], window: int, stride: int
) -> None:
    """The loop of Hugging Face's guide to perplexity of models with a fixed length."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    tokens = tokens[: 150 if stride > 1 else 50]
    ids = torch.tensor(tokens.astype(np.int64))[None]
    total, count, previous_end = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + window, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        scored = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=labels).loss
        total += float(loss) * scored
        count += scored
        previous_end = end
        if end == ids.shape[1]:
            break
    result = evaluate(f32, tokens, window=window, stride=stride)
    assert result.predicted == count
    assert result.perplexity.value == pytest.approx(math.exp(total / count), rel=1e-5)
    assert result.comparison is None
    assert result.compared == 0


@pytest.mark.parametrize(("window", "stride"), [(40, 40), (40, 39), (40, 13), (40, 1), (2, 1)])
def test_every_number_against_a_slow_loop(
    q4: Model, f32: Model, tokens: NDArray[np.int32], window: int, stride: int
) -> None:
    n = 100
    starts = [s for s in range(0, n, stride) if s == 0 or s - stride + window < n]
    losses, true_losses, divergences, agree = [], [], [], []
    difference = largest = 0.0
    seen = 0
    for start in starts:
        part = tokens[start : min(start + window, n)]
        if len(part) < 2:
            continue
        ours, theirs = q4.logits(part), f32.logits(part)
        log_q, log_p = log_softmax(ours), log_softmax(theirs)
        for i in range(len(part)):
            if i + 1 < len(part) and start + i + 1 >= seen:
                losses.append(-log_q[i, part[i + 1]])
                true_losses.append(-log_p[i, part[i + 1]])
            if start + i >= seen:
                divergences.append((np.exp(log_p[i]) * (log_p[i] - log_q[i])).sum())
                agree.append(ours[i].argmax() == theirs[i].argmax())
                difference = max(difference, float(np.abs(ours[i] - theirs[i]).max()))
                largest = max(largest, float(np.abs(theirs[i]).max()))
        seen = start + len(part)
    result = evaluate(q4, tokens, reference=f32, window=window, stride=stride, max_tokens=n)
    compared = result.comparison
    assert compared is not None
    assert (result.predicted, result.compared) == (len(losses), len(divergences))
    if stride < window:
        assert (result.predicted, result.compared) == (n - 1, n)

    count = len(losses)
    for shown, values in ((result.perplexity, losses), (compared.perplexity, true_losses)):
        assert shown.value == pytest.approx(math.exp(np.mean(values)), rel=1e-9)
        spread = np.std(values, ddof=1) / math.sqrt(count)
        assert shown.error == pytest.approx(math.exp(np.mean(values)) * spread, rel=1e-9)
    change = result.perplexity.value / compared.perplexity.value - 1
    assert compared.perplexity_change.value == pytest.approx(change, rel=1e-9, abs=1e-12)
    paired = np.std(np.subtract(losses, true_losses), ddof=1) / math.sqrt(count)
    assert compared.perplexity_change.error == pytest.approx((1 + change) * paired, rel=1e-9)
    assert compared.divergence.value == pytest.approx(np.mean(divergences), rel=1e-8)
    error = np.std(divergences, ddof=1) / math.sqrt(len(divergences))
    assert compared.divergence.error == pytest.approx(error, rel=1e-8)
    assert compared.divergence_p99 == pytest.approx(np.percentile(divergences, 99), rel=1e-8)
    assert compared.divergence_max == pytest.approx(max(divergences), rel=1e-8)
    assert compared.top1_agreement == pytest.approx(np.mean(agree))
    assert compared.logit_difference == pytest.approx(difference, rel=1e-6)
    assert compared.relative_logit_difference == pytest.approx(difference / largest, rel=1e-6)
    assert result.token_divergences is not None
    assert result.token_divergences == pytest.approx(np.array(divergences), rel=1e-6, abs=1e-12)


def test_pieces_of_a_window_change_nothing(
    q4: Model, f32: Model, tokens: NDArray[np.int32], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(q4, tokens, reference=f32, window=100, stride=70).to_dict()
    monkeypatch.setattr(pythia_rt.evaluation.evaluator, "_PIECE", 7)
    monkeypatch.setattr(pythia_rt.evaluation.measures, "_BLOCK_VALUES", 3 * 4096)
    pieces = evaluate(q4, tokens, reference=f32, window=100, stride=70).to_dict()
    assert pieces == whole


def test_losses_by_place(q4: Model, tokens: NDArray[np.int32]) -> None:
    result = evaluate(q4, tokens[:90], window=40, stride=40)
    assert result.position_losses is not None
    scores = [log_softmax(q4.logits(tokens[s : s + 40])) for s in (0, 40)]
    expected = -(scores[0][3, tokens[4]] + scores[1][3, tokens[44]]) / 2
    third = log_softmax(q4.logits(tokens[80:90]))[3, tokens[84]]
    assert result.position_losses[3] == pytest.approx((2 * expected - third) / 3)
    assert np.isnan(result.position_losses[39])


# What holds of any model


def test_a_model_is_at_no_distance_from_itself(q4: Model, tokens: NDArray[np.int32]) -> None:
    result = evaluate(q4, tokens, reference=q4, window=50, stride=20)
    compared = result.comparison
    assert compared is not None
    assert compared.divergence_max == compared.divergence.value == compared.logit_difference == 0
    assert compared.perplexity_change.value == compared.perplexity_change.error == 0
    assert compared.top1_agreement == 1
    assert compared.perplexity == result.perplexity
    assert set((compared.weight_errors or {}).values()) == {0.0}


def test_one_window_is_one_window(q4: Model, tokens: NDArray[np.int32]) -> None:
    """Where one window holds everything, neither its length nor the stride matters."""
    n = 60
    alone = evaluate(q4, tokens[:n], window=n).perplexity
    for window, stride in ((n, 1), (n + 1, 3), (512, None), (512, 100)):
        assert evaluate(q4, tokens[:n], window=window, stride=stride).perplexity == alone


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 30), st.floats(0, 20), st.integers(2, 40))
def test_divergences_are_never_negative(seed: int, scale: float, noise: float, size: int) -> None:
    random = np.random.default_rng(seed)
    truth = (scale * random.standard_normal((5, size))).astype(np.float32)
    ours = truth + (noise * random.standard_normal((5, size))).astype(np.float32)
    tally = Tally(5)
    tally.add(ours, truth, np.zeros(4, np.int32), 0, 0)
    [divergences] = tally.divergences
    assert (divergences >= 0).all()
    log_p, log_q = log_softmax(truth), log_softmax(ours)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    assert divergences == pytest.approx(expected, rel=1e-6, abs=1e-11)


@settings(max_examples=examples(300))
@given(st.integers(0, 200), st.integers(2, 50), st.integers(1, 50))
def test_windows_cover_every_token_once(n_tokens: int, window: int, stride: int) -> None:
    stride = min(stride, window)
    windows = cut(n_tokens, window, stride)
    new = [i for w in windows for i in range(w.stop - w.new, w.stop)]
    lost = 1 if n_tokens and (n_tokens == 1 or (stride == window and n_tokens % window == 1)) else 0
    assert new == list(range(n_tokens - lost))
    for number, w in enumerate(windows):
        assert w.start == number * stride
        assert 2 <= w.stop - w.start <= window
        assert w.stop - w.start == window or w is windows[-1]
        assert number == 0 or w.stop - w.new - w.start >= window - stride


def test_the_rows_of_a_window() -> None:
    first, second = Window(0, 8, 8), Window(4, 12, 4)
    assert (first.first_row, first.first_new) == (0, 0)
    assert (second.first_row, second.first_new) == (3, 4)


# Weights


@pytest.mark.parametrize("recipe", ["q4", "q8", "bf16", "f16"])
def test_weight_errors(
    recipe: str, demo_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In many small chunks as in one, and as numpy has it from the checkpoint itself."""
    safetensors = pytest.importorskip("safetensors.numpy")
    monkeypatch.setattr(pythia_rt.evaluation.weights, "_CHUNK_VALUES", 48 * 256)
    file, reference = FlatFile(demo_file(recipe)), FlatFile(demo_file("f32"))
    errors = relative_errors(file, reference)
    assert list(errors) == list(file.formats)
    source = safetensors.load_file(DEMO_FOLDER / "model.safetensors")
    truth = source["gpt_neox.layers.3.mlp.dense_4h_to_h.weight"].astype(np.float64)
    parts = [
        file.tensors[f"layers.3.mlp_down.{part}"]
        for part, _, _ in pythia_rt._core.packed_layout(recipe, *truth.shape)
    ]
    ours = pythia_rt._core.unpack(recipe, parts, *truth.shape)
    expected = math.sqrt(((ours - truth) ** 2).sum() / (truth**2).sum())
    assert errors["layers.3.mlp_down"] == pytest.approx(expected, rel=1e-9)
    assert (recipe == "f16") == (max(errors.values()) == 0)  # the checkpoint is in f16


# References of every kind


def test_every_kind_of_reference(
    demo_file: Callable[[str], Path], tokens: NDArray[np.int32], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    file, exact = demo_file("q4"), demo_file("f16")
    given = evaluate(file, tokens, reference=exact)
    assert given.comparison is not None
    assert given.comparison.reference.recipe == "f16"
    assert given.comparison.reference.kv_format == "f32"
    assert given.model.kv_format == "f16"
    assert evaluate(str(file), tokens, reference=str(DEMO_FOLDER)) == given
    assert evaluate(file, list(tokens), reference=Model.load(exact, kv_format="f32")) == given
    assert not list(tmp_path.iterdir())
    cached = evaluate(file, tokens, reference=exact, reference_kv_format="f16")
    assert cached != given
    options = {"kv_format": "f32", "reference_kv_format": "f32", "threads": 1}
    same = evaluate(exact, tokens, reference=DEMO_FOLDER, **options)  # type: ignore[arg-type]
    assert same.comparison is not None
    assert same.comparison.divergence_max == 0
    assert same.comparison.reference.data_sha256 == same.model.data_sha256


def test_without_weights(q4: Model, f32: Model, tokens: NDArray[np.int32]) -> None:
    compared = evaluate(q4, tokens, reference=f32, weights=False).comparison
    assert compared is not None
    assert compared.weight_errors is None


# To JSON and back


def test_round_trip(q4: Model, f32: Model, tokens: NDArray[np.int32]) -> None:
    for result in (
        evaluate(q4, tokens, reference=f32),
        evaluate(q4, tokens[:2], reference=f32, weights=False),
        evaluate(q4, tokens),
    ):
        text = json.dumps(result.to_dict(), allow_nan=False)
        assert Evaluation.from_dict(json.loads(text)) == result
    assert result.tokens == len(tokens)
    about = q4.file.metadata
    assert result.model.data_sha256 == about["data_sha256"]
    assert (result.model.source, result.model.recipe) == ("demo", "q4")
    assert result.model.isa == q4.isa


def test_two_tokens_have_no_error(q4: Model, tokens: NDArray[np.int32]) -> None:
    result = evaluate(q4, tokens[:2])
    assert result.predicted == 1
    assert result.perplexity.error is None


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    """A piece of 256 tokens of Pythia's vocabulary is measured in a fraction of its own size."""
    ours = np.random.default_rng(0).standard_normal((256, 50304), np.float32)
    truth = ours[::-1].copy()
    tracemalloc.start()
    try:
        Tally(256).add(ours, truth, np.zeros(255, np.int32), 0, 0)
        assert tracemalloc.get_traced_memory()[1] < ours.nbytes
    finally:
        tracemalloc.stop()


def test_logits_that_are_not_finite() -> None:
    good = np.zeros((4, 8), np.float32)
    for bad in (np.nan, np.inf):
        spoiled = good.copy()
        spoiled[2, 5] = bad
        for side, pair in enumerate(((spoiled, good), (good, spoiled))):
            with pytest.raises(NotFiniteError) as error:
                Tally(4).add(*pair, np.zeros(3, np.int32), 0, 0)
            assert (error.value.side, error.value.row) == (side, 2)
