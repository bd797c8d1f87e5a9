"""Where a model runs: on the processor, or its first layers or all of them on a CUDA device."""

from __future__ import annotations

import warnings

from pythia_rt import _core
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.loading import Loading


def check_available(device: str) -> None:
    """Raise RuntimeError, with the reason, for "cuda" where no model can run on it.

    That is told before minutes are spent on a conversion.
    """
    if device == "cuda" and (reason := _core.cuda_unavailable()):
        raise RuntimeError(f"device='cuda' cannot be used: {reason}")


def make_core_model(file: FlatFile, loading: Loading) -> _core.Model:
    """The core's model of a flat file on the device that was asked for.

    "auto" is the CUDA device if there is one that has room, else the processor.
    """

    def make(device: str, gpu_layers: int | None) -> _core.Model:
        return _core.Model(
            dict(file.spec),
            file.formats,
            file.tensors,
            threads=loading.threads or 0,  # the core's default
            device=device,
            gpu_layers=gpu_layers,
        )

    if loading.device != "auto":
        return make(loading.device, loading.gpu_layers)
    if _core.cuda_unavailable():
        return make("cpu", None)
    try:
        return make("cuda", loading.gpu_layers)
    except MemoryError as error:
        warnings.warn(f"the processor runs the model, since {error}", stacklevel=2)
        return make("cpu", None)
