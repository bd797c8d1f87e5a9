"""Continuations of one context: python -m bench.pairs FILE.

Their log-likelihoods from pairs, whose context is read once, beside those from whole texts, read
one after another's end; the same to the bit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from pythia_rt import Model


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a flat file")
    parser.add_argument("--threads", type=int, help="default: one per performance core")
    parser.add_argument("--context", type=int, default=300, help="tokens")
    parser.add_argument("--continuations", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=(1, 4, 16), help="of those")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    model = Model.load(arguments.file, threads=arguments.threads)
    print(f"{arguments.file.name} on {model.runs_on}")
    for length in arguments.lengths:
        print(compare(model, arguments, length))


def compare(model: Model, arguments: argparse.Namespace, length: int) -> str:
    """A line about continuations of so many tokens."""
    context, count = arguments.context, arguments.continuations
    found = measure(model, context, count, length, arguments.repetitions)
    pairs_ms, texts_ms = (1e3 * statistics.median(times) for times in found)
    return (
        f"{count} continuations of {length} tokens after {context}: whole texts "
        f"{texts_ms:.1f} ms, pairs {pairs_ms:.1f} ms, {texts_ms / pairs_ms:.2f} times as fast"
    )


def measure(
    model: Model, context_length: int, count: int, length: int, repetitions: int
) -> tuple[list[float], list[float]]:
    """Seconds of pairs and of whole texts, in turn: `count` continuations of `length` tokens."""
    random, n_tokens = np.random.default_rng(length), int(model.spec["n_tokens"])
    context = random.integers(0, n_tokens, context_length)
    pairs = [(context, random.integers(0, n_tokens, length)) for _ in range(count)]
    texts = [np.concatenate(pair) for pair in pairs]
    of_pairs, of_texts = [], []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        judged = model.score_pairs(pairs)
        between = time.perf_counter()
        scores = model.score(texts)
        of_pairs.append(between - started)
        of_texts.append(time.perf_counter() - between)
        for pair, score in zip(judged, scores, strict=True):
            assert pair.log_probabilities.tolist() == score.log_probabilities[-length:].tolist()
    return of_pairs[1:], of_texts[1:]  # the first of each is a warm-up


if __name__ == "__main__":
    main()
