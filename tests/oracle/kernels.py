"""What the kernels must compute, in double precision: slow, obvious, one formula each.

Beside every truth stands the bound on the error of 32-bit arithmetic, where it is not obvious.
Arrays are float64, [rows, columns] unless a docstring says otherwise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

UNIT = 2.0**-24  # the largest relative error of one float32 operation
GROUP = 64  # columns that share a scale
ATTENTION_BLOCK = 128  # positions that attention takes at a time
SMALLEST = 1e-36  # a group whose largest magnitude is below counts as zero


def quantise(rows: Doubles) -> tuple[Doubles, Doubles]:
    """Return codes [n, padded columns] in [-127, 127], before rounding, and scales [n, groups]."""
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % GROUP)))
    groups = padded.reshape(len(rows), -1, GROUP)
    largest = np.abs(groups).max(axis=2)
    scales = np.where(largest < SMALLEST, 0, largest / 127)
    divisor = np.where(scales == 0, np.inf, scales)
    return (groups / divisor[..., None]).reshape(padded.shape), scales


def gelu(x: Doubles) -> Doubles:
    """x Phi(x), with the normal distribution's Phi (Hendrycks and Gimpel 2016)."""
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    result: Doubles = 0.5 * x * erfc(-x / math.sqrt(2))
    return result


def gelu_tanh(x: Doubles) -> Doubles:
    """The approximation of gelu by tanh (the same paper, section 2)."""
    result: Doubles = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return result


def silu(x: Doubles) -> Doubles:
    """x times the logistic function of x (Elfwing et al. 2017)."""
    result: Doubles = x / (1 + np.exp(-np.maximum(x, -700)))
    return result


def relu(x: Doubles) -> Doubles:
    """x where it is positive, else 0."""
    return np.where(x > 0, x, 0)


EPILOGUES = {
    "store": lambda y: y,
    "add": lambda y: y,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "relu": relu,
}


def linear(
    rows: Doubles, matrix: Doubles, bias: Doubles | None, before: Doubles | None, epilogue: str
) -> tuple[Doubles, Doubles]:
    """Return epilogue(rows @ matrix.T + bias) (+ before), and the bound on each error.

    A sum over groups of sums over 64 columns errs by one rounding of its terms' magnitudes for each
    group and each column of a group at most; an activation's slope is below 1.2.
    """
    y = rows @ matrix.T
    terms = np.abs(rows) @ np.abs(matrix).T
    if bias is not None:
        y = y + bias
    roundings = math.ceil(rows.shape[1] / GROUP) + GROUP + 8
    bound = 1.2 * UNIT * (roundings * terms + np.abs(y))
    y = EPILOGUES[epilogue](y)
    if before is not None:
        y = y + before
    return y, bound + 16 * UNIT * (1 + np.abs(y))


def layer_norm(
    rows: Doubles, weight: Doubles, bias: Doubles, epsilon: float
) -> tuple[Doubles, Doubles]:
    """Return (x - mean) / sqrt(variance + epsilon) * weight + bias (Ba et al. 2016), and a bound.

    Sums of n terms in 16 lanes err by n / 16 + 4 roundings; a mean far from zero costs digits.
    """
    centred = rows - rows.mean(axis=1, keepdims=True)
    inverse = 1 / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon)
    scaled = centred * inverse * weight
    result = scaled + bias
    largest = np.abs(rows).max(axis=1, keepdims=True) * inverse * np.abs(weight)
    roundings = rows.shape[1] / 8 + 24
    return result, roundings * UNIT * (np.abs(scaled) + largest + np.abs(result))


def rms_norm(rows: Doubles, weight: Doubles, epsilon: float) -> tuple[Doubles, Doubles]:
    """Return x / sqrt(mean of x^2 + epsilon) * weight (Zhang and Sennrich 2019), and a bound.

    The sum of n squares in 16 lanes errs by n / 16 + 4 roundings, its root by half of them.
    """
    result = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + epsilon) * weight
    return result, (rows.shape[1] / 16 + 12) * UNIT * np.abs(result)


def rotate(heads: Doubles, cosines: Doubles, sines: Doubles) -> Doubles:
    """Return heads [n, head_dim] whose first values are rotated in pairs (i, i + half)."""
    half = len(cosines)
    first, second = heads[:, :half], heads[:, half : 2 * half]
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return np.concatenate([*turned, heads[:, 2 * half :]], axis=1)


def visible(n: int, positions: int, window: int) -> NDArray[np.bool_]:
    """Which of `positions` keys each of the last n queries sees: up to its own, and of these only
    the last `window`, its own among them, unless that is 0."""
    behind = (positions - n + np.arange(n))[:, None] - np.arange(positions)
    result: NDArray[np.bool_] = behind >= 0
    return result & (behind < window) if window > 0 else result


def attention(
    queries: Doubles, keys: Doubles, values: Doubles, scale: float, window: int, bias: Doubles
) -> tuple[Doubles, Doubles]:
    """Return softmax(scale * queries @ keys.T + bias, where `visible`) @ values, and a bound.

    The queries are the last rows of the sequence. An error e in every score changes a weight by a
    factor exp(+-2 e) at most. A sum adds up to 128 positions within a block; each later block that
    is joined adds an exp, two products at most and a sum: less than 8 roundings.
    """
    n, positions = len(queries), len(keys)
    seen = visible(n, positions, window)
    scores = scale * (queries @ keys.T) + bias
    terms = np.where(seen, abs(scale) * (np.abs(queries) @ np.abs(keys).T) + np.abs(bias), 0)
    scores[~seen] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    additions = min(positions, ATTENTION_BLOCK) + 8 * ((positions - 1) // ATTENTION_BLOCK)
    error = UNIT * ((queries.shape[1] + 4) * terms.max(axis=1, keepdims=True) + additions + 32)
    return weights @ values, 3 * error * np.abs(values).max(axis=0)


def softmax_sum(logits: Doubles) -> tuple[float, float, float]:
    """Return the largest of logits [n], the sum of exp(logit - largest), and the sum's bound."""
    largest = float(logits.max())
    total = float(np.exp(logits - largest).sum())
    return largest, total, total * UNIT * (len(logits) / 1024 + 128)


def squared_error(group: Doubles, scale: float, grid: Doubles, weights: Doubles) -> float:
    """Return the weighted sum of (value - nearest level * scale)^2 over one row's 64 columns."""
    levels = grid * scale
    return float((weights * np.abs(group[:, None] - levels).min(axis=1) ** 2).sum())


def fit_scale(
    group: Doubles, grid: Doubles, weights: Doubles, first_factor: float, last_factor: float
) -> float:
    """Return the best of 400 scales for one row's group, tried one after another: those that map
    its largest value to either end of the grid, first_factor to last_factor times as large.
    """
    largest, reach = float(np.abs(group).max()), float(np.abs(grid).max())
    candidates = [
        sign * largest * float(factor) / reach
        for factor in np.linspace(first_factor, last_factor, 200)
        for sign in (-1, 1)
    ]
    return min(candidates, key=lambda scale: squared_error(group, scale, grid, weights))
