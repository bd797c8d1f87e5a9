"""Runs models and their unquantised reference over a text, window by window, and tallies both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.evaluation.measures import Tally
from pythia_rt.evaluation.windows import cut
from pythia_rt.model import Model


class Logits(Protocol):
    """A model that computes logits, in windows that know nothing of each other."""

    def logits(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the logits [n, vocabulary] after each of `tokens`, until the next call."""


class PythiaRt:
    """This project, on a flat file."""

    def __init__(self, path: Path, window: int, threads: int):
        """Load the file, with room for `window` tokens and a key-value cache of 32-bit floats."""
        model = Model(FlatFile(path), threads=threads, kv_format="f32")
        self._session = model.new_session(window)

    def logits(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """See Logits."""
        self._session.rewind(0)
        return self._session.logits(tokens)


def tally_all(
    reference: Logits, models: Mapping[str, Logits], tokens: NDArray[np.int32], window: int
) -> dict[str, Tally]:
    """Measure every model against `reference`, which reads each window once for all of them.

    The windows are disjoint, and of logits only those of one window are in memory. Raises
    NotFiniteError.
    """
    tallies = {name: Tally(window) for name in models}
    for part in tqdm(cut(len(tokens), window, window), unit="window", disable=None):
        ids = tokens[part.start : part.stop]
        truth = reference.logits(ids)
        for name, model in models.items():
            tallies[name].add(model.logits(ids), truth, ids[1:], 0, 0)
    return tallies
