"""Records of measurements on a CUDA device: beside each the device's limits in the same turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bench.peers.torch_device import MEMORY
from bench.records.measured import Record


@dataclass(frozen=True)
class DeviceLimits:
    """What was measured of a device; None for what could not be."""

    read: float | None = None  # GB/s
    multiply: str | None = None  # what was multiplied: int8, or fp16 where torch has no int8
    rate: float | None = None  # Gop/s of that, a multiplication and its addition are two

    @classmethod
    def of(cls, found: Mapping[str, float]) -> DeviceLimits:
        """From the medians of torch_device.limits, in bytes and operations per second."""
        read = found.get(MEMORY)
        multiply = next((name for name in found if name != MEMORY), None)
        return cls(
            None if read is None else read / 1e9,
            multiply,
            None if multiply is None else found[multiply] / 1e9,
        )

    def line(self) -> str:
        """The figures for people."""
        read = "memory unknown" if self.read is None else f"memory {self.read:.1f} GB/s"
        if self.rate is None:
            return f"{read}, products unknown"
        return f"{read}, {self.multiply} {self.rate / 1e3:.1f} Top/s"


@dataclass(frozen=True)
class DeviceRecord(Record):
    """One measurement of one runner on a device. `fraction` is of `read_limit`, in GB/s."""

    device: str = ""
    read_limit: float | None = None
    operations_per_token: int | None = None
    gigaoperations_per_s: float | None = None
    multiply: str | None = None
    multiply_limit: float | None = None  # Gop/s
    multiply_fraction: float | None = None

    def line(self) -> str:
        """The figures for people."""
        text = super().line()
        if self.gigaoperations_per_s is not None:
            text += f", {self.gigaoperations_per_s / 1e3:.1f} Top/s"
        if self.multiply_fraction is not None:
            text += f", {self.multiply_fraction:.0%} of {self.multiply}'s"
        return text


def of_record(record: Record, device: str, limits: DeviceLimits, weights: int) -> DeviceRecord:
    """The same measurement, taken on `device`.

    Reading a prompt multiplies each token with the `weights` values of all layers' matrices.
    Attention and the head, which only the last token needs, are not counted.
    """
    operations = 2 * weights if record.kind == "prefill" else None
    giga = None if operations is None else record.median * operations / 1e9
    return DeviceRecord(
        **asdict(record),
        device=device,
        read_limit=limits.read,
        operations_per_token=operations,
        gigaoperations_per_s=giga,
        multiply=limits.multiply,
        multiply_limit=limits.rate,
        multiply_fraction=None if giga is None or not limits.rate else giga / limits.rate,
    )
