"""Error feedback as it is published (arXiv 2210.17323, section 3), column by column in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GROUP = 64


def quantise(
    weights: NDArray[np.float32],
    gram: NDArray[np.float64],
    damping: float,
    levels: Sequence[int],
    scales: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Return codes [rows, columns] for given `scales` [rows, groups].

    `gram` is X'X of the inputs; columns are taken group by group, the strongest of a group first.
    """
    columns = weights.shape[1]
    strength = np.diag(gram)
    order: list[int] = []
    for start in range(0, columns, GROUP):
        group = range(start, min(start + GROUP, columns))
        order += sorted(group, key=lambda column: -strength[column])
    inverse = np.linalg.inv(gram + damping * strength.mean() * np.eye(columns))
    left = weights.astype(np.float64)
    codes = np.zeros(weights.shape, np.uint8)
    known = [code for code in range(len(levels)) if not (len(levels) == 256 and code == 0)]
    for place, column in enumerate(order):
        for row in range(len(left)):
            scale = float(scales[row, column // GROUP])
            target = left[row, column]
            codes[row, column] = min(known, key=lambda code: abs(target - levels[code] * scale))
            if scale == 0:
                codes[row, column] = min(known, key=lambda code: abs(levels[code]))
        rounded = np.array(levels, np.float64)[codes[:, column]] * scales[:, column // GROUP]
        error = (left[:, column] - rounded) / inverse[column, column]
        later = order[place + 1 :]
        left[:, later] -= np.outer(error, inverse[column, later])
        # The inverse of what remains when this column is taken out.
        gone = np.outer(inverse[:, column], inverse[column, :]) / inverse[column, column]
        inverse = inverse - gone
    return codes
