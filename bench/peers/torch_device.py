"""The CUDA device as torch knows it: whether there is one, what it is, how fast it can be.

How fast is measured on the device itself, between two of its events, with nothing else running:
its memory by a sum over more than its caches hold, since decoding reads and hardly writes; its
tensor cores by a product of large int8 matrices, or of fp16 ones where torch has none of int8.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from bench.peers import llama

DEVICE = "cuda:0"  # the first one, as for pythia_rt
READ_BYTES = 2 << 30
SIDE = 8192  # of the square matrices
SECONDS = 0.05  # of each repetition, at least
BANDWIDTH_BY = "torch.sum of 2 GiB of float32"
MEMORY = "memory"  # the bandwidth's name among the limits; the other is "int8" or "fp16"


class Facts(NamedTuple):
    """About the device."""

    isa: str
    memory_gb: float
    cuda: str  # torch's runtime


def unavailable() -> str:
    """Why torch has no CUDA device, as a sentence without its end; empty if it has one."""
    if llama.missing("torch"):
        return "torch is not installed"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return ""


def require() -> Any:
    """Return torch. Raises RuntimeError with the reason if it has no CUDA device."""
    if reason := unavailable():
        raise RuntimeError(reason)
    import torch

    return torch


def facts() -> Facts:
    """About the device that `require` found."""
    torch = require()
    found = torch.cuda.get_device_properties(DEVICE)
    memory_gb = round(found.total_memory / 1e9, 1)
    return Facts(f"sm_{found.major}{found.minor}", memory_gb, str(torch.version.cuda))


def limit_names() -> list[str]:
    """Of `limits`, for whoever measures them in another process."""
    return list(_limits())


def measure(name: str) -> float:
    """Measure a limit of `limit_names`; what that needs stays on the device."""
    return _limits()[name]()


@functools.cache
def _limits() -> dict[str, Callable[[], float]]:
    return limits(require())


def limits(torch: Any) -> dict[str, Callable[[], float]]:
    """Measurements of the memory, in bytes/s, and of a product, in operations/s, by their names.

    Their memory is taken when they are first measured.
    """
    operations = 2 * SIDE**3
    has_int8 = _has_int8(torch)
    product = _int8_product if has_int8 else _fp16_product
    return {
        MEMORY: _Rate(torch, _sum, READ_BYTES),
        "int8" if has_int8 else "fp16": _Rate(torch, product, operations),
    }


class _Rate:
    """Work per second of a call on the device."""

    def __init__(self, torch: Any, make: Callable[[Any], Callable[[], object]], work: float):
        self._torch, self._make, self._work = torch, make, work
        self._call: Callable[[], object] | None = None

    def __call__(self) -> float:
        if self._call is None:
            self._call = self._make(self._torch)
        return self._work * _calls_per_second(self._torch, self._call)


def _calls_per_second(torch: Any, call: Callable[[], object]) -> float:
    """As many calls as SECONDS take, by the device's clock: starting a few takes longer."""
    count = 1
    while True:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        seconds = start.elapsed_time(end) / 1e3
        if seconds >= SECONDS:
            return float(count / seconds)
        count = max(2 * count, math.ceil(1.2 * count * SECONDS / max(seconds, 1e-6)))


def _sum(torch: Any) -> Callable[[], object]:
    values = torch.rand(READ_BYTES // 4, dtype=torch.float32, device=DEVICE)
    return lambda: values.sum()


# Random values: a device multiplies zeros with less power, and so with faster clocks.
def _int8_product(torch: Any, side: int | None = None) -> Callable[[], object]:
    shape = (side or SIDE, side or SIDE)
    left, right = (
        torch.randint(-128, 128, shape, dtype=torch.int8, device=DEVICE) for _ in range(2)
    )
    columns = right.t()  # the second factor by columns, as the tensor cores want it
    return lambda: torch._int_mm(left, columns)


def _fp16_product(torch: Any) -> Callable[[], object]:
    left, right = (torch.randn(SIDE, SIDE, dtype=torch.float16, device=DEVICE) for _ in range(2))
    return lambda: torch.matmul(left, right)


def _has_int8(torch: Any) -> bool:
    """Whether this torch multiplies int8 matrices on this device."""
    try:
        _int8_product(torch, 64)()
        torch.cuda.synchronize()
    except (AttributeError, NotImplementedError, RuntimeError):
        return False
    return True
