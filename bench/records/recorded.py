"""The JSON lines that benchmarks write with --json, read back for bench.report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]

GENERATION = ("compare", "generate")
_NEEDED = {
    "kernels": ("kind", "threads", "median", "values"),
    "compare": ("kind", "threads", "median", "values"),
    "generate": ("kind", "threads", "median", "values"),
}
_LIMIT = ("limit", "unit")
_KERNEL = ("kernel", "format", "isa", "shape", "tokens", "bytes", "operations")
# What tells a measurement from another; the rest are its figures.
_IDENTITY = (
    "benchmark", "kind", "limit", "kernel", "format", "isa", "shape", "pages", "model",
    "checkpoint", "file", "runner", "kv_format", "tokens", "context", "sequences", "threads",
    "device",
)  # fmt: skip


def read(path: Path) -> list[Record]:
    """Return the records of benchmarks with a report, each measurement as it was last taken.

    Raises ValueError with one sentence for a line that is none, OSError for a file that is none.
    """
    found: dict[tuple[Any, ...], Record] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            record = None
        if not isinstance(record, dict) or "benchmark" not in record:
            raise ValueError(f"{path}, line {number}: not a record of a benchmark")
        if record["benchmark"] in _NEEDED:
            _check(record, f"{path}, line {number}")
            identity = tuple(record.get(name) for name in _IDENTITY)
            found.pop(identity, None)
            found[identity] = record
    if not found:
        raise ValueError(f"{path} has no records of {', '.join(_NEEDED)}")
    return list(found.values())


def _check(record: Mapping[str, Any], place: str) -> None:
    name = record["benchmark"]
    needed: Sequence[str] = _NEEDED[name]
    if name == "kernels":
        needed = (*needed, *(_LIMIT if record.get("kind") == "limit" else _KERNEL))
    missing = [field for field in needed if record.get(field) is None]
    if missing:
        raise ValueError(f"{place}: a record of {name} without {', '.join(missing)}")
    values = record["values"]
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        raise ValueError(f"{place}: the values are not numbers")
    if not values:
        raise ValueError(f"{place}: there are no values")


def select(records: Sequence[Record], **wanted: Any) -> list[Record]:
    """Return the records that have all these fields with these values."""
    return [r for r in records if all(r.get(name) == value for name, value in wanted.items())]


def generation(records: Sequence[Record]) -> list[Record]:
    """Return the records of whole models."""
    return [record for record in records if record["benchmark"] in GENERATION]


def model(record: Mapping[str, Any]) -> str:
    """Return the name of the model a record is about."""
    return str(record.get("model") or record.get("checkpoint") or record.get("file") or "model")


def runner(record: Mapping[str, Any]) -> str:
    """Return the name of the runtime a record is about."""
    return str(record.get("runner") or "pythia_rt")
