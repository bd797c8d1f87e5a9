"""llama.cpp, through llama-cpp-python, as one more runtime to compare with: optional."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench import ROOT


def missing(*packages: str) -> list[str]:
    """Which of the packages are not installed."""
    return [name for name in packages if find_spec(name) is None]


def installed_version() -> str | None:
    """Of llama-cpp-python."""
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


class LlamaCpp:
    """A GGUF file that computes logits, in windows that know nothing of each other."""

    def __init__(self, path: Path, window: int, threads: int):
        """Load the file, with room for `window` tokens and a key-value cache of 32-bit floats."""
        import llama_cpp

        self._llama = llama_cpp.Llama(
            str(path),
            n_ctx=window,
            n_batch=window,
            n_ubatch=window,
            logits_all=True,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )

    def logits(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the logits [n, vocabulary] after each of `tokens`, until the next call."""
        self._llama.reset()
        self._llama.eval(tokens.tolist())
        scores: NDArray[np.float32] = self._llama.scores[: len(tokens)]
        return scores


def quantise(source: Path, destination: Path, form: str, importance: Path | None = None) -> None:
    """Quantise a GGUF file into `form`, such as "Q4_K_M", by a file of `studies.importance` if any.

    In a process of its own: after a model was loaded in the same one, llama.cpp's quantisation
    crashes. Raises RuntimeError with what it printed.
    """
    command = [sys.executable, "-m", "bench.peers.llama_quantize", source, destination, form]
    command += [importance] if importance is not None else []
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    if done.returncode != 0:
        said = done.stderr.strip() or f"its process ended with {done.returncode}"
        raise RuntimeError(f"llama.cpp could not make {form}: {said[-2000:]}")
