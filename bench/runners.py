"""Runtimes to measure, behind one small interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert import FlatFile

Tokens = NDArray[np.int32]


class Runner(Protocol):
    """One sequence at a time, written greedily."""

    vocab_size: int

    def start(self, tokens: Tokens) -> None:
        """Forget everything and read a prompt, as far as the logits after its last token."""

    def step(self) -> None:
        """Take the likeliest token and compute the logits after it."""


class PythiaRt:
    """This project, on a flat file."""

    def __init__(self, path: Path, threads: int | None, kv_format: str = "f16"):
        """Load the file; `threads` None: the default."""
        self._file = FlatFile(path)
        self.model = _core.Model(
            dict(self._file.spec), self._file.formats, self._file.tensors, threads=threads or 0
        )
        self.vocab_size: int = self._file.spec["vocab_size"]
        self._session = _core.Session(self.model, kv_format=kv_format)
        self._last = np.zeros(1, np.int32)

    def start(self, tokens: Tokens) -> None:
        """See Runner."""
        self._session.rewind(0)
        self._session.prefill(tokens)

    def step(self) -> None:
        """See Runner."""
        self._last[0] = self._session.last_logits.argmax()
        self._session.prefill(self._last)


class Transformers:
    """transformers on a checkpoint folder, with torch's fused attention."""

    def __init__(self, folder: Path, threads: int | None, dtype: str):
        """Load the checkpoint as `dtype`, torch's name of a type; raises ImportError without it."""
        import torch
        import transformers

        self._torch = torch
        torch.set_num_threads(threads or _core.default_threads())
        maker: Any = transformers.AutoModelForCausalLM  # torch's types hide what this returns
        self._model = maker.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
        ).eval()
        self.vocab_size: int = self._model.config.vocab_size
        self._output: Any = None

    def start(self, tokens: Tokens) -> None:
        """See Runner."""
        self._forward(self._torch.from_numpy(tokens.astype(np.int64))[None], None)

    def step(self) -> None:
        """See Runner."""
        token = self._output.logits[:, -1].argmax(-1, keepdim=True)
        self._forward(token, self._output.past_key_values)

    def _forward(self, ids: Any, past: Any) -> None:
        with self._torch.inference_mode():
            self._output = self._model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)


def prefill_rate(runner: Runner, tokens: Tokens) -> Callable[[], float]:
    """Return a measurement of reading `tokens`, in tokens per second."""

    def measure() -> float:
        start = time.perf_counter()
        runner.start(tokens)
        return len(tokens) / (time.perf_counter() - start)

    return measure


def decode_rate(runner: Runner, tokens: Tokens, count: int) -> Callable[[], float]:
    """Return a measurement of writing `count` tokens after `tokens`, in tokens per second."""

    def measure() -> float:
        runner.start(tokens)
        start = time.perf_counter()
        for _ in range(count):
            runner.step()
        return count / (time.perf_counter() - start)

    return measure


def random_tokens(count: int, vocab_size: int) -> Tokens:
    """Return the same `count` token ids each time."""
    return np.random.default_rng(0).integers(0, vocab_size, count, np.int32)
