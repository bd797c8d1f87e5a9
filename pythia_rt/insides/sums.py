"""Mean and second moments of a point over tokens: what mean ablation, CKA and PCA are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt.insides.inputs import Positions, groups, read_texts
from pythia_rt.insides.lookup import Name, Names
from pythia_rt.insides.names import BY_NAME, canonical
from pythia_rt.insides.span import BEFORE
from pythia_rt.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of `count` tokens' values at a point, D numbers of each: their mean and their scatter.

    `a + b` are those of both together.
    """

    count: int
    mean: Doubles  # of the shape that a token has there, D numbers
    scatter: Doubles  # [D, D], the sum of (x - mean) (x - mean)^T

    @property
    def covariance(self) -> Doubles:
        """[D, D], over count - 1."""
        return self.scatter / max(1, self.count - 1)

    @property
    def second(self) -> Doubles:
        """The mean of x x^T, [D, D]."""
        mean = self.mean.reshape(-1)
        return self.scatter / max(1, self.count) + np.outer(mean, mean)

    def __add__(self, other: Moments) -> Moments:
        """Raises ValueError for moments of another width."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"these are moments of the shapes {list(self.mean.shape)} and "
                f"{list(other.mean.shape)}, which do not add up"
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        share = other.count / max(1, count)
        between = np.outer(apart, apart) * (self.count * share)
        mean = self.mean + apart * share
        return Moments(count, mean, self.scatter + other.scatter + between)


def moments(
    model: Model, texts: Prompt | Prompts, point: Name, *, positions: Positions | None = None
) -> Moments:
    """`Moments` of a point over all tokens of texts, or over those of `positions` of each.

    Nothing but the sums is kept, [D, D] in float64, and the run stops after the point's layer.
    Raises ValueError for scores and patterns, and as `Model.run`.
    """
    place = Names(model.file.spec).find(point)
    if BY_NAME[place.point].shape == "scores":
        raise ValueError(f"{canonical(place)} has no moments: its keys grow with the text")
    ids, _ = read_texts(model, texts)
    stop = 0 if place.point in BEFORE else None if place.layer < 0 else place.layer
    total: Moments | None = None
    for group in groups([len(text) for text in ids]):
        run = model.run(
            tuple(ids[group.start : group.stop]),
            canonical(place),
            positions=positions,
            stop_after_layer=stop,
            logits=None,
        )
        found = _of(run.flat(canonical(place)))
        total = found if total is None else total + found
    assert total is not None
    return total


def _of(values: NDArray[np.floating]) -> Moments:
    """Of values [n, ...]."""
    rows = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)
    mean = rows.mean(axis=0) if len(rows) else np.zeros(rows.shape[1])
    centred = rows - mean
    return Moments(len(rows), mean.reshape(values.shape[1:]), centred.T @ centred)
