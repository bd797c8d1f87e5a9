"""Loading: how a model is held in memory, and what runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from pythia_rt.convert.threads import checked_threads
from pythia_rt.options import Options, flag, integer, one_of, option

DEVICES = ("cpu", "cuda", "auto")


def _read_kv_format(name: str, value: object) -> str:
    from pythia_rt import _core  # not for a command's help

    return one_of(_core.kv_format_names())(name, value)


class LoadingOptions(TypedDict, total=False):
    """The fields of `Loading` as keyword arguments of `Model.load` and its like.

    None stands for a field's default, as in `Loading`.
    """

    threads: int | None
    kv_format: str | None
    copy: bool | None
    device: str | None
    gpu_layers: int | None


@dataclass(frozen=True, kw_only=True)
class Loading(Options):
    """How to load a model. Every field is checked: a bad one is a ValueError of one sentence.

    None stands for the default in every field. `threads` is by default the number of physical cores
    that this process may use, the fast ones where they differ. `kv_format` is that of the key-value
    cache, "f16", "f32" or "q8" (8 bits and scales, half the memory of "f16"); by default "f32" for
    a file of f32 weights and for a model whose keys or values may be too large for "f16", else
    that. The weights are mapped, so loading takes no time and processes share them; with `copy`
    they are read into this process's own memory, in large pages where the system has them, which
    writes text about 10 % faster.

    `device` is "cpu", "cuda", or "auto" for the CUDA device if there is one with room for the
    model. With `gpu_layers` only so many layers, the first ones, run there and the processor runs
    the rest. Results are the same to the bit (docs/cuda.md).
    """

    threads: int | None = option(
        None,
        lambda _, value: checked_threads(value),
        "Threads to compute with.",
        kind=int,
        shown="performance cores",
    )
    kv_format: str | None = option(
        None,
        _read_kv_format,
        "Format of the KV cache: f16, f32, q8.",
        kind=str,
        shown="f16, or f32 where needed",
    )
    copy: bool = option(False, flag, "Copy the weights into memory first.", kind=bool)
    device: str = option(
        "cpu", one_of(DEVICES), f"Where to run: {', '.join(DEVICES)}.", kind=str, shown="cpu"
    )
    gpu_layers: int | None = option(
        None,
        integer(lambda _: True, "a whole number of layers"),
        "Run so many layers there, the CPU the rest.",
        kind=int,
        shown="all",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpu_layers is not None and self.device == "cpu":
            raise ValueError(
                "gpu_layers is for device='cuda' or device='auto': the processor runs all layers"
            )
