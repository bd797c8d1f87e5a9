"""This project, on a flat file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.fresh import kv_bytes
from bench.peers.protocol import Reads, Room, Tokens
from pythia_rt import _core
from pythia_rt.convert import FlatFile
from pythia_rt.devices import make_core_model
from pythia_rt.loading import Loading
from pythia_rt.scoring.judge import Question, answer


class PythiaRt:
    """A Stepper and a Scorer."""

    def __init__(
        self, path: Path, threads: int, room: Room, kv_format: str = "f16", device: str = "cpu"
    ):
        """Load the file, all layers on `device`."""
        self._file = FlatFile(path)
        self.model = make_core_model(self._file, Loading(threads=threads, device=device))
        self.vocab_size: int = self._file.spec["vocab_size"]
        self.reads = Reads(
            self.model.bytes_per_token, kv_bytes(self._file.spec, kv_format, 128) // 128
        )
        self._room, self._kv_format = room, kv_format
        self._made: dict[int, list[_core.Session]] = {}  # by how many run together
        self._running: list[_core.Session] = []
        self._following: list[Tokens] = []

    def start(self, *prompts: Tokens) -> None:
        """See Runner."""
        self._running = self._sessions(len(prompts))
        for session, prompt in zip(self._running, prompts, strict=True):
            session.rewind(0)
            session.prefill(prompt)
        self._following = [_likeliest(session.last_logits) for session in self._running]

    def step(self) -> None:
        """See Stepper."""
        if len(self._running) == 1:
            self._running[0].prefill(self._following[0])
            self._following[0] = _likeliest(self._running[0].last_logits)
        else:
            logits = _core.forward(self._running, self._following)
            self._following = [_likeliest(row) for row in logits]

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """See Scorer."""
        questions = [Question(text[:1], text[1:]) for text in texts]
        answers = answer(lambda: _core.Session(self.model, kv_format=self._kv_format), questions)
        return [each.log_probabilities for each in answers]

    def _sessions(self, count: int) -> list[_core.Session]:
        if count not in self._made:
            room = self._room.of(count)
            self._made[count] = [
                _core.Session(self.model, capacity=room, kv_format=self._kv_format)
                for _ in range(count)
            ]
        return self._made[count]


def _likeliest(logits: NDArray[np.float32]) -> Tokens:
    return np.array([logits.argmax()], np.int32)
