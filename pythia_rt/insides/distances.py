"""How far the model's distributions are from others, over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pythia_rt import _core
from pythia_rt.insides.inputs import Ids, read_texts
from pythia_rt.insides.logit_blocks import logit_blocks
from pythia_rt.insides.values import Floats
from pythia_rt.options import whole_number_from
from pythia_rt.prompt import Prompt, Prompts
from pythia_rt.scoring.windows import choose

if TYPE_CHECKING:
    from pythia_rt.model import Model


class Divergence(NamedTuple):
    """After every token of a text but the last one, [n - 1], in nats."""

    kl: Floats  # KL(model || other)
    reverse_kl: Floats  # KL(other || model)
    js: Floats  # Jensen-Shannon: the mean of both KLs to the mean distribution, at most ln 2


def divergence(
    model: Model,
    texts: Prompt | Prompts,
    other: Any,
    *,
    vocabulary: int | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> Any:
    """`Divergence` of a text, or a list of them for a list of texts.

    `other` is a `Model`, log-probabilities (or logits) [vocabulary] of a distribution that does not
    change, [n - 1, vocabulary] of a text or a list of those, or a function(ids, positions) that
    gives [p, vocabulary]. Both are normalised over the first `vocabulary` ids, by default all,
    Pythia's own are 50277. Windows are those of `Model.score`, and logits are there for a few
    hundred tokens at a time. Raises ValueError for shapes that do not fit, and as `Model.score`.
    """
    window, stride = choose(window, stride, model.max_positions)
    size = model.spec["vocab_size"]
    if hasattr(other, "new_session"):
        size = min(size, other.spec["vocab_size"])
        if vocabulary is None and other.spec["vocab_size"] != model.spec["vocab_size"]:
            raise ValueError(
                f"the models have {model.spec['vocab_size']} and {other.spec['vocab_size']} ids: "
                "give vocabulary, how many of them count"
            )
        choose(window, stride, other.max_positions)
    chosen = whole_number_from(1, size, "ids")("vocabulary", vocabulary or size)
    ids, is_batch = read_texts(model, texts, of_any_length=True)
    found = [Divergence(*(np.empty(max(0, len(t) - 1), np.float32) for _ in range(3))) for t in ids]
    rows_of = _others(other, ids, chosen, window, stride, is_batch=is_batch)
    for text, first, logits in logit_blocks(model, ids, window, stride):
        theirs = rows_of(text, first, len(logits))
        measured = _core.divergence(logits, theirs, chosen, threads=model.threads)
        for into, values in zip(found[text], measured, strict=True):
            into[first : first + len(logits)] = values
    return found if is_batch else found[0]


def _others(
    other: Any, ids: list[Ids], vocabulary: int, window: int, stride: int, *, is_batch: bool
) -> Callable[[int, int, int], Floats]:
    """What gives the other's rows [n, vocabulary] of a text, from a position on."""
    if hasattr(other, "new_session"):
        # The same blocks come in the same order.
        blocks = logit_blocks(other, ids, window, stride)

        def of_model(text: int, first: int, count: int) -> Floats:
            block = next(blocks)
            assert (block.text, block.first, len(block.logits)) == (text, first, count)
            return block.logits

        return of_model
    if callable(other):

        def of_function(text: int, first: int, count: int) -> Floats:
            found = other(ids[text], np.arange(first, first + count, dtype=np.int64))
            return _fitting(found, (count,), vocabulary)

        return of_function
    is_one = isinstance(other, np.ndarray) and other.ndim == 1
    arrays = [other] * len(ids) if is_one else list(other) if is_batch else [other]
    if len(arrays) != len(ids):
        raise ValueError(f"there are distributions of {len(arrays)} texts for {len(ids)}")
    for text, array in zip(ids, arrays, strict=True):
        _fitting(array[:1] if not is_one else array[None], None, vocabulary)
        if not is_one and len(array) != len(text) - 1:
            raise ValueError(
                f"there are {len(array)} distributions for a text of {len(text)} tokens: "
                f"{len(text) - 1} are needed, after each token but the last one"
            )

    def of_arrays(text: int, first: int, count: int) -> Floats:
        array = arrays[text]
        rows = (
            np.broadcast_to(array, (count, len(array))) if is_one else array[first : first + count]
        )
        return _fitting(rows, (count,), vocabulary)

    return of_arrays


def _fitting(rows: Any, count: tuple[int, ...] | None, vocabulary: int) -> Floats:
    found = np.asarray(rows, np.float32)
    if found.ndim != 2 or found.shape[1] < vocabulary or (count and found.shape[:1] != count):
        raise ValueError(
            f"the other distributions have the shape {list(found.shape)} where [n, {vocabulary}] "
            "is needed"
        )
    return found
