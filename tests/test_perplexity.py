"""What quantisation costs on the demo model, a trained one: perplexity and KL divergence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pythia_rt

Model = pythia_rt.Model
Windows = NDArray[np.int32]  # [n, WINDOW] tokens
LogProbabilities = NDArray[np.float32]  # [n, WINDOW, vocabulary]

WINDOW = 256
N_WINDOWS = 60

# Perplexity, against that of f32: at most this part of it away, in either direction.
MOST_PERPLEXITY = {"bf16": 1e-3, "f16": 2e-4, "q8": 5e-4, "q6": 3e-3, "q5": 8e-3, "q4": 8e-3}
# Mean KL divergence from f32, in nats per token.
MOST_DIVERGENCE = {"bf16": 1e-4, "f16": 1e-5, "q8": 2e-4, "q6": 1.6e-3, "q5": 5.5e-3, "q4": 6.1e-3}


@pytest.fixture(scope="module")
def load(demo_file: Callable[[str], Path]) -> Callable[[str], Model]:
    return lambda recipe: Model.load(demo_file(recipe))


@pytest.fixture(scope="module")
def text_windows(technical_text: str, load: Callable[[str], Model]) -> Windows:
    """Windows spread evenly over the whole of the text."""
    tokenizer = load("f32").tokenizer
    assert tokenizer is not None
    tokens = np.array(tokenizer.encode(technical_text), np.int32)
    windows = tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)
    chosen: Windows = windows[np.linspace(0, len(windows) - 1, N_WINDOWS).astype(int)]
    return chosen


@pytest.fixture(scope="module")
def own_windows(load: Callable[[str], Model]) -> Windows:
    """What the model itself writes."""
    model = load("f32")
    written = [
        model.generate([0], max_new_tokens=WINDOW, temperature=1, top_p=1, seed=seed).tokens
        for seed in range(8)
    ]
    windows = np.array([tokens for tokens in written if len(tokens) == WINDOW], np.int32)
    assert len(windows) >= 4
    return windows


@pytest.fixture(scope="module")
def text_reference(text_windows: Windows, load: Callable[[str], Model]) -> LogProbabilities:
    return log_probabilities(load("f32"), text_windows)


@pytest.fixture(scope="module")
def own_reference(own_windows: Windows, load: Callable[[str], Model]) -> LogProbabilities:
    return log_probabilities(load("f32"), own_windows)


def log_probabilities(model: Model, windows: Windows) -> LogProbabilities:
    logits = np.stack([model.logits(window) for window in windows])
    logits -= logits.max(axis=-1, keepdims=True)
    totals = np.exp(logits).sum(axis=-1, keepdims=True, dtype=np.float64)
    logits -= np.log(totals).astype(np.float32)
    return logits


def perplexity(scores: LogProbabilities, windows: Windows) -> float:
    following = np.take_along_axis(scores[:, :-1], windows[:, 1:, None], axis=-1)
    return float(np.exp(-following.mean(dtype=np.float64)))


def divergence(scores: LogProbabilities, reference: LogProbabilities) -> float:
    return float((np.exp(reference) * (reference - scores)).sum(axis=-1, dtype=np.float64).mean())


def test_the_reference_knows_its_language(
    text_reference: LogProbabilities, text_windows: Windows
) -> None:
    """transformers' perplexity of the same windows, in fp32, is 40.1209."""
    assert perplexity(text_reference, text_windows) == pytest.approx(40.1209, rel=1e-4)


@pytest.mark.parametrize("recipe", MOST_PERPLEXITY)
def test_technical_text(
    recipe: str,
    load: Callable[[str], Model],
    text_windows: Windows,
    text_reference: LogProbabilities,
) -> None:
    scores = log_probabilities(load(recipe), text_windows)
    change = perplexity(scores, text_windows) / perplexity(text_reference, text_windows) - 1
    assert abs(change) <= MOST_PERPLEXITY[recipe]
    assert divergence(scores, text_reference) <= MOST_DIVERGENCE[recipe]


# Weight format and the bounds with a q8 cache.
WITH_Q8_CACHE = {"f32": (2.5e-4, 7e-5), "q8": (1e-3, 4e-4)}


@pytest.mark.parametrize("recipe", WITH_Q8_CACHE)
def test_technical_text_with_a_q8_cache(
    recipe: str,
    demo_file: Callable[[str], Path],
    text_windows: Windows,
    text_reference: LogProbabilities,
) -> None:
    scores = log_probabilities(Model.load(demo_file(recipe), kv_format="q8"), text_windows)
    change = perplexity(scores, text_windows) / perplexity(text_reference, text_windows) - 1
    most_perplexity, most_divergence = WITH_Q8_CACHE[recipe]
    assert abs(change) <= most_perplexity
    assert divergence(scores, text_reference) <= most_divergence


@pytest.mark.parametrize("recipe", MOST_DIVERGENCE)
def test_text_of_its_own(
    recipe: str,
    load: Callable[[str], Model],
    own_windows: Windows,
    own_reference: LogProbabilities,
) -> None:
    scores = log_probabilities(load(recipe), own_windows)
    assert divergence(scores, own_reference) <= 1.5 * MOST_DIVERGENCE[recipe]
