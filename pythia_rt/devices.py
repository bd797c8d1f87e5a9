"""Where a model runs: on the processor, or its first layers or all of them on a CUDA device."""

from __future__ import annotations

import warnings
from typing import Any

from pythia_rt import _core

DEVICES = ("cpu", "cuda", "auto")


def check_device(device: str, gpu_layers: int | None) -> None:
    """Raise ValueError for a device that there is no such thing as, or layers without a device.

    Raises RuntimeError, with the reason, for "cuda" where no model can run on it: before minutes
    are spent on a conversion.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if gpu_layers is not None and device == "cpu":
        raise ValueError(
            "gpu_layers is for device='cuda' or device='auto': the processor runs all layers"
        )
    if device == "cuda" and (reason := _core.cuda_unavailable()):
        raise RuntimeError(f"device='cuda' cannot be used: {reason}")


def make_core_model(
    spec: dict[str, Any],
    formats: dict[str, str],
    tensors: dict[str, Any],
    *,
    threads: int,
    device: str,
    gpu_layers: int | None,
) -> _core.Model:
    """The core's model on the device that `check_device` accepted.

    "auto" is the CUDA device if there is one that has room, else the processor.
    """
    if device == "auto" and _core.cuda_unavailable():
        device, gpu_layers = "cpu", None
    try:
        return _core.Model(
            spec,
            formats,
            tensors,
            threads=threads,
            device="cuda" if device == "auto" else device,
            gpu_layers=gpu_layers,
        )
    except MemoryError as error:
        if device != "auto":
            raise
        warnings.warn(f"the processor runs the model, since {error}", stacklevel=2)
        return _core.Model(spec, formats, tensors, threads=threads)
