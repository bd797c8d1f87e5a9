"""A small random suite of steps, and functions that sweeps measure in other processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from checkpoints import make_config, write_checkpoint

from pythia_rt.model import DEMO_FOLDER, Model

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


def contents(folder: Path) -> dict[str, str]:
    """{name: digest} of what a sweep keeps."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def slow(model: Model) -> float:
    """Something to be killed in."""
    time.sleep(float(os.environ.get("SWEEP_SLEEP", "0.1")))
    return float(model.logits([1, 2, 3])[-1].max())


def fragile(model: Model) -> dict[str, Any]:
    """Fails while the file that SWEEP_BROKEN names is there."""
    if Path(os.environ["SWEEP_BROKEN"]).exists():
        raise ZeroDivisionError("this function is broken")
    return {"layers": model.spec["n_layers"], "logits": model.logits([1, 2])}


def deadly(model: Model) -> float:
    """Kills the process that it is in once, with SWEEP_DEADLY=always every time."""
    marker = os.environ["SWEEP_DEADLY"]
    if marker == "always" or not Path(marker).exists():
        if marker != "always":
            Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return slow(model)
