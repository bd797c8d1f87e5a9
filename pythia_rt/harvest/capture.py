"""What is at points of a model while it reads windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.insides.lookup import Capture as Points
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import canonical
from pythia_rt.options import one_of

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]
Rows = NDArray[Any]  # [tokens, width] of float32 or float16

DTYPES = {"f16": np.float16, "f32": np.float32}
# Tokens that are read together: enough that few passes are half empty, few enough for the key-value
# caches of all of them to stay small.
TOGETHER = 1024
_IN_THE_STREAM = ("embed", "resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post")


class Capturing:
    """Reads windows and keeps what is at some points; the head does not run."""

    def __init__(self, model: Model, points: Points, dtype: str) -> None:
        """Raises ValueError for a point that the model does not have, or that has no row for each
        token, and for another `dtype` than "f16" and "f32"."""
        one_of(list(DTYPES))("dtype", dtype)
        self._model = model
        self._dtype = dtype
        names = Names(model.file.spec)
        self._places = {
            canonical(place): place
            for place in names.select(points, lambda place: place.point in _IN_THE_STREAM)
        }
        for name, place in self._places.items():
            if place.point not in _IN_THE_STREAM:
                raise ValueError(
                    f"{name} is not harvested: the points are {', '.join(_IN_THE_STREAM)}"
                )
        if not self._places:
            raise ValueError("points must name at least one")

    @property
    def widths(self) -> dict[str, int]:
        """Their names, "layers.3.resid_post", and the values of a token there."""
        of_point = {name: width for name, _, width in self._model._core.points}
        return {name: of_point[point] for name, (point, _) in self._places.items()}

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the rows."""
        return np.dtype(DTYPES[self._dtype])

    def rows(self, windows: Sequence[Ids]) -> list[Rows]:
        """Of each point the rows of all tokens of the windows, [tokens, width].

        Raises RuntimeError, with the point, for what is no number of the type.
        """
        sessions = [self._model.new_session(len(window)) for window in windows]
        _, captured = _core.run(
            sessions,
            list(windows),
            capture=[(place.point, place.layer) for place in self._places.values()],
            logits="none",
            end_layer=1 + max(max(place.layer, 0) for place in self._places.values()),
            half=self._dtype == "f16",
        )
        for name, rows in zip(self._places, captured, strict=True):
            if not all_finite(rows):
                raise self._not_finite(name)
        return list(captured)

    def _not_finite(self, name: str) -> RuntimeError:
        if self._dtype == "f16":
            return RuntimeError(
                f"{name} has a value beyond 65504, where float16 ends: dtype='f32' has room for it"
            )
        return RuntimeError(f"{name} has a value that is not finite")


def groups(windows: Iterable[Ids]) -> Iterator[list[Ids]]:
    """Yield windows that are read together."""
    group: list[Ids] = []
    n_tokens = 0
    for window in windows:
        if group and n_tokens + len(window) > TOGETHER:
            yield group
            group, n_tokens = [], 0
        group.append(window)
        n_tokens += len(window)
    if group:
        yield group


def all_finite(rows: Rows) -> bool:
    """Whether all values are finite. Exact, and as fast as memory for float16 too."""
    if rows.dtype != np.float16:
        return bool(np.isfinite(rows).all())
    if not rows.size:
        return True
    # The bits of infinities and of what is no number lie above those of all other numbers of their
    # sign.
    largest_positive, largest_negative = rows.view(np.int16).max(), rows.view(np.uint16).max()
    return bool(largest_positive < 0x7C00 and largest_negative < 0xFC00)
