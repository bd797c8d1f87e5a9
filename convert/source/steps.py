"""Steps of a training: revisions step{N} on the hub, folders step{N} of a local suite."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path

_REVISION = re.compile(r"step(0|[1-9]\d{0,11})", re.ASCII)


def revision_of(step: int) -> str:
    """The revision of a step, a whole number, numpy's too; ValueError for what is no step."""
    if isinstance(step, bool) or not isinstance(step, Integral) or step < 0:
        raise ValueError(f"step must be a whole number from 0, not {step!r}")
    return f"step{int(step)}"


def chosen(revision: str | None, step: int | None) -> str | None:
    """The revision that one of the two names; ValueError where both do."""
    if step is None:
        return revision
    if revision is not None:
        raise ValueError("step and revision both name a revision: leave one of them out")
    return revision_of(step)


def step_of(revision: str) -> int | None:
    """The step of a revision, None for another one, as main or step007."""
    match = _REVISION.fullmatch(revision)
    return int(match[1]) if match else None


def local_steps(folder: Path) -> dict[int, Path]:
    """The folders step{N} in `folder`, by step; none where there is no such folder."""
    if not folder.is_dir():
        return {}
    found = {step_of(path.name): path for path in folder.iterdir() if path.is_dir()}
    return dict(sorted((s, p) for s, p in found.items() if s is not None))


def no_step(name: str, step: int, there: Iterable[int]) -> str:
    """The sentence for a step that is not there, with those that are near."""
    steps = sorted(set(there))
    below = [s for s in steps if s < step][-1:]
    near = [str(s) for s in below + [s for s in steps if s > step][:1]]
    if not near:
        return f"{name} has no steps, and so no step {step}: leave step out"
    verb = "is" if len(near) == 1 else "are"
    return f"{name} has no step {step}: the nearest {verb} {' and '.join(near)}"
