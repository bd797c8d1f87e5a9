"""What is said where a model's numbers leave the range of their format."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pythia_rt.model import Model


def all_finite(values: NDArray[np.floating[Any]]) -> bool:
    """Whether no value, float16 or float32, is NaN or an infinity. As fast as memory for both."""
    if not values.size:
        return True
    if values.dtype == np.float16:
        # isfinite takes 100 times as long as a look at the bits: those of infinities and of NaN lie
        # above those of all other numbers of their sign.
        positive, negative = values.view(np.int16).max(), values.view(np.uint16).max()
        return bool(positive < 0x7C00 and negative < 0xFC00)
    # Both pass NaN on, and neither needs memory: logits are the largest array there is.
    return all(math.isfinite(end) for end in (values.min(), values.max()))


def first_not_finite(values: NDArray[np.float32]) -> int | None:
    """The first row of `values` [n, ...] that holds NaN or an infinity; None where none does."""
    if all_finite(values):
        return None
    rows = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    return int(np.argmin(rows))


def why_not_finite(
    model: Model, tokens: NDArray[np.int32], *, option: str = "kv_format", edited: bool = False
) -> str:
    """Why the logits after `tokens` [n] are not finite, and what to do, as the end of a sentence.

    Reads them again without the edits, if they were `edited`, and with an f32 cache, where the
    cache is another, to know rather than to guess. `option` is the name of the caller's option for
    the cache's format.
    """
    if edited and _is_finite(model, tokens, model.kv_format):
        return "without the edits they are, so have these give smaller numbers"
    if model.kv_format != "f32" and _is_finite(model, tokens, "f32"):
        return (
            f"its keys or values leave the range of the {model.kv_format} key-value cache, so use "
            f"{option}='f32'"
        )
    if set(model.formats.values()) != {"f32"}:
        return (
            "they are not with an f32 key-value cache either, so convert the checkpoint again as "
            "f32, and if that is no better, fetch it again"
        )
    return "its weights leave the range of float32, so fetch the checkpoint again"


def _is_finite(model: Model, tokens: NDArray[np.int32], kv_format: str) -> bool:
    """Whether the logits after `tokens` are finite, with such a cache and no edits."""
    session = model.new_session(len(tokens), kv_format=kv_format)
    session.prefill(tokens)
    return all_finite(session.last_logits)
