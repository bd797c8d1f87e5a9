"""What of a clean prompt's inside brings its answer back in a corrupted one (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.edits import Lowered
from pythia_rt.insides.grids import Metric, Variant, entering, masks, measured
from pythia_rt.insides.inputs import Ids, read_texts
from pythia_rt.insides.lookup import Names
from pythia_rt.insides.names import Place
from pythia_rt.insides.run import Runner
from pythia_rt.insides.span import read_layers
from pythia_rt.insides.values import Floats, Values
from pythia_rt.options import one_of
from pythia_rt.prompt import Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

BY_POSITION = ("resid_pre", "attn_out", "resid_mid", "mlp_out")
BY_HEAD = ("z", "q", "k", "v", "pattern")


def patch_grid(
    model: Model,
    clean: Prompts,
    corrupt: Prompts,
    metric: Metric,
    kind: str = "z",
    *,
    layers: Sequence[int] | None = None,
) -> NDArray[Any]:
    """What a metric says of the corrupted prompts with one thing of the clean ones put in, each
    thing in turn.

    `kind` "resid_pre", "attn_out", "resid_mid" and "mlp_out" are put in at one position of one
    layer: [layers, positions, ...]; all prompts must then be of one length. "z", "q", "k", "v" and
    "pattern" are put in at all positions of one head: [layers, heads, ...], of k and v heads of
    those. Pairs of prompts must be of one length. `metric` gets the logits [prompts, vocab_size]
    after the last tokens and returns a number or an array, "...". Each run begins at the layer that
    it changes, and prompts share passes.

    Raises ValueError for prompts that do not pair and for a kind that the model does not have, and
    as `Model.run`.
    """
    one_of((*BY_POSITION, *BY_HEAD))("kind", kind)
    before, after = _ids(model, clean, "clean"), _ids(model, corrupt, "corrupt")
    if [len(text) for text in before] != [len(text) for text in after]:
        raise ValueError("a clean and a corrupted prompt must have as many tokens as each other")
    if kind in BY_POSITION and len({len(text) for text in after}) != 1:
        raise ValueError(f"to put in {kind} by position all prompts must have as many tokens")
    runner = Runner(model)
    chosen = read_layers(layers, model.spec["n_layers"])
    Names(model.file.spec).find((kind, 0))  # the model has it
    places = [Place(kind, layer) for layer in chosen]
    rows = runner.rows(before, places)
    variants: Callable[[int], Iterator[Variant]]
    if kind in BY_POSITION:

        def variants(layer: int) -> Iterator[Variant]:
            place = Place(kind, layer)
            nothing = np.zeros(model.spec["hidden_size"], np.float32)
            for position in range(len(after[0])):
                at = np.array([position], np.int64)
                yield [
                    [Lowered(place, at, nothing, np.ascontiguousarray(text[position]))]
                    for text in rows[place]
                ]

    elif kind == "pattern":

        def variants(layer: int) -> Iterator[Variant]:
            place = Place(kind, layer)
            for head in range(model.spec["n_heads"]):
                yield [[_pattern(place, head, text)] for text in rows[place]]

    else:
        n_heads = model.spec["n_kv_heads" if kind in ("k", "v") else "n_heads"]
        of_heads = masks(n_heads, model.spec["head_dim"])

        def variants(layer: int) -> Iterator[Variant]:
            place = Place(kind, layer)
            for mask in of_heads:
                scale = (~mask).astype(np.float32)
                own = mask.astype(np.float32)
                yield [
                    [Lowered(place, np.arange(len(text), dtype=np.int64), scale, text * own)]
                    for text in rows[place]
                ]

    streams = entering(runner, after, chosen)
    return measured(runner, after, streams, variants, metric, chosen)


def _pattern(place: Place, head: int, clean: Values) -> Lowered:
    """Puts in a head's clean pattern [heads, n, keys]."""

    def change(rows: Floats, positions: NDArray[np.int64]) -> None:
        keys = rows.shape[2]
        rows[:, head] = clean[head, positions, :keys]

    return Lowered(place, None, function=change)


def _ids(model: Model, prompts: Prompts, what: str) -> list[Ids]:
    try:
        return read_texts(model, prompts)[0]
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
