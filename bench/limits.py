"""How fast this machine reads memory, measured among what reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bench import measure, testing_extension, workloads
from pythia_rt import _core

BYTES = 1 << 30  # more than any cache holds
SECONDS = 0.03  # of each repetition, at least


def bandwidth(threads: int) -> Callable[[], float] | None:
    """Return a measurement in bytes/s, in huge pages; None without the test extension."""
    try:
        native = testing_extension.load()
    except ImportError:
        return None
    work: workloads.Workload = native.read_workload(
        _core.isa_names()[0], native.PageBuffer(BYTES, "huge")
    )
    passes = workloads.rate(work, native.ThreadPool(threads), SECONDS)
    return lambda: work.bytes * passes()


def alternate(
    measurements: Mapping[str, Callable[[], float]],
    repetitions: int,
    threads: int,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> tuple[dict[str, measure.Rates], float | None]:
    """Do as `measure.alternate`, and return the median bandwidth, in GB/s, of the same turns."""
    read = bandwidth(threads)
    name = "memory"
    turns = {**measurements, name: read} if read is not None else dict(measurements)
    rates = measure.alternate(turns, repetitions, on_failure)
    found = rates.pop(name, None)
    return rates, None if found is None else found.median / 1e9
