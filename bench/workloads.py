"""What bench.kernels times: limits of the machine and kernels, from the test extension."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

PAGES = ("small", "huge", "file")  # 4 KiB, 2 MiB, the system's cache of a file
ROWS_AT_ONCE = 256  # of activations that the decoder gives to attention and norms


class Workload(Protocol):
    """The extension's class of the same name: bytes and operations are those of one pass."""

    bytes: float
    operations: float

    def time(self, pool: Any, seconds: float) -> float:
        """Repeat passes for this long; return the seconds of one."""


@dataclass(frozen=True)
class Shape:
    """A matrix, and the attention of a model of its width."""

    rows: int
    columns: int

    @property
    def head_dim(self) -> int:
        """As Pythia chooses it: 64 up to a width of 1024, 128 above."""
        return min(self.columns, 64 if self.columns <= 1024 else 128)

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.columns // self.head_dim

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


@dataclass(frozen=True)
class Case:
    """A kernel to time. `multiply` names the limit of its arithmetic."""

    kernel: str
    format: str
    tokens: int
    workload: Workload
    multiply: str  # fp32, or the format
    reads_memory: bool = True


def rate(workload: Workload, pool: Any, seconds: float) -> Callable[[], float]:
    """Return a measurement of `workload`, in passes per second."""
    return lambda: 1 / workload.time(pool, seconds)


def buffers(native: ModuleType, size: int) -> dict[str, Any]:
    """Memory of `size` bytes in each kind of page."""
    made = {kind: native.PageBuffer(size, kind) for kind in PAGES if kind != "file"}
    with tempfile.TemporaryFile() as file:  # the mapping keeps the pages after it is closed
        made["file"] = native.PageBuffer(size, "file", file.fileno())
    return made


def huge_pages() -> int | None:
    """Bytes of this process in huge pages, or None where the system does not say."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in text.splitlines() if line.startswith("AnonHugePages")]
    return int(found[0]) * 1024 if found else None


def multiply_of(form: str) -> str:
    """The limit of products with weights of `form`: fp32, or the format, if it is multiplied as
    bytes."""
    return form if form.startswith("q") else "fp32"


def linears(
    native: ModuleType, isa: str, pages: Any, shape: Shape, formats: Sequence[str], tokens: int
) -> Iterator[Case]:
    """Matrix products with `tokens` rows of activations."""
    for form in formats:
        work = native.linear_workload(isa, pages, form, shape.rows, shape.columns, tokens)
        yield Case("linear", form, tokens, work, multiply_of(form))


def attentions(
    native: ModuleType, isa: str, pages: Any, shape: Shape, context: int, tokens: int
) -> Iterator[Case]:
    """The last `tokens` of `context` positions attending to all before them, all heads."""
    for form in native.kv_format_names():
        work = native.attention_workload(
            isa, pages, form, shape.heads, shape.head_dim, tokens, context
        )
        yield Case("attention", form, tokens, work, "fp32")


def row_kernels(native: ModuleType, isa: str, shape: Shape) -> Iterator[Case]:
    """Kernels over rows of activations, which are in a cache."""
    for name in ("norm", "quantise"):
        work = getattr(native, f"{name}_workload")(isa, ROWS_AT_ONCE, shape.columns)
        yield Case(name, "f32", ROWS_AT_ONCE, work, "fp32", reads_memory=False)
