"""What quantisation costs on the demo model, a trained one: perplexity and KL divergence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import pythia_rt

WINDOW = 256
N_WINDOWS = 60

# Perplexity, against that of f32: at most this much away, in either direction.
MOST_PERPLEXITY = {"bf16": 5e-4, "f16": 2e-4, "q8": 1e-3, "q4": 1.5e-2}
# Mean KL divergence from f32, in nats per token.
MOST_DIVERGENCE = {"bf16": 5e-5, "f16": 1e-6, "q8": 2e-4, "q4": 1.1e-2}


class Scores(NamedTuple):
    """Sums over windows of tokens."""

    perplexity: float
    divergence: float


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def score(
    model: pythia_rt.Model, reference: pythia_rt.Model, windows: NDArray[np.int32]
) -> tuple[Scores, Scores]:
    """Return the scores of a model and of its reference over `windows`, [n, WINDOW] tokens."""
    ours, theirs, divergence = [], [], []
    for window in windows:
        p, q = log_softmax(reference.logits(window)), log_softmax(model.logits(window))
        divergence.append((np.exp(p) * (p - q)).sum(axis=-1))
        following = (np.arange(WINDOW - 1), window[1:])
        theirs.append(p[following])
        ours.append(q[following])
    return (
        Scores(float(np.exp(-np.mean(ours))), float(np.mean(divergence))),
        Scores(float(np.exp(-np.mean(theirs))), 0.0),
    )


@pytest.fixture(scope="module")
def load(demo_file: Callable[[str], Path]) -> Callable[[str], pythia_rt.Model]:
    return lambda recipe: pythia_rt.Model.load(demo_file(recipe))


@pytest.fixture(scope="module")
def dev_windows(shared: Path, load: Callable[[str], pythia_rt.Model]) -> NDArray[np.int32]:
    """Windows spread evenly over the whole of dev.txt."""
    tokenizer = load("f32").tokenizer
    assert tokenizer is not None
    tokens = np.array(tokenizer.encode((shared / "text" / "dev.txt").read_text()), np.int32)
    windows = tokens[: len(tokens) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return windows[np.linspace(0, len(windows) - 1, N_WINDOWS).astype(int)]


@pytest.mark.parametrize("recipe", MOST_PERPLEXITY)
def test_dev_text(
    recipe: str, load: Callable[[str], pythia_rt.Model], dev_windows: NDArray[np.int32]
) -> None:
    ours, reference = score(load(recipe), load("f32"), dev_windows)
    assert 25 < reference.perplexity < 42  # of the whole text: 32.8
    assert abs(ours.perplexity / reference.perplexity - 1) <= MOST_PERPLEXITY[recipe]
    assert 0 < ours.divergence <= MOST_DIVERGENCE[recipe]


@pytest.mark.parametrize("recipe", MOST_DIVERGENCE)
def test_text_of_its_own(recipe: str, load: Callable[[str], pythia_rt.Model]) -> None:
    """The same on what the model itself writes, which needs no file outside the checkout."""
    reference = load("f32")
    written = [
        reference.generate("The", max_new_tokens=WINDOW, temperature=1, top_p=1, seed=seed).tokens
        for seed in range(24)
    ]
    windows = np.array([tokens for tokens in written if len(tokens) == WINDOW], np.int32)
    assert len(windows) >= 4
    ours, theirs = score(load(recipe), reference, windows)
    assert ours.divergence <= 1.5 * MOST_DIVERGENCE[recipe]
    assert ours.perplexity <= theirs.perplexity * (1 + 2 * MOST_PERPLEXITY[recipe])
