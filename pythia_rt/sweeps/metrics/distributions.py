"""Logits after every token of a text, and what is found of the distances of distributions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.logit_blocks import logit_blocks
from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Floats, Measured, mean
from pythia_rt.sweeps.metrics.given import Ids

Logits = NDArray[np.float32]


def windows_of(model: Model, ids: Ids, window: int) -> list[Ids]:
    """The text in windows that begin anew, no longer than the model's context."""
    most = min(window, model.max_positions)
    return [ids[start : start + most] for start in range(0, len(ids), most)]


def logits_after(model: Model, windows: list[Ids]) -> Iterator[tuple[int, Logits]]:
    """(place of the first, logits [n, vocab_size] after each token) of a text in such windows."""
    longest = len(windows[0])
    # A text's last token is not read: with one more there are logits after the one before it.
    longer = [np.append(window, np.int32(0)) for window in windows]
    for text, first, logits in logit_blocks(model, longer, longest, longest):
        yield text * longest + first, logits


def summed_up(what: str, kls: list[Floats], jss: list[Floats]) -> Measured:
    """Means over all tokens, kl_<what> and js_<what>, and arrays of each one's."""
    kl_all, js_all = np.concatenate(kls), np.concatenate(jss)
    values = [mean(f"kl_{what}", kl_all), mean(f"js_{what}", js_all)]
    return Measured(values, {"kl": kl_all, "js": js_all})
