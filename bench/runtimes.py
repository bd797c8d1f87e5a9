"""The runtimes that are compared, behind one small interface.

Each loads a model and can read a prompt and then write greedily, one token at a time. Which are at
hand depends on what is installed: the others raise UnavailableError, with a line to print.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


class UnavailableError(Exception):
    """This runtime cannot be measured here; the message says why."""


class Runtime(Protocol):
    """One model in one runtime."""

    name: str

    def prefill(self, tokens: Tokens) -> None:
        """Forget everything, then read `tokens` in one call, to the logits after the last one."""

    def decode(self, count: int) -> None:
        """Write `count` more tokens, the likeliest each time, one by one."""


class PythiaRt:
    """This project, from a flat file."""

    def __init__(self, path: Path, threads: int) -> None:
        from pythia_rt import _core
        from pythia_rt.convert.flatfile import FlatFile

        file = FlatFile(path)
        self._model = _core.Model(dict(file.spec), file.formats, file.tensors, threads=threads)
        self._session = _core.Session(self._model)
        self._sampler = _core.Sampler(n_tokens=file.spec["n_tokens"], temperature=0.0)
        self.bytes_per_token = self._model.bytes_per_token
        self.name = f"pythia_rt {file.metadata['recipe']} ({self._model.isa})"

    def prefill(self, tokens: Tokens) -> None:
        self._session.rewind(0)
        self._session.prefill(tokens)

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._session.step(self._sampler)


class Transformers:
    """Hugging Face transformers on PyTorch, its default attention, from the checkpoint's folder."""

    def __init__(self, folder: Path, threads: int, dtype: str) -> None:
        try:
            import torch
            import transformers
        except ImportError:
            raise UnavailableError(f"transformers {dtype}: not installed, skipped") from None
        torch.set_num_threads(threads)
        self._torch = torch
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype)
        )
        self._state: Any = None
        self.name = f"transformers {transformers.__version__} {dtype}"

    def prefill(self, tokens: Tokens) -> None:
        self._run(self._torch.tensor([tokens.tolist()]), None)

    def decode(self, count: int) -> None:
        for _ in range(count):
            self._run(self._next, self._state)

    def _run(self, ids: Any, state: Any) -> None:
        with self._torch.inference_mode():
            result = self._model(ids, past_key_values=state, use_cache=True, logits_to_keep=1)
        self._state = result.past_key_values
        self._next = result.logits[:, -1:].argmax(-1)
