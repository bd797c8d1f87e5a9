"""What a metric is, what it is measured on, and what it finds."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.text import decode_text
from pythia_rt.model import Model
from pythia_rt.scoring.pairs import prefix_id

Ids = NDArray[np.int32]
Floats = NDArray[np.float64]
NPY = b"\x93NUMPY"


class Value(NamedTuple):
    """One number: `stderr` is None where there is no sense in one, `n` counts what it is over."""

    metric: str
    value: float
    stderr: float | None = None
    n: int = 1


@dataclass(frozen=True)
class Measured:
    """What a metric found of one checkpoint: numbers, and arrays that are kept beside them."""

    values: list[Value]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Given:
    """What a metric is measured on: a file's bytes, or those of a str, with a name for them."""

    name: str
    data: bytes

    @classmethod
    def of(cls, source: Given | str | os.PathLike[str]) -> Given:
        """A str is the text itself, a path object a file. Raises OSError, ValueError if empty."""
        if isinstance(source, Given):
            return source
        if isinstance(source, str):
            name, data = "text", source.encode()
        elif isinstance(source, os.PathLike):
            path = Path(source).expanduser()
            name, data = path.name, path.read_bytes()
        else:
            raise ValueError(f"a text is a str, or a path object for a file, not {source!r:.60}")
        if not data:
            raise ValueError(f"{name} is empty: there is nothing to measure on")
        return cls(name, data)

    def about(self) -> dict[str, str]:
        """What a result remembers of it."""
        return {"name": self.name, "sha256": hashlib.sha256(self.data).hexdigest()}

    def text(self) -> str:
        """It as text. Raises ValueError if it is not UTF-8."""
        return decode_text(self.data, self.name)

    def array(self) -> NDArray[Any] | None:
        """It as an array, if it is a .npy; one that would run code is refused with ValueError."""
        if not self.data.startswith(NPY):
            return None
        found: NDArray[Any] = np.load(io.BytesIO(self.data), allow_pickle=False)
        return found

    def ids(self, model: Model) -> Ids:
        """Token ids, int32 [n]: of the text, or of a .npy with ids of any shape."""
        found = self.array()
        if found is None:
            return model._ids(self.text())
        return model._ids(found.reshape(-1))

    def lines(self, *needed: str) -> list[dict[str, Any]]:
        """The JSON objects of its lines, each with the keys `needed`. Raises ValueError."""
        found = []
        for number, line in enumerate(self.text().splitlines(), 1):
            if not line.strip():
                continue
            try:
                item = json.loads(line)
            except ValueError:
                item = None
            if not isinstance(item, dict) or any(key not in item for key in needed):
                raise ValueError(
                    f"line {number} of {self.name} is no JSON object with {' and '.join(needed)}"
                )
            found.append(item)
        if not found:
            raise ValueError(f"{self.name} has no lines: there is nothing to measure on")
        return found


@dataclass(frozen=True)
class Metric(ABC):
    """Something to measure of every checkpoint. Subclasses are frozen dataclasses of its options.

    They must pickle: they travel to worker processes. `version` rises when values change, so that
    a sweep measures anew.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[str | None] = None  # the option that names a step to compare with

    def __post_init__(self) -> None:
        """Read what is given as text or file."""
        for each in fields(self):
            if each.type == "Given":
                object.__setattr__(self, each.name, Given.of(getattr(self, each.name)))

    @property
    def title(self) -> str:
        """What it is called in results."""
        return self.name

    def options(self) -> dict[str, Any]:
        """What it was asked, as JSON: results are known by it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {k: v.about() if isinstance(v, Given) else v for k, v in values.items()}

    @property
    def step(self) -> int | None:
        """The step of the same model that it compares with."""
        return None if self.needs is None else getattr(self, self.needs)

    @abstractmethod
    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Measure `model`; `reference` is the model at `step`, where that is not None."""


def predicted(model: Model, given: Given, max_tokens: int | None) -> Ids:
    """The ids to judge, as `Model.perplexity` reads a text: after the token that begins texts."""
    ids = given.ids(model)
    prefix = prefix_id(model.file, model.tokenizer) if given.array() is None else None
    if prefix is not None and ids[0] != prefix:
        ids = np.concatenate([np.array([prefix], np.int32), ids])
    ids = ids[:max_tokens]
    if len(ids) < 2:
        raise ValueError(f"{given.name} has less than two tokens, which predict nothing")
    return ids


def mean(metric: str, values: Iterable[float]) -> Value:
    """The mean of `values` and its standard error, which takes them as independent."""
    found = [float(value) for value in values]
    if not found:
        raise ValueError(f"{metric} is a mean of nothing: there is nothing to measure on")
    n = len(found)
    try:
        centre = math.fsum(found) / n  # exact sums: the same bits on every machine
        squares = math.fsum((value - centre) ** 2 for value in found)
    except (OverflowError, ValueError):  # infinities, of both signs
        return Value(metric, float(np.mean(found)), None, n)
    return Value(metric, centre, math.sqrt(squares / (n - 1) / n) if n > 1 else None, n)


def exponential(metric: str, nats: Value) -> Value:
    """e to the power of a mean, with the error that follows from its error."""
    try:
        value = math.exp(nats.value)
    except OverflowError:
        value = math.inf
    return Value(metric, value, None if nats.stderr is None else value * nats.stderr, nats.n)
