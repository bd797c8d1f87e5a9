"""What is said where a model's numbers leave the range of their format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pythia_rt.model import Model


def first_not_finite(values: NDArray[np.float32]) -> int | None:
    """The first row of `values` [n, ...] that holds NaN or an infinity; None where none does."""
    # Both pass NaN on, and neither needs memory: logits are the largest array there is.
    if not values.size or all(math.isfinite(end) for end in (values.min(), values.max())):
        return None
    rows = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return int(np.argmin(rows))


def why_not_finite(model: Model, tokens: NDArray[np.int32], *, option: str = "kv_format") -> str:
    """Why the logits after `tokens` [n] are not finite, and what to do, as the end of a sentence.

    Reads them again with an f32 cache, where the cache is another, to know rather than to guess.
    `option` is the name of the caller's option for the cache's format.
    """
    if model.kv_format != "f32":
        session = model.new_session(len(tokens), kv_format="f32")
        session.prefill(tokens)
        if np.isfinite(session.last_logits).all():
            return (
                f"its keys or values leave the range of the {model.kv_format} key-value cache, so "
                f"use {option}='f32'"
            )
    if set(model.formats.values()) != {"f32"}:
        return (
            "they are not with an f32 key-value cache either, so convert the checkpoint again as "
            "f32, and if that is no better, fetch it again"
        )
    return "its weights leave the range of float32, so fetch the checkpoint again"
