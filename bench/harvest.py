"""Harvesting activations: python -m bench.harvest FILE.

Tokens a second of windows that the model reads without its head, and of the same ones harvested
into a folder, one point and all layers' residuals, the disk included.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.measure import alternate, positive
from pythia_rt import Model, _core
from pythia_rt.harvest import harvest, iter_activations
from pythia_rt.insides.inputs import grouped

Windows = list[NDArray[np.int32]]


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="a flat file")
    parser.add_argument("--threads", type=positive, help="default: one per performance core")
    parser.add_argument("--context", type=positive, default=512, help="tokens of a window")
    parser.add_argument("--windows", type=positive, default=8)
    parser.add_argument("--repetitions", type=positive, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    arguments = parser.parse_args()
    model = Model.load(arguments.file, threads=arguments.threads)
    print(f"{arguments.file.name} on {model.runs_on}")
    random = np.random.default_rng(0)
    shape = (arguments.windows, arguments.context)
    windows = list(random.integers(0, model.spec["n_tokens"], shape).astype(np.int32))
    found = alternate(ways(model, windows, arguments.folder), arguments.repetitions)
    first = next(iter(found.values()))
    for name, rates in found.items():
        print(f"  {name:32} {rates} tokens/s   x {rates.median / first.median:.3f}")


def ways(
    model: Model, windows: Windows, folder: Path | None = None
) -> dict[str, Callable[[], float]]:
    """What is measured, by name, each of which returns tokens a second."""
    last = model.spec["n_layers"] - 1
    residual, every = f"layers.{last}.resid_post", "layers.*.resid_post"

    def written(points: str, dtype: str) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as out:
            harvest(model, windows, points, out, context=len(windows[0]), dtype=dtype)

    def batches() -> None:
        for _ in iter_activations(model, windows, residual, context=len(windows[0])):
            pass

    actions: dict[str, Callable[[], Any]] = {
        "prefill without the head": lambda: read(model, windows),
        "last residual, f16": lambda: written(residual, "f16"),
        "last residual, f32": lambda: written(residual, "f32"),
        "every residual, f16": lambda: written(every, "f16"),
        "last residual, batches": batches,
    }
    return {name: functools.partial(_rate, do, windows) for name, do in actions.items()}


def read(model: Model, windows: Windows) -> None:
    """Read windows, as many together as are harvested, and keep nothing."""
    for group in grouped(windows):
        sessions = [model.new_session(len(window)) for window in group]
        _core.run(sessions, group, logits="none")


def _rate(do: Callable[[], Any], windows: Windows) -> float:
    started = time.perf_counter()
    do()
    return sum(map(len, windows)) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
