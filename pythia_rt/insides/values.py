"""From the rows that the runtime has at a point to the values that the checkpoint has there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.names import BY_NAME, Place

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile.spec import Spec
    from pythia_rt.insides.basis import Affine, Basis

Floats = NDArray[np.float32]
Values = NDArray[Any]  # float32, or float16 where that was asked for

_GATED = ("mlp_pre", "mlp_pre_linear")  # in one row of a gated MLP


class Reading:
    """Makes values of a model's rows."""

    def __init__(
        self, spec: Spec, basis: Basis, weight: Callable[[str], Floats] | None = None
    ) -> None:
        """Of a model with this spec, whose file has this basis and these weights."""
        self.spec = spec
        self._basis = basis
        self._weight = weight
        self._affines: dict[Place, Affine | None] = {}
        self._columns: dict[str, NDArray[np.int64] | None] = {}

    def source(self, place: Place) -> Place:
        """The place of the runtime that its values are made of."""
        point, layer = place
        norm, dot, _ = point.partition(".")
        if point == "result":
            return Place("z", layer)
        if point == "mlp_pre_linear":
            return Place("mlp_pre", layer)
        if not dot:
            return place
        if norm == "final_norm":
            return Place("resid_post", self.spec["n_layers"] - 1)
        is_mid = norm == "mlp_norm" and self.spec["block"] == "sequential"
        return Place("resid_mid" if is_mid else "resid_pre", layer)

    def is_as_run(self, place: Place) -> bool:
        """Whether the runtime's rows are the values, but for their shape."""
        if BY_NAME[place.point].derived:
            return False
        return self._affine(place) is None and self._order(place.point) is None

    def shape(self, place: Place) -> tuple[int, ...]:
        """The shape of a token's values."""
        spec, kind = self.spec, BY_NAME[place.point].shape
        if kind == "mlp":
            columns = self._order(place.point)
            return (spec["mlp_size"] if columns is None else len(columns),)
        shapes: dict[str, tuple[int, ...]] = {
            "hidden": (spec["hidden_size"],),
            "queries": (spec["n_heads"], spec["head_dim"]),
            "keys": (spec["n_kv_heads"], spec["head_dim"]),
            "scale": (1,),
            "results": (spec["n_heads"], spec["hidden_size"]),
        }
        return shapes[kind]

    def values(self, place: Place, rows: Values) -> Values:
        """The values [n, ...] of rows [n, width] of its source, which may be written over."""
        affine, columns = self._affine(place), self._order(place.point)
        if affine is not None:
            rows *= affine.scale
            rows += affine.shift
        if columns is not None:
            rows = rows[:, columns]
        what = place.point.partition(".")[2]
        if what in ("scale", "normalized"):
            rows = self._normed(rows, what)
        elif place.point == "result":
            rows = self._results(place, rows)
        return rows.reshape(len(rows), *self.shape(place))

    def affine(self, place: Place, a: Floats, b: Floats) -> tuple[Floats, Floats]:
        """Scale and shift of the runtime's rows that make a c + b of the values c.

        `a` has the shape of a token's values, `b` that or a row of it for each position. Raises
        ValueError where the file does not have what is to be changed.
        """
        scale: Floats = a.reshape(-1)
        shift: Floats = b.reshape(len(b), a.size) if b.ndim > a.ndim else b.reshape(-1)
        columns, affine = self._order(place.point), self._affine(place)
        if columns is not None:
            width = self._width(place)
            all_scale, all_shift = np.ones(width), np.zeros((*shift.shape[:-1], width))
            all_scale[columns], all_shift[..., columns] = scale, shift
            scale, shift = all_scale.astype(np.float32), all_shift.astype(np.float32)
        if affine is not None:
            scale, shift = affine.edit(scale, shift)
        return np.ascontiguousarray(scale, np.float32), np.ascontiguousarray(shift, np.float32)

    def put(self, place: Place, values: Floats, rows: Floats) -> None:
        """Write values [n, ...] into the runtime's rows [n, width]. Raises as `affine`."""
        columns, affine = self._order(place.point), self._affine(place)
        found = values.reshape(len(values), -1)
        if columns is not None:
            full = rows if affine is None else affine.to_checkpoint(rows)
            full[:, columns] = found
            found = full
        rows[:] = found if affine is None else affine.to_runtime(found)

    def check_known(self, place: Place, *, is_edited: bool = False) -> None:
        """Raise MissingBasis where the file does not say what the runtime's scores lack, or the
        values that an edited pattern mixes. Patterns that are seen are the same without, but for
        their last bits."""
        if place.point == "scores":
            self._basis.key_constant(place.layer, point="scores")
        if is_edited and place.point in ("scores", "pattern"):
            self._basis.value_constant(place.layer)

    def _affine(self, place: Place) -> Affine | None:
        source = self.source(place)
        if source not in self._affines:
            self._affines[source] = self._basis.of(*source)
        return self._affines[source]

    def _order(self, point: str) -> NDArray[np.int64] | None:
        """The runtime's channels that the values are, in their order; None for all as they are."""
        if point not in self._columns:
            source = "mlp_pre" if point == "mlp_pre_linear" else point
            order = self._basis.order(source)
            if point in _GATED and order is not None and self.spec["mlp"] == "gated":
                gate, up = np.split(order, 2)
                order = up if point == "mlp_pre_linear" else gate
            self._columns[point] = order
        return self._columns[point]

    def _width(self, place: Place) -> int:
        """Of the runtime's rows, where some of them are chosen or their order is another."""
        if place.point in _GATED:
            return 2 * self.spec["mlp_size"]
        if place.point == "mlp_post":
            return self.spec["mlp_size"]
        return int(np.prod(self.shape(place)))

    def _normed(self, rows: Values, what: str) -> Values:
        """What a norm divides by, or what it gives before gain and bias."""
        if self.spec["norm"] == "layer":
            rows = rows - rows.mean(axis=1, keepdims=True)
        scale = np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + self.spec["norm_eps"])
        normed: Values = scale if what == "scale" else rows / scale
        return normed

    def _results(self, place: Place, rows: Values) -> Values:
        """What each head adds, of z."""
        assert self._weight is not None
        outputs = self._weight(f"layers.{place.layer}.o.weight")  # [hidden, heads, head_dim]
        z = rows.reshape(len(rows), self.spec["n_heads"], self.spec["head_dim"]).transpose(1, 0, 2)
        return np.ascontiguousarray((z @ outputs.transpose(1, 2, 0)).transpose(1, 0, 2))
