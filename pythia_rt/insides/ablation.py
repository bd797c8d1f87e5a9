"""What becomes of a model without one of its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.edits import Lowered
from pythia_rt.insides.grids import Metric, Variant, entering, masks, measured
from pythia_rt.insides.inputs import Ids, read_texts
from pythia_rt.insides.names import Place
from pythia_rt.insides.run import Runner
from pythia_rt.insides.span import read_layers
from pythia_rt.insides.values import Floats
from pythia_rt.options import one_of
from pythia_rt.prompt import Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

# What is taken out of a layer.
POINTS = {"heads": ("z",), "layers": ("attn_out", "mlp_out"), "mlps": ("mlp_out",)}


def ablate_grid(
    model: Model,
    texts: Prompts,
    metric: Metric,
    kind: str = "heads",
    *,
    by: str = "zero",
    mean_of: Prompts | None = None,
    layers: Sequence[int] | None = None,
) -> NDArray[Any]:
    """What a metric says of a model without one of its "heads" [layers, heads, ...], without what a
    layer adds to the stream ("layers", [layers, ...]), or without an MLP ("mlps", [layers, ...]).

    The part's values are set to 0 (z of a head, attn_out and mlp_out), or with by="mean" to their
    mean over all tokens of `mean_of`, by default of `texts`. `metric` gets the logits
    [texts, vocab_size] after the last tokens and returns a number or an array, "...". Each run
    begins at the layer that it changes, and texts share passes. Raises ValueError for bad
    arguments, and as `Model.run`.
    """
    points = POINTS[one_of(tuple(POINTS))("kind", kind)]
    one_of(("zero", "mean"))("by", by)
    if mean_of is not None and by == "zero":
        raise ValueError("mean_of is for by='mean'")
    ids, _ = read_texts(model, texts)
    runner = Runner(model)
    chosen = read_layers(layers, model.spec["n_layers"])
    means: dict[Place, Floats] = {}
    if by == "mean":
        sources = ids if mean_of is None else read_texts(model, mean_of)[0]
        means = _means(runner, sources, [Place(point, i) for i in chosen for point in points])
    of_heads = masks(model.spec["n_heads"], model.spec["head_dim"])

    def variants(layer: int) -> Iterator[Variant]:
        places = [Place(point, layer) for point in points]
        widths = of_heads if kind == "heads" else [np.ones(model.spec["hidden_size"], bool)]
        for mask in widths:
            scale = (~mask).astype(np.float32)
            edits = [
                Lowered(p, None, scale, mask * means[p] if means else np.zeros_like(scale))
                for p in places
            ]
            yield [edits for _ in ids]

    found = measured(runner, ids, entering(runner, ids, chosen), variants, metric, chosen)
    return found if kind == "heads" else found[:, 0]


def _means(runner: Runner, ids: list[Ids], places: list[Place]) -> dict[Place, Floats]:
    """The mean row of each place over all tokens."""
    n_tokens = sum(len(text) for text in ids)
    totals: dict[Place, Any] = dict.fromkeys(places, 0.0)
    for start in range(0, len(ids), 64):
        for place, rows in runner.rows(ids[start : start + 64], places).items():
            totals[place] += sum(text.sum(axis=0, dtype=np.float64) for text in rows)
    return {place: (total / n_tokens).astype(np.float32) for place, total in totals.items()}
