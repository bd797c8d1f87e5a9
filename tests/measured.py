"""Functions that sweeps measure, in other processes too: they need nothing but pythia_rt."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from pythia_rt import Model


def slow(model: Model) -> float:
    """Something to be killed in; meanwhile its process id is a file where SWEEP_PIDS says. It waits
    while there is a file that SWEEP_HOLD names."""
    sign = Path(os.environ.get("SWEEP_PIDS", "/nowhere")) / str(os.getpid())
    if sign.parent.is_dir():
        sign.touch()
    while Path(os.environ.get("SWEEP_HOLD", "/nowhere/hold")).exists():
        time.sleep(0.02)
    time.sleep(float(os.environ.get("SWEEP_SLEEP", "0.1")))
    sign.unlink(missing_ok=True)
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
