"""How long a sweep takes beside its parts: python -m bench.sweep.

Random checkpoints of a shape are served by a hub on this machine (tests/local_hub.py). They are
swept once with a metric that costs nothing, once as a sweep is used, and the measuring is timed
alone: the sweep should take little longer than the larger of the two. It cannot take less than the
processors' time of both, which the last row shows, the hub's included.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import checkpoint, measure, shapes
from bench.records.table import count, lines
from pythia_rt.convert.threads import usable_processors

ROOT = Path(__file__).resolve().parents[1]
MODEL = "someone/random"


def main() -> None:
    """Print the seconds of each part and of the whole."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="70m", choices=shapes.PYTHIA)
    parser.add_argument("--steps", type=measure.positive, default=20)
    parser.add_argument("--tokens", type=measure.positive, default=8192, help="that are measured")
    parser.add_argument("--format", default="q8")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    hub_type: Any = importlib.import_module("local_hub").LocalHub
    with tempfile.TemporaryDirectory(prefix="bench-sweep-") as name:
        folder = Path(name)
        with hub_type(folder / "served") as hub:
            os.environ.update(hub.environment(folder / "hub"))  # before it is read
            config = shapes.config(options.shape)
            for step in range(options.steps):
                made = folder / f"step{step}"
                checkpoint.write(made, config, seed=step)
                hub.add(MODEL, f"step{step}", made, copy=False)
            _compare(folder, options.steps, options.tokens, options.format)


def _compare(folder: Path, steps: int, n_tokens: int, form: str) -> None:
    import pythia_rt

    tokens = folder / "tokens.npy"
    np.save(tokens, np.random.default_rng(0).integers(0, 50000, n_tokens, np.int32))
    model = pythia_rt.Model.from_pretrained(
        str(folder / "step0"), format=form, cache_dir=folder / "flat", progress=False
    )
    seconds: dict[str, float] = {}
    processor_seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(name: str) -> Iterator[None]:
        start, busy = time.perf_counter(), time.process_time()
        yield
        seconds[name] = time.perf_counter() - start
        processor_seconds[name] = time.process_time() - busy

    def sweep(name: str, metric: Any) -> None:
        with timed(name):
            found = pythia_rt.sweep(
                MODEL, steps=range(steps), metrics=[metric], format=form, out=folder / name,
                progress=False,
            )  # fmt: skip
        if found.failures or found.measured != steps:
            raise SystemExit(f"the sweep failed: {found.failures}")

    sweep("fetched and converted", number_of_layers)
    with timed("measured"):
        for _ in range(steps):
            model.perplexity(np.load(tokens), window=2048)
    sweep("swept", f"perplexity:{tokens},window=2048")
    larger = max(seconds["fetched and converted"], seconds["measured"])
    rows = [
        [name, f"{value:.1f}", f"{value / larger:.2f}", f"{processor_seconds[name]:.1f}"]
        for name, value in seconds.items()
    ]
    both = processor_seconds["fetched and converted"] + processor_seconds["measured"]
    processors = usable_processors()
    least = max(larger, both / processors)
    on = f"both, by {count(processors, 'processor')}"
    rows.append([on, f"{least:.1f}", f"{least / larger:.2f}", f"{both:.1f}"])
    heads = [count(steps, "checkpoint"), "seconds", "x the larger part", "processors' seconds"]
    print("\n".join(lines([heads, *rows])))


def number_of_layers(model: object) -> int:
    """A metric that costs nothing."""
    return int(model.spec["n_layers"])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
