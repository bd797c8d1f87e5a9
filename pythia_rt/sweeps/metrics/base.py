"""What a metric is, what it is measured on, and what it finds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from pythia_rt.model import Model
from pythia_rt.scoring.pairs import prefix_id
from pythia_rt.sweeps.metrics.given import Given, GivenField, Ids
from pythia_rt.sweeps.metrics.whole import WholeField, whole

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**options: object) -> Callable[[Any], Any]:
        """Do what typing's does from Python 3.11 on: nothing."""
        return lambda function: function


Floats = NDArray[np.float64]


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


@dataclass(frozen=True)
class Metric(ABC):
    """Something to measure of every checkpoint. Subclasses are `metric`s of its options.

    They must pickle: they travel to worker processes. `version` rises when values change, so that
    a sweep measures anew.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[str | None] = None  # the option that names a step to compare with

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

    def check(self) -> None:
        """Raise ValueError for what cannot be measured of any model. A sweep asks before it fetches
        and converts; what only a model tells, `measure` raises."""
        for value in (getattr(self, each.name) for each in fields(self)):
            if isinstance(value, Given):
                value.check()

    @abstractmethod
    def measure(self, model: Model, reference: Model | None) -> Measured:
        """Measure `model`; `reference` is the model at `step`, where that is not None."""


Kind = TypeVar("Kind", bound=Metric)


@dataclass_transform(frozen_default=True, field_specifiers=(field, whole))
def metric(kind: type[Kind]) -> type[Kind]:
    """Make a frozen dataclass of a metric's class, whose fields check what they are given by type.

    GivenFields read texts and files; an int is a whole number from 1, unless `whole` says what else
    it may be. A dataclass alone would take the descriptors that do this for the fields' defaults.
    """
    hints = get_type_hints(kind)
    for name, hint in hints.items():
        if hint is GivenField:
            setattr(kind, name, GivenField(name))
    made = dataclass(frozen=True)(kind)
    for each in fields(made):
        kinds = get_args(hints[each.name]) or (hints[each.name],)
        if int in kinds:
            whole_field = WholeField(made.name, each, has_none=type(None) in kinds)
            setattr(made, each.name, whole_field)
    return made


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
