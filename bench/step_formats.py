"""What q8 and q4 change at the steps of a training: python -m bench.step_formats FOLDER.

For each step<N> of FOLDER (a folder without a tokenizer takes the bundled one) and for the bundled
model, beside its file in f32: the KL divergence, what a token's log-probability changes by, in the
mean and in its standard deviation, the error of the logits in parts of their spread, both about the
mean of each row, and how many places the text's own token moves in the order of the logits.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pythia_rt import Model, evaluate
from pythia_rt.convert import convert
from pythia_rt.convert.source.steps import local_steps
from pythia_rt.model import DEMO_FOLDER

TEXT = Path(__file__).resolve().parent.parent / "tests" / "data" / "technical.txt"
TOKENS = 1024
HEADER = (
    "| step | perplexity | format | KL | mean change | its sd | logit error | median rank moved |"
)


def main() -> None:
    """Print the table, a row for each step and format."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    folder = arguments.parse_args().folder
    print(HEADER + "\n|" + "---|" * (HEADER.count("|") - 1), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        places: list[tuple[int | str, Path]] = [*local_steps(folder).items()]
        for step, place in [*places, ("bundled", DEMO_FOLDER)]:
            for row in rows(str(step), place, Path(scratch)):
                print(row, flush=True)


def rows(step: str, place: Path, scratch: Path) -> list[str]:
    """The rows of one checkpoint."""
    source = scratch / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(place, source)
    if not (source / "tokenizer.json").exists():
        shutil.copy(DEMO_FOLDER / "tokenizer.json", source)
    truth = convert(source, scratch / "f32", format="f32", force=True)
    exact = Model.load(truth)
    ids = exact._ids(TEXT.read_text())[:TOKENS]
    logits, scores = exact.logits(ids), exact.score([ids])[0].log_probabilities
    found = []
    for form in ("q8", "q4"):
        model = Model.load(convert(source, scratch / form, format=form, force=True))
        compared = evaluate(
            model, TEXT, reference=truth, weights=False, progress=False, max_tokens=4 * TOKENS
        )
        assert compared.comparison is not None
        change = (model.score([ids])[0].log_probabilities - scores).astype(np.float64)
        mine = model.logits(ids)
        error = (centred(mine - logits).std() / centred(logits).std()).item()
        moved = np.median(np.abs(rank(mine, ids) - rank(logits, ids)))
        found.append(
            f"| {step} | {compared.comparison.perplexity.value:.4g} | {form} "
            f"| {compared.comparison.divergence.value:.2g} | {change.mean():.4f} "
            f"| {change.std():.3f} | {100 * error:.1f} % | {moved:.0f} |"
        )
    return found


def centred(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows without their means."""
    result: NDArray[np.float64] = values - values.mean(axis=1, keepdims=True, dtype=np.float64)
    return result


def rank(logits: NDArray[np.float32], ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """How many tokens have a larger logit than the one that comes."""
    own = logits[np.arange(len(ids) - 1), ids[1:]]
    result: NDArray[np.int64] = (logits[:-1] > own[:, None]).sum(axis=1)
    return result


if __name__ == "__main__":
    main()
