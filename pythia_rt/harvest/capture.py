"""What is at points of a model while it reads windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.insides.basis import Basis
from pythia_rt.insides.lookup import Capture as Points
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import BY_NAME, Place, canonical
from pythia_rt.options import one_of

if TYPE_CHECKING:
    from pythia_rt.model import Model

Ids = NDArray[np.int32]
Rows = NDArray[Any]  # [tokens, width] of float32 or float16

DTYPES = {"f16": np.float16, "f32": np.float32}
# Tokens that are read together: enough that few passes are half empty, few enough for the key-value
# caches of all of them to stay small.
TOGETHER = 1024


class Capturing:
    """Reads windows and keeps what is at some points; neither the head runs nor a layer after the
    last one that is asked for."""

    def __init__(self, model: Model, points: Points, dtype: str) -> None:
        """Raises ValueError for a point that the model does not have, or that has no row for each
        token, and for another `dtype` than "f16" and "f32"; MissingBasis as `Basis` does."""
        one_of(list(DTYPES))("dtype", dtype)
        self._model = model
        self._dtype = dtype
        spec = model.file.spec
        self._widths = {name: width for name, _, width in model._core.points}

        def has_rows(place: Place) -> bool:
            is_half = spec["mlp"] == "gated" and place.point == "mlp_pre"  # of what is computed
            of_keys = BY_NAME[place.point].shape == "scores"
            return place.point in self._widths and not (is_half or of_keys)

        chosen = Names(spec).select(points, has_rows)
        self._places = {canonical(place): place for place in chosen}
        if not self._places:
            raise ValueError("points must name at least one")
        for name, place in self._places.items():
            if not has_rows(place):
                raise ValueError(f"{name} is not harvested, which has no rows in the runtime")
        basis = Basis(model.file)
        self._affine = [basis.of(*place) for place in chosen]
        self._order = [basis.order(place.point) for place in chosen]
        # What is in no layer is before the first one, or behind the last.
        is_behind = any(place.point == "final_norm" for place in chosen)
        self._end = None if is_behind else 1 + max(max(place.layer, 0) for place in chosen)

    @property
    def widths(self) -> dict[str, int]:
        """Their names, "layers.3.resid_post", and the values of a token there."""
        return {
            name: self._widths[place.point] if order is None else len(order)
            for (name, place), order in zip(self._places.items(), self._order, strict=True)
        }

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the rows."""
        return np.dtype(DTYPES[self._dtype])

    def rows(self, windows: Sequence[Ids]) -> list[Rows]:
        """Of each point the checkpoint's values for all tokens of the windows, [tokens, width].

        Raises RuntimeError, with the point, for what is no number of the type.
        """
        sessions = [self._model.new_session(len(window)) for window in windows]
        _, captured = _core.run(
            sessions,
            list(windows),
            capture=[(place.point, place.layer) for place in self._places.values()],
            logits="none",
            end_layer=self._end,
            half=self._dtype == "f16" and not any(self._affine),
        )
        found: list[Rows] = []
        for name, rows, affine, order in zip(
            self._places, captured, self._affine, self._order, strict=True
        ):
            values = rows if affine is None else affine.to_checkpoint(rows)
            values = values if order is None else values[:, order]
            with np.errstate(over="ignore"):
                found.append(np.ascontiguousarray(values, self.dtype))
            if not all_finite(found[-1]):
                raise self._not_finite(name)
        return found

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
