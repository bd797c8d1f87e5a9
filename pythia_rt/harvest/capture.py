"""What is at points of a model while it reads windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.lookup import Capture as Points
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import BY_NAME, Place, canonical
from pythia_rt.insides.run import Runner
from pythia_rt.options import one_of
from pythia_rt.overflow import all_finite

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]
Rows = NDArray[Any]  # [tokens, width] of float32 or float16

DTYPES = {"f16": np.float16, "f32": np.float32}


class Capturing:
    """Reads windows and keeps what is at some points; neither the head runs nor a layer after the
    last one that is asked for."""

    def __init__(self, model: Model, points: Points, dtype: str) -> None:
        """Raises ValueError for a point that the model does not have, or that has no row for each
        token, and for another `dtype` than "f16" and "f32"; MissingBasis as `Model.run` does."""
        check_dtype(dtype)
        self._dtype = dtype
        self._runner = Runner(model)
        self._places = places_of(self._runner.names, points)
        # What is in no layer is before the first one, or behind the last.
        is_behind = any(place.point.startswith("final_norm") for place in self._places.values())
        layers = [max(place.layer, 0) for place in self._places.values()]
        self._last = None if is_behind else max(layers)

    @property
    def widths(self) -> dict[str, int]:
        """Their names, "layers.3.resid_post", and the values of a token there."""
        shape = self._runner.reading.shape
        return {name: math.prod(shape(place)) for name, place in self._places.items()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the rows."""
        return np.dtype(DTYPES[self._dtype])

    def rows(self, windows: Sequence[Ids]) -> list[Rows]:
        """Of each point the rows of all tokens of the windows, [tokens, width].

        Raises RuntimeError, with the point, for what is no number of the type.
        """
        texts: list[NDArray[np.integer[Any]]] = [*windows]
        try:
            run = self._runner.run(
                texts,
                list(self._places),
                stop_after_layer=self._last,
                logits=None,
                dtype=self._dtype,
            )
        except OverflowError as error:
            raise RuntimeError(str(error)) from None
        found = []
        for name in self._places:
            rows = run.flat(name)
            found.append(np.ascontiguousarray(rows.reshape(len(rows), -1), self.dtype))
            if not all_finite(found[-1]):
                raise RuntimeError(f"{name} has a value that is not finite")
        return found


def check_dtype(dtype: str) -> None:
    """Raise ValueError for another one than "f16" and "f32"."""
    one_of(list(DTYPES))("dtype", dtype)


def places_of(names: Names, points: Points) -> dict[str, Place]:
    """The places to harvest, by their names. Raises ValueError where one has no rows, or none is
    named, and as `names` does."""
    found = {
        canonical(place): place
        for place in names.select(points, lambda place: _has_rows(place.point))
    }
    if not found:
        raise ValueError("points must name at least one")
    for name, place in found.items():
        if not _has_rows(place.point):
            raise ValueError(
                f"{name} cannot be harvested, as scores, patterns and result cannot: "
                "`Model.run` gives them"
            )
    return found


def _has_rows(point: str) -> bool:
    """Whether there is a row for each token; of what heads add there are only those of NumPy's
    products, whose last bits follow from how many are multiplied."""
    return BY_NAME[point].shape not in ("scores", "results")
