"""The backends that tests compare: every instruction set, the emulated CUDA device and a real one.

`_testing` and `_emulated` are test extensions, in the folder that PYTHIA_RT_TESTING_DIR names;
PYTHIA_RT_EMULATED_DIR names another folder for the latter, with other kernels (tests/cuda).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import testing_extension

if not os.environ.get(testing_extension.VARIABLE):
    pytest.skip("PYTHIA_RT_TESTING_DIR does not name a build of _testing", allow_module_level=True)


def _load_emulated() -> ModuleType:
    folder = os.environ.get("PYTHIA_RT_EMULATED_DIR") or os.environ[testing_extension.VARIABLE]
    found = sorted(Path(folder).glob("_emulated*.so"))
    if not found:
        raise FileNotFoundError(f"{folder} has no build of _emulated")
    spec = importlib.util.spec_from_file_location("_emulated", found[0])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_emulated"] = module
    spec.loader.exec_module(module)
    return module


_testing: Any = testing_extension.load()
_emulated: Any = _load_emulated()

Floats = NDArray[np.float32]
ORDERS = ("fifo", "reverse", "random", "skew")


@dataclass(frozen=True)
class Subject:
    """A backend to compare with the scalar one."""

    name: str
    module: Any

    def make(self) -> Any:
        return self.module.TestBackend(self.name)

    def __str__(self) -> str:
        return "emulated" if self.module is _emulated else self.name


def why_no_device() -> str:
    """Why tests marked gpu cannot run; empty if they can."""
    reason: str = _testing.cuda_unavailable()
    return f"no CUDA device: {reason}" if reason else ""


def make_reference() -> Any:
    """The scalar backend: the specification of all others."""
    return _testing.TestBackend("scalar")


EMULATED = Subject("cuda", _emulated)
# A real device, where one is there and _testing was built for it.
DEVICE = pytest.param(Subject("cuda", _testing), marks=pytest.mark.gpu, id="gpu")
SUBJECTS = [
    *(pytest.param(Subject(isa, _testing), id=isa) for isa in _testing.isa_names()[:-1]),
    pytest.param(EMULATED, id="emulated"),
    DEVICE,
]


def normal(seed: int, *shape: int, magnitude: float = 1.0) -> Floats:
    values = np.random.default_rng(seed).standard_normal(shape) * magnitude
    return values.astype(np.float32)


def set_order(order: tuple[str, int]) -> None:
    _emulated.set_order(*order)


def assert_same_bits(found: Any, expected: Any) -> None:
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_bits(ours, theirs)
        return
    different = found.view(np.uint32) != expected.view(np.uint32)
    if different.any():
        place = tuple(int(i) for i in np.argwhere(different)[0])
        pytest.fail(
            f"{different.sum()} of {different.size} differ, first at {place}: "
            f"{found[place]!r}, reference {expected[place]!r}"
        )


def pack(form: str, seed: int, rows: int, columns: int) -> list[NDArray[np.uint8]]:
    parts: list[NDArray[np.uint8]] = _testing.pack("scalar", form, normal(seed, rows, columns))
    return parts


def product(
    module: Any, form: str, seed: int, rows: int, values: Floats, epilogue: str, has_bias: bool,
    gated: bool = False,
) -> Any:  # fmt: skip
    return module.ProductCase(
        form,
        pack(form, seed, rows, values.shape[1]),
        rows,
        values.shape[1],
        values,
        epilogue,
        normal(seed + 1, rows) if has_bias else None,
        gated,
    )
