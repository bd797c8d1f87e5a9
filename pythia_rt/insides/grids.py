"""Many runs that differ in an edit of one layer each: what patching and ablation grids are made of.

A run begins at the layer that its edit is in, with the stream that an unedited run has there, and
short texts share passes. All values are in the runtime's own basis: they come from a run of the
same model, and go into one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.errors import shown
from pythia_rt.insides.edits import Lowered
from pythia_rt.insides.inputs import Ids, groups
from pythia_rt.insides.names import Place
from pythia_rt.insides.run import Runner
from pythia_rt.insides.values import Floats

# Of the logits [texts, vocab_size] after the last tokens: a number, or an array.
Metric = Callable[[Floats], Any]
# The edits of each text.
Variant = list[list[Lowered]]


def measured(
    runner: Runner,
    ids: Sequence[Ids],
    streams: Sequence[Sequence[Floats]],
    variants: Callable[[int], Iterable[Variant]],
    metric: Metric,
    layers: Sequence[int],
) -> NDArray[Any]:
    """What the metric says of each variant of each of the `layers`, [layers, variants, ...].

    `streams` are those that enter each of them, of each text.
    """
    rows = []
    for layer, of_layer in zip(layers, streams, strict=True):
        logits = _run(runner, ids, of_layer, variants(layer), layer)
        rows.append(np.stack([_number(metric(each)) for each in logits]))
    return np.stack(rows)


def _number(said: Any) -> NDArray[Any]:
    found = np.asarray(said)
    if found.dtype.kind not in "fiub":
        raise ValueError(f"the metric returned {shown(said)} where numbers are needed")
    return found


def _run(
    runner: Runner,
    ids: Sequence[Ids],
    streams: Sequence[Floats],
    variants: Iterable[Variant],
    layer: int,
) -> Iterator[Floats]:
    """Yield the last logits [texts, vocab_size] of each variant."""
    together = _texts_together(ids)
    waiting: list[list[Lowered]] = []
    found: list[Floats] = []
    for variant in variants:
        waiting += variant
        while len(waiting) >= together:
            found += _part(runner, ids, streams, waiting[:together], layer, len(found))
            waiting = waiting[together:]
            while len(found) >= len(ids):
                yield np.stack(found[: len(ids)])
                found = found[len(ids) :]
    found += _part(runner, ids, streams, waiting, layer, len(found)) if waiting else []
    while found:
        yield np.stack(found[: len(ids)])
        found = found[len(ids) :]


def _part(
    runner: Runner,
    ids: Sequence[Ids],
    streams: Sequence[Floats],
    edits: list[list[Lowered]],
    layer: int,
    first: int,
) -> list[Floats]:
    """The last logits of some texts, the first of which is that of a number."""
    numbers = [(first + i) % len(ids) for i in range(len(edits))]
    return runner.last_logits(
        [ids[i] for i in numbers], edits, layer, [streams[i] for i in numbers]
    )


def _texts_together(ids: Sequence[Ids]) -> int:
    longest = max(len(text) for text in ids)
    return len(next(groups([longest] * 4096)))


def entering(runner: Runner, ids: Sequence[Ids], layers: Sequence[int]) -> list[list[Floats]]:
    """The streams that enter each of the layers, of each text."""
    places = [Place("resid_pre", layer) for layer in layers]
    rows = runner.rows(ids, places)
    return [rows[place] for place in places]


def masks(n_heads: int, head_dim: int) -> NDArray[np.bool_]:
    """Of each head, which of a row's values are its own, [heads, heads * head_dim]."""
    return np.repeat(np.eye(n_heads, dtype=bool), head_dim, axis=1)
