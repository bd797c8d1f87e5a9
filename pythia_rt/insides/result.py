"""What `Model.run` returns."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.lookup import Name, Names
from pythia_rt.insides.names import BY_NAME, Place, canonical

Values = NDArray[Any]  # float32, or float16 where that was asked for


class Run(Mapping[str, Any]):
    """Values at points of a pass, and its logits.

    A mapping from our names to arrays, which also takes every other name of a point (names.py) and
    tuples such as ("resid_post", -1). Of one text `run["layers.3.q"]` is [p, heads, head_dim], with
    a row for each of the p positions that were asked for; of a batch it is a list with one such
    array for each text, which are of different lengths. `flat` gives all tokens in one array.
    """

    def __init__(
        self,
        names: Names,
        tokens: Sequence[NDArray[np.int32]],
        positions: Sequence[NDArray[np.int64]],
        groups: Sequence[range],
        values: Mapping[Place, list[Values]],
        logits: list[NDArray[np.float32]] | None,
        *,
        is_batch: bool,
    ) -> None:
        """`values` are the rows of each of the `groups` of texts, but scores of each text."""
        self._names = names
        self._tokens = list(tokens)
        self._positions = list(positions)
        self._groups = list(groups)
        self._values = dict(values)
        self._logits = logits
        self._offsets = np.cumsum([0, *map(len, positions)], dtype=np.int64)
        self.is_batch = is_batch

    def __getitem__(self, name: Name) -> Any:
        """The array of a point, or a list of one for each text.

        Raises KeyError for a point that was not captured, ValueError for a name that is none.
        """
        return self._shown(self._of_texts(self._captured(name)))

    def __iter__(self) -> Iterator[str]:
        return map(canonical, self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        try:
            return self._names.find(name) in self._values  # type: ignore[arg-type]
        except ValueError:
            return False

    def __repr__(self) -> str:
        what = f"{len(self._tokens)} texts" if self.is_batch else f"{len(self._tokens[0])} tokens"
        return f"<pythia_rt Run of {what} with {len(self)} points>"

    @property
    def logits(self) -> Any:
        """Logits after each token, float32 [n, vocab_size], or [1, vocab_size] where the last ones
        were asked for; of a batch a list of such. Raises ValueError where there are none."""
        if self._logits is None:
            raise ValueError("this run has no logits: it was to compute none")
        return self._shown(self._logits)

    @property
    def tokens(self) -> Any:
        """Token ids, int32 [n]; of a batch a list of such."""
        return self._shown(self._tokens)

    @property
    def positions(self) -> Any:
        """The positions that were captured, int64 [p]; of a batch a list of such."""
        return self._shown(self._positions)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each text begins in `flat`, and where the last one ends, int64 [texts + 1]."""
        offsets: NDArray[np.int64] = self._offsets.copy()
        return offsets

    def flat(self, name: Name) -> Values:
        """The values of all texts' tokens in one array [sum of p, ...], not copied where all texts
        were read together.

        Raises ValueError for scores and patterns, whose sizes differ, and KeyError as `run[name]`.
        """
        place = self._captured(name)
        if BY_NAME[place.point].shape == "scores":
            raise ValueError(f"{canonical(place)} is [heads, p, n] of each text: it cannot be flat")
        parts = self._values[place]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def stack(self, point: str) -> Any:
        """The values of all captured layers, from the first on, [layers, p, ...]; of a batch a list
        of such.

        `point` is a point's name, such as "resid_post". Raises KeyError where no layer has it.
        """
        wanted = self._names.find((point, 0)).point
        layers = sorted(place for place in self._values if place.point == wanted)
        if not layers:
            raise KeyError(f"{point} was captured in no layer: add it to capture")
        of_layers = [self._of_texts(place) for place in layers]
        return self._shown([np.stack(each) for each in zip(*of_layers, strict=True)])

    def _captured(self, name: Name) -> Place:
        place = self._names.find(name)
        if place not in self._values:
            raise KeyError(f"{canonical(place)} was not captured: add it to capture")
        return place

    def _of_texts(self, place: Place) -> list[Values]:
        parts = self._values[place]
        if BY_NAME[place.point].shape == "scores":
            return parts
        rows = []
        for group, part in zip(self._groups, parts, strict=True):
            starts = self._offsets[group.start : group.stop + 1] - self._offsets[group.start]
            rows += [part[a:b] for a, b in itertools.pairwise(starts)]
        return rows

    def _shown(self, of_texts: list[Any]) -> Any:
        return of_texts if self.is_batch else of_texts[0]
