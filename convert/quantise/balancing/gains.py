"""How a scale that two neighbours share is divided between them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...flatfile.basis import UNREAD
from .sums import Doubles, reciprocal


class Gain(NamedTuple):
    """What the norm's gain and bias are multiplied by, and the columns of the matrix after it."""

    norm: Doubles
    columns: Doubles


def channel_weight(weight: Doubles, bias: Doubles) -> Doubles:
    """The root mean square of a norm's outputs, [channels], with the sign of their gain.

    Pass zeros for a bias that has moved into the matrix's own.
    """
    sign = np.where(weight != 0, np.sign(weight), np.sign(bias))
    size: Doubles = sign * np.sqrt(weight * weight + bias * bias)
    return size


def share_gain(weight: Doubles, squares: Doubles) -> Gain:
    """Divide what channels weigh between the norm before a matrix and the matrix.

    `weight` is that of `channel_weight`, `squares` the matrix's sums over rows with it. A channel's
    whole weight c is their root, relative to all channels. The norm gets c^0.75, the columns
    c^0.25. Both ends of that range are bad: with all of it in the columns, a channel of the
    residual stream that is 50 times larger than the others, and was trained a small gain, spoils
    the 8 bits of its group of activations; with all of it in the norm, an important channel does.

    Channels without weight get zeros on both sides; one that has weight, and that nothing reads,
    gets UNREAD in the norm and zeros in the columns.
    """
    total = squares.sum()
    relative = np.sqrt(squares * (len(squares) / total if total > 0 else 0))
    gain = np.sqrt(relative * np.sqrt(relative))  # pow() differs between C libraries
    norm = np.where((gain == 0) & (weight != 0), UNREAD, gain * reciprocal(weight))
    return Gain(norm, weight * reciprocal(gain))


def share_evenly(first: Doubles, second: Doubles) -> Doubles:
    """Factors t such that t * first == second / t, for root mean squares of the same channels.

    Where one of the two is 0, nothing passes through the channel, and the other becomes what is
    usual among the channels; where both are, t is 1.
    """
    product = first * second
    live = product > 0
    usual = np.sqrt(np.median(product[live])) if live.any() else 1.0
    factors = np.ones_like(first)
    np.sqrt(second * reciprocal(first), out=factors, where=live)
    np.divide(usual, first, out=factors, where=~live & (first > 0))
    np.divide(second, usual, out=factors, where=~live & (second > 0))
    return factors
