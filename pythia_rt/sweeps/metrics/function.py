"""Any function of the model as a metric."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import numbers
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pythia_rt.model import Model
from pythia_rt.sweeps.metrics.base import Measured, Metric, Value, metric


@metric
class Function(Metric):
    """A function of a `Model` that gives a number, a mapping of names to numbers and arrays, or a
    `Measured`. A changed function is measured anew: results are known by its source."""

    name = "function"

    function: Callable[[Model], Any]

    @classmethod
    def named(cls, text: str) -> Function:
        """The function "package.module:name". Raises ValueError where there is none."""
        place, _, name = text.partition(":")
        see_modules_here()
        try:
            found: Any = importlib.import_module(place)
            for part in name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{text} is no function that can be imported: {error}") from None
        if not callable(found):
            raise ValueError(f"{text} is {type(found).__name__}, not a function of a model")
        return cls(found)

    @property
    def title(self) -> str:
        """Where the function is."""
        function = self.function
        named = getattr(function, "__qualname__", type(function).__qualname__)
        return f"{getattr(function, '__module__', '?')}:{named}"

    def options(self) -> dict[str, Any]:
        """Its source, as a digest; nothing where there is none to be had."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            return {}
        return {"source": hashlib.sha256(source.encode()).hexdigest()}

    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Call it."""
        found = self.function(model)
        if isinstance(found, Measured):
            return found
        short = self.title.rpartition(":")[2]
        if isinstance(found, numbers.Real):
            return Measured([Value(short, float(found))])
        if not isinstance(found, Mapping) or not found:
            raise ValueError(
                f"{self.title} gave {type(found).__name__}: a metric gives a number, a mapping of "
                "names to numbers and arrays, or a Measured"
            )
        items = {str(key): value for key, value in found.items()}
        arrays = {key: np.asarray(v) for key, v in items.items() if np.ndim(v)}
        return Measured([Value(k, float(v)) for k, v in items.items() if k not in arrays], arrays)


def see_modules_here() -> None:
    """Let modules beside the user be imported, as `python -m` finds them."""
    if "" not in sys.path:
        sys.path.insert(0, "")
