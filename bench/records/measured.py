"""What a benchmark writes down: the machine once, then a record of each measurement."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy

import pythia_rt
from bench.measure import Rates
from bench.peers import registry
from bench.peers.protocol import Reads
from pythia_rt import _core


@dataclass(frozen=True)
class Record:
    """One measurement of one runner, with the fields of a JSON line."""

    benchmark: str
    model: str
    parameters: int
    runner: str
    kind: str
    tokens: int
    context: int
    sequences: int
    threads: int
    isa: str
    median: float
    values: list[float]
    unit: str
    bytes_per_token: int | None = None
    gigabytes_per_s: float | None = None
    fraction: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)

    def line(self) -> str:
        """The figures for people."""
        rates = Rates(self.values)
        digits = 4 if self.unit == "s" else 1
        text = f"{rates.median:9.{digits}f} ± {rates.spread:4.0%} {self.unit}"
        if self.gigabytes_per_s is not None:
            text += f", {self.gigabytes_per_s:.1f} GB/s read"
        if self.fraction is not None:
            text += f", {self.fraction:.0%} of the memory's"
        return text


def of_rates(
    rates: Rates,
    *,
    kind: str,
    tokens: int,
    context: int,
    reads: Reads,
    bandwidth: float | None,
    **facts: Any,
) -> Record:
    """A record in tokens per second; of decoding, with what part of the bandwidth that is.

    After a long prompt a token reads the cache too, which grows meanwhile.
    """
    is_long = kind == "long"
    bytes_per_token = reads.after(context + tokens // 2) if is_long else reads.weights
    gigabytes = None
    if kind in ("decode", "long") and bytes_per_token is not None:
        gigabytes = rates.median * bytes_per_token / 1e9
    return Record(
        kind=kind,
        tokens=tokens,
        context=context,
        median=rates.median,
        values=rates.values,
        unit="tokens/s",
        bytes_per_token=bytes_per_token,
        gigabytes_per_s=gigabytes,
        fraction=None if gigabytes is None or not bandwidth else gigabytes / bandwidth,
        **facts,
    )


def machine() -> dict[str, Any]:
    """Facts about this machine, as JSON values."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    packages = {"pythia_rt": pythia_rt.__version__, "numpy": numpy.__version__}
    return {
        "benchmark": "machine",
        "processor": processor(),
        "cores": _core.default_threads(),
        "memory_gb": round(memory / 1e9, 1),
        "isa": _core.selected_isa(),
        "python": platform.python_version(),
        "versions": {**packages, **registry.versions()},
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as well as the system knows it."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = (line.partition(":") for line in lines)
    names = [value.strip() for key, _, value in fields if key.strip() == "model name"]
    return names[0] if names else platform.processor() or platform.machine()


def headline(facts: Mapping[str, Any]) -> str:
    """The machine in a line for people."""
    return f"{facts['processor']}, {facts['cores']} cores, {facts['memory_gb']} GB, {facts['isa']}"
