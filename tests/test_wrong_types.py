"""What callers build by hand, of things that are none: one sentence each, and no error of ours."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_rt
from pythia_rt import Constraint, Draft, Loading, Model, Request, Sampling
from pythia_rt.insides import Add, Mean, PerText, Replace, Scale, Zero
from pythia_rt.sweeps import Harness
from pythia_rt.sweeps.metrics import METRICS

PACKAGE = Path(pythia_rt.__file__).parent
PROMPT = "The kernel"
THINGS: list[Any] = [
    3, -1, 10**30, 2.5, math.nan, 1j, True, None, "x", "", "\ud800", b"x", object(), Model,
    [], [1], ["a"], [None], [[1], [2, 3]], (1, 2), ("z", 1j), ("z", np.zeros(1)), {}, {"a": 1},
    {1: "a"}, {1, 2}, range(3), slice("a"), slice(None, None, 0), np.zeros(3), np.zeros((9, 9)),
    np.array(["a"]), np.array([None]), np.datetime64("2020-01-01"), "long " * 1000,
]  # fmt: skip


def check(make: Callable[[Any], object]) -> int:
    """Make it of each thing, which it takes or refuses; return how many it refused."""
    refused = 0
    for thing in THINGS:
        try:
            make(thing)
        except ValueError as error:
            refused += 1
            said = str(error)
            assert said.isprintable() and len(said) < 1000, (thing, said)
            # Neither numpy's sentence nor one of Python's own, as of a comparison or a codec.
            [*_, last] = traceback.extract_tb(error.__traceback__)
            assert PACKAGE in Path(last.filename).parents, (thing, said)
            assert type(error) is ValueError and "ambiguous" not in said, (thing, said)
    return refused


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.demo()


def test_drafts(model: Model) -> None:
    def write(draft: Any) -> object:
        return model.generate(PROMPT, max_new_tokens=1, draft=draft)

    assert check(lambda thing: write(Draft(thing))) == len(THINGS) - 1  # None is none
    assert check(lambda thing: Draft.model(thing)) == len(THINGS)
    of_text = [thing for thing in THINGS if not isinstance(thing, str)]
    assert check(lambda thing: write(Draft.predicted(thing))) == len(of_text) + 1  # no text
    assert check(lambda thing: write(Draft(text=thing))) == len(of_text)
    assert check(write) == len(THINGS) - 1
    with pytest.raises(ValueError, match="by a model or by a text, not by both: give one"):
        Draft(model, "a")


@pytest.mark.parametrize("kind", [Sampling, Loading, Request])
def test_options(kind: type[Any]) -> None:
    given = {"prompt": PROMPT} if kind is Request else {}
    for field in fields(kind):
        if field.name != "prompt":  # read by the model that it is for
            assert check(lambda thing, name=field.name: kind(**given, **{name: thing})), field.name


def test_prompts(model: Model) -> None:
    assert check(lambda thing: model.generate(thing, max_new_tokens=1))


def test_constraints() -> None:
    for name in ("grammar", "json_schema", "regex"):
        assert check(lambda thing, name=name: Constraint(**{name: thing}))


VALUES = {Zero: None, Scale: "by", Add: "vector", Replace: "values", Mean: "mean"}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("point", ["z", "resid_post", "patterns"])
def test_edits(model: Model, kind: type[Any], point: str) -> None:
    """In a pass, and in the passes of a text that grows."""
    for name in ("heads", "neurons", "positions", VALUES[kind]):
        if name is None:
            continue

        def edit(thing: Any, name: str = name) -> Any:
            # What a NaN makes of a text is another error.
            return kind((point, 0), **{name: 0.0 if thing is math.nan else thing})

        def write(thing: Any, edit: Callable[[Any], Any] = edit) -> object:
            return model.generate(PROMPT, max_new_tokens=1, edits=[edit(thing)])

        assert check(lambda thing, edit=edit: model.run(PROMPT, edits=[edit(thing)]))
        assert check(write)


def test_what_is_no_edit(model: Model) -> None:
    things = [thing for thing in THINGS if thing is not Model]  # a class is a predicate of points
    assert check(lambda thing: model.run(PROMPT, edits=thing))
    assert check(lambda thing: model.run(PROMPT, edits=[thing])) == len(THINGS)
    assert check(lambda thing: model.run([PROMPT], edits=PerText(thing)))
    for kind in VALUES:
        for thing in things:
            with pytest.raises(ValueError) as caught:
                model.run(PROMPT, edits=[kind(thing)])
            assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_metrics(kind: type[Any]) -> None:
    if kind is Harness:
        pytest.importorskip("lm_eval", reason="lm_eval cannot be installed here")
    needed = {field.name: "text" for field in fields(kind) if field.default is MISSING}
    for field in fields(kind):
        assert check(lambda thing, name=field.name: kind(**{**needed, name: thing})), field.name
