"""Rewrites of a model that keep its function and make it cheap to quantise, without any data.

Whatever scales a checkpoint has chosen for its channels, the balanced weights are the same, up to
rounding: outlier channels that are undone in the next matrix cost nothing.
"""

from .balance import Balance
from .rewrites import rewrites
from .solver import solve
from .source import Rows, Source

__all__ = ["Balance", "Rows", "Source", "rewrites", "solve"]
