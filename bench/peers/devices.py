"""Where a comparison runs: on the processor, or on a CUDA device, with the facts about that."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from bench.peers import torch_device, torch_process
from pythia_rt import _core

CPU, CUDA = "cpu", "cuda"
NAMES = (CPU, CUDA)


@dataclass(frozen=True)
class Device:
    """A CUDA device; None for what neither torch nor the system knows."""

    name: str
    isa: str  # "sm_90", or "cuda" where nobody says
    memory_gb: float | None
    driver: str | None
    torch_cuda: str | None  # the CUDA runtime that torch was built with
    bandwidth_by: str | None  # how the memory's limit is measured

    def headline(self) -> str:
        """The device in a line for people."""
        facts = [self.name, self.isa]
        facts += [f"{self.memory_gb} GB"] if self.memory_gb is not None else []
        facts += [f"driver {self.driver}"] if self.driver is not None else []
        facts += [f"torch's CUDA {self.torch_cuda}"] if self.torch_cuda is not None else []
        return ", ".join(facts)


def find(name: str) -> Device | None:
    """The device of this name of NAMES, None for the processor.

    Raises RuntimeError with pythia_rt's reason where it cannot use the device.
    """
    if name == CPU:
        return None
    if reason := _core.cuda_unavailable():
        raise RuntimeError(reason)
    known = _as_torch_knows_it()
    return Device(
        name=_core.cuda_device_name(),
        isa="cuda" if known is None else known.isa,
        memory_gb=None if known is None else known.memory_gb,
        driver=driver(),
        torch_cuda=None if known is None else known.cuda,
        bandwidth_by=None if known is None else torch_device.BANDWIDTH_BY,
    )


def _as_torch_knows_it() -> torch_device.Facts | None:
    try:
        missing = torch_process.call(torch_device.unavailable)
        return None if missing else torch_process.call(torch_device.facts)
    except RuntimeError:  # whoever measures its limits tells why
        return None


def driver(version: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """NVIDIA's driver, such as "580.65.06"; None where the system does not say."""
    if not version.exists():
        return None
    found = re.search(r"\s(\d+(?:\.\d+)+)\s", version.read_text())
    return None if found is None else found.group(1)
