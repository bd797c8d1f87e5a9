"""The folder of a sweep's results: a JSON file for each checkpoint and metric, and the table.

    results/<model>/step<N>.<metric>.<key>.json   one metric of one checkpoint
    results/<model>/step<N>.<metric>.<key>.npz    its arrays, where it has some
    failures/<model>/step<N>.<metric>.<key>.json  what went wrong; it is tried again
    results.jsonl, results.csv                    all numbers, a row for each

Every file appears complete or not at all. A result's key is a digest of all that its values depend
on, which the file has too; times are none of it, so the same sweep gives the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import pythia_rt
from pythia_rt.convert.files.atomic import write_file
from pythia_rt.convert.flatfile.metadata import VERSION
from pythia_rt.sweeps.metrics import METRICS
from pythia_rt.sweeps.metrics.base import Measured, Metric
from pythia_rt.sweeps.plan import Unit

COLUMNS = (
    "model", "step", "commit", "digest", "format",
    "metric", "value", "stderr", "n", "asked", "arrays",
)  # fmt: skip
VERSIONS = {"pythia_rt": pythia_rt.__version__, "flat_file": VERSION}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


class Key:
    """All that a result depends on, and where it stands."""

    def __init__(
        self, unit: Unit, digest: str, form: str, metric: Metric, reference: str | None
    ) -> None:
        """`digest` is that of a local folder, "" for the hub's, which have a commit; `reference`
        identifies likewise the checkpoint that the metric compares with."""
        self.asked: dict[str, Any] = {
            "model": unit.model,
            "step": unit.step,
            "commit": unit.commit,
            "digest": digest,
            "format": form,
            "metric": metric.title,
            "options": metric.options(),
            "versions": {**VERSIONS, "metric": metric.version},
        }
        if reference is not None:
            self.asked["reference"] = reference
        content = json.dumps(self.asked, sort_keys=True, ensure_ascii=True)
        self.name = hashlib.sha256(content.encode()).hexdigest()[:16]
        title = _NOT_IN_NAMES.sub("-", metric.title)[:80]
        self.stem = f"{_place(unit)}.{title}.{self.name}"


def _place(unit: Unit) -> str:
    step = "checkpoint" if unit.step is None else f"step{unit.step}"
    return f"{unit.model.replace('/', '--')}/{step}"


class Store:
    """The folder `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.results = out / "results"
        self.failures = out / "failures"

    def has(self, key: Key) -> bool:
        """Whether a result is there."""
        return (self.results / f"{key.stem}.json").is_file()

    def write(self, key: Key, digest: str, measured: Measured) -> None:
        """Keep a result: its arrays first, so that whoever finds the JSON file finds them too."""
        arrays = None
        if measured.arrays:
            content = io.BytesIO()
            np.savez_compressed(content, **dict(measured.arrays))  # type: ignore[arg-type]
            arrays = f"results/{key.stem}.npz"
            self._write(self.out / arrays, content.getbuffer())
        found = {
            **key.asked,
            "digest": digest,
            "key": key.name,
            "values": [
                {
                    "metric": each.metric,
                    "value": _finite(each.value),
                    "stderr": _finite(each.stderr),
                    "n": int(each.n),
                }
                for each in measured.values
            ],
            "arrays": arrays,
        }
        self._write(self.results / f"{key.stem}.json", _json(found))
        (self.failures / f"{key.stem}.json").unlink(missing_ok=True)

    def fail(self, unit: Unit, key: Key | None, error: BaseException) -> None:
        """Keep what went wrong with a metric, or without a key with the whole checkpoint."""
        found = {
            "model": unit.model,
            "step": unit.step,
            "commit": unit.commit,
            "metric": None if key is None else key.asked["metric"],
            "error": getattr(error, "kind", type(error).__name__),
            "message": str(error),
        }
        stem = _place(unit) if key is None else key.stem
        self._write(self.failures / f"{stem}.json", _json(found))

    def forget_failures(self, unit: Unit) -> None:
        """What failed before is tried again now."""
        place = self.failures / _place(unit)
        for file in place.parent.glob(f"{place.name}.*json"):
            file.unlink()

    def rows(self) -> list[dict[str, Any]]:
        """A row for each number, of this version's results, in order of models, steps, metrics."""
        found = []
        metrics = {kind.name: kind.version for kind in METRICS}
        for path in self.results.glob("*/*.json"):
            result = json.loads(path.read_text())
            versions = result["versions"]
            version = metrics.get(result["metric"], versions.get("metric"))
            if versions == {**VERSIONS, "metric": version}:
                found.append(result)
        found.sort(
            key=lambda r: (r["model"], _number(r["step"]), r["format"], r["metric"], r["key"])
        )
        return [row for result in found for row in _rows_of(result)]

    def all_failures(self) -> list[dict[str, Any]]:
        """What went wrong and was not mended since, in order."""
        found = [json.loads(path.read_text()) for path in self.failures.glob("*/*.json")]
        return sorted(found, key=lambda f: (f["model"], _number(f["step"]), f["metric"] or ""))

    def write_tables(self) -> list[dict[str, Any]]:
        """Write results.jsonl and results.csv; return their rows."""
        rows = self.rows()
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_file(self.out / "results.jsonl", lines.encode())
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(self.out / "results.csv", table.getvalue().encode())
        return rows

    def _write(self, path: Path, content: bytes | memoryview) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)


def _order(result: Mapping[str, Any]) -> tuple[Any, ...]:
    of = (result["format"], result["metric"], result["key"])
    return (result["model"], _number(result["step"]), *of)


def _rows_of(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    first = {name: result[name] for name in COLUMNS[:5]}
    for value in result["values"]:
        yield {**first, **value, "asked": _asked(result), "arrays": result["arrays"]}


def _asked(result: Mapping[str, Any]) -> str:
    """What was asked, as one types it: "perplexity:text=a.txt,window=64"."""
    shown = []
    for option, value in result["options"].items():
        if isinstance(value, dict):
            value = value["name"]  # of a text
        if value is not None and not _DIGEST.fullmatch(str(value)):
            shown.append(f"{option}={value}")
    metric: str = result["metric"]
    return f"{metric}:{','.join(shown)}" if shown else metric


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _number(step: int | None) -> int:
    return -1 if step is None else step


def _finite(value: float | None) -> float | None:
    """JSON has no infinity and no NaN: null stands for them."""
    return None if value is None or not math.isfinite(value) else float(value)
