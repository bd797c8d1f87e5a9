"""Quantises a GGUF file with llama.cpp: python -m bench.peers.llama_quantize SOURCE TARGET FORMAT.

A fourth argument is a file of importances (bench.studies.importance), which weight the errors. The
program of llama.cpp that does the same is not in llama-cpp-python, the call behind it is.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray


def quantise(
    source: Path, destination: Path, form: str, importance: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write `destination`; `importance` is {GGUF name of a matrix: a weight for each column}."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    number = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{form}", None)
    if number is None:
        raise SystemExit(f"{form!r} is no format of this llama.cpp")
    parameters.ftype = number
    if importance:
        # An entry without a name ends the list.
        entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
        for entry, (name, values) in zip(entries, importance.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
        parameters.imatrix = entries
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(destination).encode(), ctypes.byref(parameters)
    )
    if failed:
        raise SystemExit(f"llama_model_quantize returned {failed}")


def main() -> None:
    """Take the arguments as they come: bench.peers.llama gives them."""
    source, destination, form, *rest = sys.argv[1:]
    importance = {}
    for path in rest:
        with np.load(path) as file:
            importance = {name: np.ascontiguousarray(file[name], np.float32) for name in file}
    quantise(Path(source), Path(destination), form, importance)


if __name__ == "__main__":
    main()
