"""How a norm's scale is divided with what reads it where it was measured what passes between them.

Balancing without data takes the channels before a norm's gain to be alike. In a model they are not:
with large ones made larger, the 8 bits of a group of activations go to few of them, and where
calibration has taken most of the weights' error away, that is the larger part of what is left. So
several ways to divide the scale are tried, and the one is taken whose errors of activations and
weights together are the least.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from .balancing.sums import Doubles, reciprocal
from .feedback import DAMPING, GROUP, ErrorFeedback, Inputs

Floats = NDArray[np.float32]

# Of a channel's whole weight, its size times its columns, what stays before the matrix, as a power.
_SHARES = (0.25, 0.5, 0.75, 1.0)
_STRIDE = 16  # of the tokens of a sequence, and
_BLOCKS = 16  # of the matrix as many blocks of
_ROWS = 16  # rows are looked at


class Reader(NamedTuple):
    """A matrix behind the norm.

    `rows`: some of its rows, f32 [rows, columns]. `energies`: the mean square of their outputs,
    [rows]. `costs`: what a squared error of 1 in a column costs of that, after feedback, [columns].
    """

    form: str
    rows: Floats
    energies: Doubles
    costs: Doubles


class Between(NamedTuple):
    """What passes from the norm to its readers.

    `squares`: the mean square of each channel, [columns]. `sample`: some tokens' channels, f32
    [tokens, columns].
    """

    squares: Doubles
    sample: Floats


def some_tokens(values: Floats) -> Floats:
    """Some of the tokens [tokens, columns] of a sequence: not the first, which is unlike others."""
    return values[_STRIDE // 2 :: _STRIDE] if len(values) > _STRIDE // 2 else values


def some_rows(count: int) -> NDArray[np.intp]:
    """Which rows of a matrix of `count` are looked at: blocks, which share a unit of scales."""
    starts = np.linspace(0, (count - 1) // _ROWS, _BLOCKS).round().astype(int) * _ROWS
    rows = (np.unique(starts)[:, None] + np.arange(_ROWS)).ravel()
    return rows[rows < count]


def describe_reader(form: str, rows: Floats, inputs: Inputs, feedback: ErrorFeedback) -> Reader:
    """Return what `choose_scales` must know of a matrix of which `rows` are some."""
    exact = rows.astype(np.float64)
    energies = np.einsum("ij,ij->i", exact @ inputs.gram, exact) / inputs.tokens
    return Reader(form, rows, np.maximum(energies, 0), feedback.costs() / inputs.tokens)


def choose_scales(between: Between, readers: Sequence[Reader]) -> Floats | None:
    """Return what to multiply the norm's channels by, and to divide the readers' columns by.

    f32 [columns]; None where all is best as it is.
    """
    # What the text seldom makes large is no reason to make a channel much larger.
    sizes = np.sqrt(between.squares + DAMPING * between.squares.mean())
    product = sizes * np.sqrt(sum((_columns(reader) for reader in readers), np.zeros(len(sizes))))
    live = product > 0
    best, least = None, _error(between.sample, readers, np.ones(len(sizes), np.float32))
    for share in _SHARES if live.any() else ():
        scales = np.ones(len(sizes))
        np.divide(np.power(product, share), sizes, out=scales, where=live)
        scales[live] /= np.median(scales[live])
        found = scales.astype(np.float32)
        error = _error(between.sample, readers, found)
        if error < least:
            best, least = found, error
    return best


def _columns(reader: Reader) -> Doubles:
    """The columns' sums of squares, every row counted by what it puts out."""
    sums: Doubles = reciprocal(reader.energies) @ np.square(reader.rows, dtype=np.float64)
    return sums


def _error(sample: Floats, readers: Sequence[Reader], scales: Floats) -> float:
    """Which part of what the readers put out is lost with `scales`: the mean of rows, summed."""
    lost = _activation_errors(sample * scales)
    total = 0.0
    for form, rows, energies, costs in readers:
        scaled = rows / scales
        try:
            parts = _core.pack(form, scaled, "F32", *rows.shape)
        except ValueError:  # too large for the format
            return np.inf
        errors = np.square(_core.unpack(form, parts, *rows.shape) - scaled, dtype=np.float64)
        errors = errors @ (costs * np.square(scales)) + np.square(scaled, dtype=np.float64) @ lost
        total += float((errors * reciprocal(energies)).mean())
    return total


def _activation_errors(values: Floats) -> Doubles:
    """The mean square, over tokens, of what each column loses to 8 bits of its group."""
    tokens, columns = values.shape
    groups = np.pad(values, ((0, 0), (0, -columns % GROUP))).reshape(tokens, -1, GROUP)
    steps = np.abs(groups).max(axis=2, keepdims=True) / np.float32(127)
    steps[steps == 0] = 1
    errors = np.square(groups - np.rint(groups / steps) * steps)
    mean: Doubles = errors.mean(axis=0, dtype=np.float64).reshape(-1)[:columns]
    return mean
