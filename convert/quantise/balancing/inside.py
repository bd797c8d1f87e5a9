"""The inside of an MLP: which scales pass through it, and how large its channels are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import numpy as np

from ...flatfile.spec import Spec
from ...plan import TILE
from .sums import Doubles

# Activations f with f(s x) = s f(x) for every s > 0.
HOMOGENEOUS = frozenset({"relu"})


def _ramp(slope: float) -> Callable[[Doubles], Doubles]:
    """x times a share that rises from 0 to 1 along a line."""
    return lambda x: x * np.clip(slope * x + 0.5, 0, 1)


# Near enough to an activation to tell a large channel from a small one, and of operations that
# every machine rounds alike, which exp is not.
SKETCHES: dict[str, Callable[[Doubles], Doubles]] = {
    "gelu": _ramp(0.4),
    "gelu_tanh": _ramp(0.4),
    "silu": _ramp(0.25),
    "relu": lambda x: np.maximum(x, 0),
}
# Tosses of a coin, their number of heads centred and divided by its deviation: the normal
# distribution in exact numbers.
_TOSSES = 16
_NODES = [
    ((2 * heads - _TOSSES) / _TOSSES**0.5, math.comb(_TOSSES, heads) / 2**_TOSSES)
    for heads in range(_TOSSES + 1)
]
# Of the mean square before an activation, what is left of it at least: what a rough guess calls
# never active may be large at times.
_LEAST = 1 / 256


@final
class Inside:
    """The channels between the two matrices of an MLP, each the column of the second."""

    def __init__(self, spec: Spec) -> None:
        self._gated = {"plain": False, "gated": True}[spec["mlp"]]
        self._activation = spec["activation"]

    @property
    def passes_scales(self) -> bool:
        """Whether a channel may be made larger by the first matrix and smaller by the second.

        A gate multiplies what it lets through; ReLU keeps any scale.
        """
        return self._gated or self._activation in HOMOGENEOUS

    def squares(self, squares: Doubles, bias: Doubles) -> Doubles:
        """About the channels' mean squares, from those of the first matrix's products and its bias.

        As if the products were normal, and gate and what it lets through independent.
        """
        if not self._gated:
            return activated(self._activation, bias, squares)
        gate, up = self._halves(squares)
        gate_bias, up_bias = self._halves(bias)
        return activated(self._activation, gate_bias, gate) * (up + up_bias * up_bias)

    def row_factors(self, factors: Doubles) -> Doubles:
        """Of the first matrix's rows, from those of the channels: a gate keeps its own."""
        if not self._gated:
            return factors
        rows = np.ones(2 * len(factors))
        rows.reshape(-1, 2, TILE)[:, 1] = factors.reshape(-1, TILE)
        return rows

    @staticmethod
    def _halves(rows: Doubles) -> tuple[Doubles, Doubles]:
        """Of the gate and of up, whose rows alternate."""
        tiles = rows.reshape(-1, 2, TILE)
        return tiles[:, 0].reshape(-1), tiles[:, 1].reshape(-1)


def activated(activation: str, means: Doubles, variances: Doubles) -> Doubles:
    """About the mean square of an activation of normal values with these means and variances."""
    sketch, deviations = SKETCHES[activation], np.sqrt(variances)
    found = _LEAST * (means * means + variances)
    for place, weight in _NODES:
        found += weight * np.square(sketch(means + place * deviations))
    return found
