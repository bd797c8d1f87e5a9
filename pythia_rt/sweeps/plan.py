"""Which checkpoints a sweep is about: models, and steps of each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pythia_rt.convert.errors import quote
from pythia_rt.convert.source.checkpoint import CONFIG_FILE
from pythia_rt.convert.source.steps import local_steps, no_step
from pythia_rt.suites import checkpoints

# What the Pythia papers were evaluated at.
EVALS = (0, *(2**i for i in range(10)), 1000, *range(3000, 143001, 10000))
SCHEDULES = ("all", "log", "evals")


@dataclass(frozen=True)
class Unit:
    """A checkpoint: `source` is a folder, or a hub id at a revision that stands for a commit.

    `model` is the name that results have, `step` None for a folder without steps.
    """

    model: str
    source: str
    step: int | None
    revision: str | None = None
    commit: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return self.revision is None

    @property
    def where(self) -> str:
        """It in words."""
        return self.model if self.step is None else f"{self.model} at step {self.step}"


@dataclass(frozen=True)
class Suite:
    """A model's checkpoints: those to measure and all there are, in order of steps."""

    chosen: Sequence[Unit]
    available: Sequence[Unit]

    def at(self, step: int) -> Unit:
        """The checkpoint at a step. Raises ValueError where there is none."""
        return choose(self.available, [step])[0]


def suites_of(
    models: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    steps: str | int | Iterable[int],
    *,
    offline: bool = False,
) -> dict[str, Suite]:
    """The checkpoints to measure, by model.

    Raises ValueError for steps that do not exist, FileNotFoundError for models that do not.
    """
    names = [models] if isinstance(models, (str, os.PathLike)) else list(models)
    if not names:
        raise ValueError("there is no model to sweep: name at least one")
    wanted = read_steps(steps)
    found: dict[str, Suite] = {}
    for name in names:
        units = available(name, offline=offline)
        model = units[0].model
        if model in found:
            raise ValueError(f"two models are called {quote(model)}: rename one of their folders")
        found[model] = Suite(choose(units, wanted), units)
    return found


def available(name: str | os.PathLike[str], *, offline: bool = False) -> list[Unit]:
    """All checkpoints of a model, in order of steps.

    A folder with step<N> folders is a model of those steps, a checkpoint's folder one without
    steps; anything else is a hub id.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        return _of_hub(os.fspath(name), offline=offline)
    path = path.resolve()
    if steps := local_steps(path):
        return [Unit(path.name, str(folder), step) for step, folder in steps.items()]
    if (path / CONFIG_FILE).is_file():
        return [Unit(path.name, str(path), None)]
    raise FileNotFoundError(
        f"{path} holds neither step folders, as step0, nor a checkpoint: give a folder that does"
    )


def _of_hub(name: str, *, offline: bool) -> list[Unit]:
    found = [
        Unit(name, name, each.step, each.revision, each.commit)
        for each in checkpoints(name, offline=offline, files=False)
        if each.commit is not None
    ]
    if not found:
        raise FileNotFoundError(f"no step of {name} is in the hub's cache: leave offline out")
    return found


def read_steps(steps: str | int | Iterable[int]) -> str | list[int]:
    """One of SCHEDULES, or a list of steps; "0,1,512" is one. Raises ValueError."""
    if isinstance(steps, str):
        if steps in SCHEDULES:
            return steps
        parts = steps.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise ValueError(
                f"steps must be {', '.join(SCHEDULES)}, or whole numbers as 0,1,512, not "
                f"{quote(steps)}"
            )
        steps = [int(part) for part in parts]
    found = [steps] if isinstance(steps, int) else list(steps)
    for step in found:
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise ValueError(f"a step is a whole number from 0, not {step!r:.40}")
    if not found:
        raise ValueError("there are no steps to measure: name one, or all")
    return sorted(set(found))


def choose(units: Sequence[Unit], steps: str | list[int]) -> list[Unit]:
    """Those of a model's checkpoints that `read_steps` gave. Raises ValueError for missing ones."""
    if steps == "all":
        return list(units)
    by_step = {unit.step: unit for unit in units if unit.step is not None}
    if not by_step:
        raise ValueError(f"{units[0].model} has no steps: leave steps out")
    if steps == "log":
        chosen = _thinned(sorted(by_step))
    elif steps == "evals":
        chosen = [step for step in EVALS if step in by_step]
        if not chosen:
            raise ValueError(f"{units[0].model} has none of the steps of the published evaluations")
    else:
        chosen = [step for step in steps if isinstance(step, int)]
    for step in chosen:
        if step not in by_step:
            raise ValueError(no_step(units[0].model, step, by_step))
    return [by_step[step] for step in chosen]


def _thinned(steps: list[int]) -> list[int]:
    """The first, then each at least twice the one before, and the last."""
    found: list[int] = []
    for step in steps:
        if not found or step >= max(1, 2 * found[-1]):
            found.append(step)
    return found if found[-1] == steps[-1] else [*found, steps[-1]]
