"""A small random suite of steps, and what a sweep leaves in its folder."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray

import pythia_rt
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.sweeps import Given

STEPS = (0, 1, 2, 4, 8, 1000)
TEXT = (
    "The kernel reads a page of memory, and the page is read again when the kernel needs it. "
    "A tile of weights is sixty-four bytes, sixteen rows of four columns. "
) * 6


def write_suite(folder: Path, steps: tuple[int, ...] = STEPS, seed: int = 0) -> Path:
    """A folder with step<N> folders, models of a layer or two with the demo's tokenizer."""
    config = make_config(vocab_size=4096)
    for step in steps:
        place = write_checkpoint(folder / f"step{step}", config, seed=seed * 1000 + step)
        shutil.copy(DEMO_FOLDER / "tokenizer.json", place)
    return folder


def sweep(models: Any, out: Path, metrics: Any, **options: Any) -> pythia_rt.Sweep:
    """A sweep that shows no progress."""
    return pythia_rt.sweep(models, out=out, metrics=metrics, progress=False, **options)


def contents(folder: Path) -> dict[str, str]:
    """{name: digest} of what a sweep keeps."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def lines(*items: Any) -> str:
    """A text of JSON objects, one on each line."""
    return "\n".join(json.dumps(item) for item in items) + "\n"


def save(array: NDArray[Any]) -> Given:
    """A .npy of token ids, as a metric is given one."""
    file = io.BytesIO()
    np.save(file, array)
    return Given("rows.npy", file.getvalue())
