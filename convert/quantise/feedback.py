"""Quantisation of one matrix for known inputs: importance-weighted scales and error feedback.

GPTQ (Frantar et al. 2022, arXiv 2210.17323): what rounding a column costs the layer's output is put
right, as far as it can be, in the columns that are not rounded yet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

GROUP = 64  # columns that share a scale
# Of the mean of the diagonal, added to it: inputs that were seldom seen are no reason to move a
# weight far, and fewer tokens than columns leave directions with no inputs at all.
DAMPING = 0.01
# The feedback makes weights larger, but what the format can store of their scales is bounded before
# it begins.
HEADROOM = np.float32(1.1)


class Inputs:
    """What is known of the inputs of a matrix with `columns` columns.

    `gram` is X'X, f64 [columns, columns], of the inputs X [tokens, columns] that the quantised
    model will see. `drift` is (E - X)'X, f32, where E are the exact model's on the same tokens.
    """

    tokens = 0

    def __init__(self, columns: int) -> None:
        self.gram = np.zeros((columns, columns))
        self.drift = np.zeros((columns, columns), np.float32)

    def add(self, seen: NDArray[np.float32], exact: NDArray[np.float32]) -> None:
        """Add inputs X and E [tokens, columns] of the same tokens. E is overwritten."""
        self.tokens += len(seen)
        self.gram += seen.T @ seen
        exact -= seen
        self.drift += exact.T @ seen


class Quantised(NamedTuple):
    """Codes [rows, columns], their scales [rows, groups] and the scales' units [row blocks]."""

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    units: NDArray[np.float32]


class ErrorFeedback:
    """Quantises rows of a matrix so that its outputs change little on the inputs it was made for.

    Rows are independent: the result does not depend on how they are divided into calls. Memory:
    two matrices [columns, columns] of f32.
    """

    def __init__(self, form: str, inputs: Inputs, *, catch_up: float = 0.4) -> None:
        """Prepare for the quantised format `form`. Raises LinAlgError when inputs are not finite.

        `catch_up` is the part, 0 to 1, of the error of earlier layers that this matrix tries to put
        right. All of it would fit the matrix to the chance of few tokens.
        """
        self._form = form
        self._order = _order(np.diag(inputs.gram))
        damped = inputs.gram[np.ix_(self._order, self._order)]
        mean = np.diag(damped).mean()
        if not np.isfinite(mean):
            raise np.linalg.LinAlgError("the inputs are not finite")
        damped[np.diag_indices_from(damped)] += DAMPING * mean if mean > 0 else 1.0
        self._factor = inverse_factor(damped).astype(np.float32)
        self._drift = catch_up * inputs.drift[:, self._order]

    def costs(self) -> NDArray[np.float64]:
        """What a squared error of 1 in each column costs, [columns], once those after it help.

        Of the squared error of an output, summed over the tokens; an error in the whole column.
        """
        costs = np.empty(len(self._order))
        costs[self._order] = 1 / np.square(np.diag(self._factor), dtype=np.float64)
        return costs

    def rescale(self, scales: NDArray[np.float32]) -> None:
        """Go on as for inputs whose columns are multiplied by `scales` [columns], and weights."""
        ordered = scales[self._order]
        self._factor /= ordered
        self._drift *= scales[:, None]
        self._drift *= ordered

    def quantise(self, values: NDArray[np.float32], threads: int = 0) -> Quantised:
        """Quantise rows of weights [rows, columns], from a multiple of 16 on in their matrix.

        Raises ValueError when a value is too large for the format.
        """
        rows, columns = values.shape
        # (W + D) X is nearest to W E for D = W (E - X)'X (X'X)^-1.
        left = values @ self._drift @ self._factor.T @ self._factor
        left += values[:, self._order]
        # What an error in a column costs after the feedback into the columns to its right.
        importance = 1 / np.diag(self._factor) ** 2
        importance /= importance.max()
        _, units = _core.fit_scales(self._form, left, importance, threads)
        units *= HEADROOM
        codes = np.empty((rows, columns), np.uint8)
        scales = np.empty((rows, -(-columns // GROUP)), np.float32)
        for start in range(0, columns, GROUP):
            stop = min(start + GROUP, columns)
            block = np.ascontiguousarray(left[:, start:stop])
            factor = np.ascontiguousarray(self._factor[start:stop, start:stop])
            first, _ = _core.fit_scales(self._form, block, importance[start:stop], threads)
            found = _core.feed_back(self._form, block, factor, first[:, 0], units, threads)
            codes[:, self._order[start:stop]], scales[:, start // GROUP], errors = found
            left[:, stop:] -= errors @ self._factor[start:stop, stop:]
        return Quantised(codes, scales, units)


def inverse_factor(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangular U with U'U = `matrix`^-1, of a positive definite matrix.

    Raises numpy.linalg.LinAlgError when it is not positive definite.
    """
    # With rows and columns reversed: the Cholesky factor L L' of that is R R' with R upper, and
    # U = R^-1.
    lower = np.linalg.cholesky(matrix[::-1, ::-1]).astype(np.float64, copy=False)
    _invert_lower(lower)
    return np.ascontiguousarray(lower[::-1, ::-1])


def _invert_lower(matrix: NDArray[np.float64]) -> None:
    """Invert a lower triangular matrix in place, by halves: nearly all of it is matrix products."""
    size = len(matrix)
    if size <= GROUP:
        matrix[:] = np.tril(np.linalg.inv(matrix))
        return
    half = size // 2
    first, below, second = matrix[:half, :half], matrix[half:, :half], matrix[half:, half:]
    _invert_lower(first)
    _invert_lower(second)
    below[:] = -(second @ (below @ first))


def _order(diagonal: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the order of the columns: the strongest inputs of a group first, groups in place.

    What comes first is rounded with the most columns left to make up for it.
    """
    order = [
        start + np.argsort(-diagonal[start : start + GROUP], kind="stable")
        for start in range(0, len(diagonal), GROUP)
    ]
    return np.concatenate(order)
