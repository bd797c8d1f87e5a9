"""How much heads look where previous-token, duplicate-token and induction heads look."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.inputs import Ids, groups, read_texts
from pythia_rt.insides.run import Runner
from pythia_rt.insides.values import Floats
from pythia_rt.options import one_of
from pythia_rt.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

# Where each query's targets begin, int64 [n + 1], and their positions, int64.
Targets = tuple[NDArray[np.int64], NDArray[np.int64]]


def head_scores(model: Model, texts: Prompt | Prompts, kind: str) -> Floats:
    """The mean mass of each head's pattern on the keys that a kind of head looks at, [layers,
    heads], over all tokens of the texts for which there are such keys.

    "previous" are those one position before, "duplicate" earlier ones with the same token, and
    "induction" those behind an earlier one with the same token (Olsson et al. 2022): on random
    tokens that are repeated it is near 1 for an induction head. No pattern is stored. Raises
    ValueError where no token has such keys, and as `generate` does for bad texts.
    """
    find = KINDS[one_of(tuple(KINDS))("kind", kind)]
    ids, _ = read_texts(model, texts)
    targets = [find(text) for text in ids]
    counts = [np.diff(starts) > 0 for starts, _ in targets]
    n_queries = sum(int(count.sum()) for count in counts)
    if n_queries == 0:
        raise ValueError(f"no token of these texts has a key that a {kind} head would look at")
    spec, runner = model.spec, Runner(model)
    totals = np.zeros((spec["n_layers"], spec["n_heads"]))
    for group in groups([len(text) for text in ids]):
        some = slice(group.start, group.stop)
        masses = runner.attention_to(ids[some], targets[some])
        has = np.concatenate(counts[some])
        for layer, mass in enumerate(masses):
            totals[layer] += mass[:, has].sum(axis=1, dtype=np.float64)
    return (totals / n_queries).astype(np.float32)


def previous(tokens: Ids) -> Targets:
    """The key before each query."""
    keys = np.arange(len(tokens) - 1, dtype=np.int64)
    return np.concatenate([[0], np.arange(len(tokens), dtype=np.int64)]), keys


def duplicate(tokens: Ids) -> Targets:
    """Earlier keys with the query's token."""
    return _behind_equals(tokens, 0)


def induction(tokens: Ids) -> Targets:
    """Keys behind earlier ones with the query's token."""
    return _behind_equals(tokens, 1)


def _behind_equals(tokens: Ids, offset: int) -> Targets:
    """Of each query the keys `offset` behind each earlier position with its token."""
    places: dict[int, list[int]] = {}
    found: list[int] = []
    starts = [0]
    for position, token in enumerate(tokens.tolist()):
        before = places.setdefault(token, [])
        found += [earlier + offset for earlier in before]
        before.append(position)
        starts.append(len(found))
    return np.array(starts, np.int64), np.array(found, np.int64)


KINDS: dict[str, Callable[[Ids], Targets]] = {
    "previous": previous,
    "duplicate": duplicate,
    "induction": induction,
}
