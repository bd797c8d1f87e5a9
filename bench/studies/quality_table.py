"""The figures of one file's quality, and a table of several: for terminals, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.records.table import lines
from bench.studies.weight_bits import WeightBits
from pythia_rt.evaluation.result import Comparison, Estimate

HEADINGS = (
    "file",
    "KL, nats/token",
    "KL 99 %",
    "perplexity",
    "change, %",
    "top-1, %",
    "bits: layers",
    "matrices",
    "tensors",
    "MB",
)


@dataclass(frozen=True)
class Row:
    """A file of one runtime; `comparison` with that runtime's unquantised file, None for that."""

    runtime: str
    name: str
    perplexity: Estimate
    comparison: Comparison | None
    bits: WeightBits
    file_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        facts = asdict(self)
        if facts["comparison"] is not None:
            del facts["comparison"]["reference"], facts["comparison"]["weight_errors"]
        return facts


def table(rows: Sequence[Row], unit: str, *, markdown: bool) -> Iterator[str]:
    """Lines of a table; the last column has each KL as a multiple of that of the row `unit`."""
    compared = {row.name: row.comparison for row in rows if row.comparison is not None}
    base = compared[unit].divergence.value if unit in compared else None
    headings = (*HEADINGS, f"KL / {unit}") if base else HEADINGS
    cells = [headings, *(_cells(row, base) for row in rows)]
    yield from lines(cells, markdown=markdown)


def _cells(row: Row, base: float | None) -> tuple[str, ...]:
    compared = row.comparison
    quality = ("", "", f"{row.perplexity.value:.3f}", "", "")
    ratio = ""
    if compared is not None:
        quality = (
            _estimate(compared.divergence, 5),
            f"{compared.divergence_p99:.4f}",
            f"{row.perplexity.value:.3f}",
            _estimate(compared.perplexity_change, 3, 100, "+"),
            f"{100 * compared.top1_agreement:.2f}",
        )
        ratio = f"{compared.divergence.value / base:.3f}" if base else ""
    bits = [f"{value:.3f}" for value in (row.bits.layers, row.bits.matrices, row.bits.tensors)]
    line = (f"{row.runtime} {row.name}", *quality, *bits, f"{row.file_bytes / 1e6:.2f}")
    return (*line, ratio) if base else line


def _estimate(value: Estimate, digits: int, scale: float = 1, sign: str = "") -> str:
    error = "" if value.error is None else f" ± {scale * value.error:.{digits}f}"
    return f"{scale * value.value:{sign}.{digits}f}{error}"
