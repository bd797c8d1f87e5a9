"""Hidden states in transformers' convention, and what the head makes of them in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pythia_rt.insides.inputs import Positions, floats
from pythia_rt.insides.run import Runner
from pythia_rt.insides.values import Floats
from pythia_rt.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model


def hidden_states(
    model: Model,
    texts: Prompt | Prompts,
    *,
    positions: Positions | Sequence[Positions] | None = None,
    dtype: str = "f32",
) -> Any:
    """transformers' `output_hidden_states` of a text, [layers + 1, p, hidden]; of a batch a list.

    The first is what enters layer 0, and the next ones what leaves each layer but the last, whose
    output stands there after the final norm. (`("resid_post", -1)` of `Model.run` is that without
    the norm; OPT-350m's is that before its projection.) The head does not run. Errors are those of
    `Model.run`.
    """
    last = "final_norm" if model.spec["final_norm"] else ("resid_post", -1)
    run = model.run(
        texts, ["layers.*.resid_pre", last], positions=positions, logits=None, dtype=dtype
    )
    streams = run.stack("resid_pre")
    if not run.is_batch:
        return np.concatenate([streams, run[last][None]])
    return [
        np.concatenate([of_layers, of_last[None]])
        for of_layers, of_last in zip(streams, run[last], strict=True)
    ]


def logit_lens(
    model: Model,
    texts: Prompt | Prompts,
    *,
    layers: Sequence[int] | None = None,
    positions: Positions | Sequence[Positions] | None = None,
) -> Any:
    """The logits that the head makes of the stream behind layers, [layers, p, vocab_size]; of a
    batch a list (nostalgebraist 2020).

    The final norm is computed anew for each stream, as the model does for its last one, so those of
    the last layer are the model's own. `layers` are all by default: a text of 100 tokens has then
    100 x layers x vocab_size x 4 bytes. Errors are those of `Model.run`.
    """
    n_layers = model.spec["n_layers"]
    chosen = range(n_layers) if layers is None else layers
    names = [("resid_post", layer) for layer in chosen]
    run = model.run(texts, names, positions=positions, logits=None)
    of_texts = [run[name] if run.is_batch else [run[name]] for name in names]
    found = [unembed(model, np.stack(streams)) for streams in zip(*of_texts, strict=True)]
    return found if run.is_batch else found[0]


def unembed(model: Model, streams: Floats) -> Floats:
    """The logits [..., vocab_size] of residual streams [..., hidden], through final norm and head.

    Raises ValueError for another width.
    """
    return Runner(model).head(floats(streams, "unembed"))
