"""How fast this machine can be at most, measured among what is to be compared with that."""

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
    limits = {} if read is None else {name: read}
    rates, found = alternate_with(limits, measurements, repetitions, on_failure)
    return rates, found[name] / 1e9 if name in found else None


def alternate_with(
    limits: Mapping[str, Callable[[], float]],
    measurements: Mapping[str, Callable[[], float]],
    repetitions: int,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> tuple[dict[str, measure.Rates], dict[str, float]]:
    """Do as `measure.alternate`, and return the medians of `limits` in the same turns."""
    rates = measure.alternate({**measurements, **limits}, repetitions, on_failure)
    found = {name: rates.pop(name).median for name in limits if name in rates}
    return rates, found
