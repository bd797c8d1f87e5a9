"""What this machine's memory can do, from the project's own test extension."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

BYTES = 1 << 28  # more than any cache holds


def read_bandwidth(threads: int) -> float | None:
    """GB/s that `threads` threads read together; None without an extension that can tell."""
    measure = getattr(_extension(), "read_bandwidth", None)
    if measure is None:
        return None
    for pages in ("huge", "small"):
        try:
            return float(measure(bytes=BYTES, pages=pages, threads=threads, repetitions=3))
        except (MemoryError, OSError, RuntimeError):  # no pages of this size to be had
            continue
    return None


@functools.cache
def _extension() -> Any:
    """`_testing` of the build that PYTHIA_RT_TESTING_DIR names; None if there is none."""
    folder = os.environ.get("PYTHIA_RT_TESTING_DIR")
    built = sorted(Path(folder).glob("_testing*.so")) if folder else []
    spec = importlib.util.spec_from_file_location("_testing", built[0]) if built else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
