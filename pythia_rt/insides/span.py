"""Which layers a run runs, and what it begins with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pythia_rt.convert.errors import shown
from pythia_rt.insides.inputs import floats, whole_numbers
from pythia_rt.insides.names import Place, canonical
from pythia_rt.insides.result import Run
from pythia_rt.insides.values import Floats

BEFORE = ("embed", "pos_embed", "embed_norm")  # points of no layer; others are behind the last one


class Span(NamedTuple):
    """The layers from `first` to before `end` (None: to the head), or those of `order`."""

    n_layers: int
    first: int = 0
    end: int | None = None
    order: list[int] | None = None
    embeds: bool = True

    def has(self, place: Place) -> bool:
        """Whether the run comes to a place."""
        if place.layer < 0:
            return self.embeds if place.point in BEFORE else self.end is None
        if self.order is not None:
            return place.layer in self.order
        return self.first <= place.layer < (self.n_layers if self.end is None else self.end)

    def check(self, places: Iterable[Place]) -> None:
        """Raise ValueError for a place that the run does not come to."""
        for place in places:
            if self.has(place):
                continue
            if self.order is not None:
                why = f"it runs the layers {', '.join(map(str, self.order))}"
            elif place.layer >= self.first or (place.point not in BEFORE and place.layer < 0):
                why = f"it stops after layer {(self.end or self.n_layers) - 1}"
            else:
                why = f"it starts at layer {self.first}"
            raise ValueError(f"the run does not come to {canonical(place)}: {why}")


def read_span(
    n_layers: int,
    stop_after_layer: int | None,
    start_at: tuple[int, Any] | None,
    layers: Sequence[int] | None,
) -> Span:
    """The layers that are run. Raises ValueError for contradictory arguments."""
    if layers is not None:
        if stop_after_layer is not None or start_at is not None:
            raise ValueError("layers says what runs: leave out stop_after_layer and start_at")
        order = _layers(layers, n_layers)
        if len(set(order)) != len(order):
            raise ValueError("layers names a layer twice: each runs at most once")
        return Span(n_layers, order=order)
    first = 0
    if start_at is not None:
        if not isinstance(start_at, tuple) or len(start_at) != 2:
            raise ValueError(
                "start_at must be a tuple of a layer and the residual stream that enters it, an "
                f"array or an earlier Run, not {shown(start_at)}"
            )
        first = _layer(start_at[0], n_layers, "start_at")
    if stop_after_layer is None:
        return Span(n_layers, first, embeds=start_at is None)
    end = _layer(stop_after_layer, n_layers, "stop_after_layer") + 1
    if end <= first:
        raise ValueError(f"a run from layer {first} on cannot stop after layer {end - 1}")
    return Span(n_layers, first, end, embeds=start_at is None)


def read_start(
    start_at: tuple[int, Any] | None, lengths: Sequence[int], hidden_size: int, *, is_batch: bool
) -> list[Floats] | None:
    """The stream that enters the first layer, of each text [n, hidden_size]."""
    if start_at is None:
        return None
    layer, given = start_at
    if isinstance(given, Run):
        if given.is_batch != is_batch:
            what = ("one text", "a batch of texts")
            raise ValueError(f"start_at has a run of {what[given.is_batch]} for {what[is_batch]}")
        try:
            given = given["resid_pre", layer]
        except KeyError:
            raise ValueError(
                f"the run that start_at names has not captured layers.{layer}.resid_pre"
            ) from None
    if is_batch and not isinstance(given, Iterable):
        raise ValueError(f"start_at needs the stream of each text, not {shown(given)}")
    arrays = list(given) if is_batch else [given]
    if len(arrays) != len(lengths):
        raise ValueError(f"start_at has the streams of {len(arrays)} texts for {len(lengths)}")
    found = [np.ascontiguousarray(floats(array, "start_at")) for array in arrays]
    for array, length in zip(found, lengths, strict=True):
        if array.shape != (length, hidden_size):
            raise ValueError(
                f"start_at has a stream of the shape {list(array.shape)} where a text needs "
                f"[{length}, {hidden_size}]"
            )
    return found


def _layer(layer: object, n_layers: int, what: str) -> int:
    try:
        (number,) = whole_numbers([layer])
    except TypeError:
        raise ValueError(f"{what} must name layers by whole numbers, not {shown(layer)}") from None
    if not -n_layers <= number < n_layers:
        raise ValueError(f"{what} names layer {number}: there are the layers 0 to {n_layers - 1}")
    return number % n_layers


def read_layers(layers: Sequence[int] | None, n_layers: int) -> list[int]:
    """The layers that are named, all by default. Raises ValueError for others."""
    if layers is None:
        return list(range(n_layers))
    found = _layers(layers, n_layers)
    if not found:
        raise ValueError("layers names none")
    return found


def _layers(layers: object, n_layers: int) -> list[int]:
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise ValueError(f"layers must be a list of whole numbers, not {shown(layers)}")
    return [_layer(layer, n_layers, "layers") for layer in layers]
