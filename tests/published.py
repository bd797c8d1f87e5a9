"""Published evaluations of Pythia, and how far from them a measurement may be.

`data/published.json` has the values, with where each is from, and the models that are left out,
with why. A task's name, form and metrics are the harness's own.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).resolve().parent / "data" / "published.json"
VARIABLE = "PYTHIA_RT_PUBLISHED"
PREFIX = "EleutherAI/pythia-"
STANDARD_ERRORS = 3
# Draws for the standard error of a perplexity; that of an accuracy has a formula.
BOOTSTRAP = 1000

Measured = dict[tuple[str, str], tuple[float, float]]  # (task, metric) -> value, standard error


@dataclass(frozen=True)
class Published:
    """One value. Where no standard error was written down it is None, and ours stands for it: the
    documents are the same."""

    model: str
    revision: str
    task: str
    metric: str
    value: float
    stderr: float | None
    source: str


@functools.cache
def published() -> tuple[Published, ...]:
    """All values that a measurement is held against."""
    return tuple(Published(**row) for row in json.loads(DATA.read_text())["values"])


def left_out() -> dict[str, str]:
    """{model: why its published values are none to accept a measurement by}."""
    found: dict[str, str] = json.loads(DATA.read_text())["left_out"]
    return found


def chosen(names: str) -> list[str]:
    """The models of "70m,410m-deduped". Raises ValueError for one that has no values here."""
    known = list(dict.fromkeys(row.model for row in published()))
    models = [PREFIX + name.strip() for name in names.split(",") if name.strip()]
    for model in models:
        if why := left_out().get(model):
            raise ValueError(f"{VARIABLE}: {model} is left out: {why}")
        if model not in known:
            have = ", ".join(name.removeprefix(PREFIX) for name in known)
            raise ValueError(f"{VARIABLE}: {model} has no published values; these have: {have}")
    return models


def disagreement(row: Published, value: float, stderr: float) -> str | None:
    """Why a measurement is not the published value, or None: whether the two are farther apart
    than three standard errors of their difference."""
    if not all(math.isfinite(number) for number in (value, stderr)):
        return f"{row.task} {row.metric}: {value} ± {stderr} is no measurement"
    theirs = stderr if row.stderr is None else row.stderr
    allowed = STANDARD_ERRORS * math.hypot(theirs, stderr)
    if abs(value - row.value) <= allowed:
        return None
    return (
        f"{row.model} at {row.revision}, {row.task} {row.metric}: measured {value:.5g}, published "
        f"{row.value:.5g} ({row.source}): {abs(value - row.value):.3g} apart, allowed {allowed:.3g}"
    )


def disagreements(rows: Iterable[Published], measured: Measured) -> list[str]:
    """What is wrong with a measurement of all of them; KeyError where one was not measured."""
    found = (disagreement(row, *measured[row.task, row.metric]) for row in rows)
    return [sentence for sentence in found if sentence is not None]


def measure(
    kind: str, model_args: str, rows: Sequence[Published], manager: Any = None, **options: Any
) -> Measured:
    """The tasks of `rows` by the harness, zero-shot, with its model `kind`: its own `hf`, or
    `pythia_rt`. `manager` knows other tasks than the harness's."""
    import lm_eval

    import pythia_rt.lm_eval  # noqa: F401, registers

    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # it would fork what has threads
    tasks = list(dict.fromkeys(row.task for row in rows))
    found = lm_eval.simple_evaluate(
        model=kind,
        model_args=model_args,
        tasks=tasks,
        num_fewshot=0,
        task_manager=manager,
        bootstrap_iters=BOOTSTRAP,
        log_samples=False,
        **options,
    )
    results: Any = found["results"]
    return {
        (row.task, row.metric): (
            float(results[row.task][f"{row.metric},none"]),
            float(results[row.task][f"{row.metric}_stderr,none"]),
        )
        for row in rows
    }


def measure_ours(model: str, revision: str, form: str, *more: Any, **options: Any) -> Measured:
    """`measure` of a model of the hub with the runtime, converted to `form`."""
    arguments = f"pretrained={model},revision={revision},format={form}"
    return measure("pythia_rt", arguments, *more, **options)
