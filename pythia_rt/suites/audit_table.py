"""An audit as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pythia_rt.convert.source.steps import step_of
from pythia_rt.suites.audit import Audit
from pythia_rt.suites.known import BY_DESIGN

_THOUSAND = 1000
_INDENT = " " * 12


def lines(found: Audit) -> Iterator[str]:
    """Yield what an audit found, each thing with what is known of it."""
    steps = [branch for branch in found.branches if branch.step is not None]
    how = "by the digests of their files"
    if found.compared == "tensors":
        how = f"by the values of their tensors ({found.read})"
    count = len(steps)
    yield f"{found.model}: {count} step{'s' if count != 1 else ''}, compared {how}"
    for group in found.identical:
        if group.by_design:
            yield f"expected    {name_steps(group.revisions)} are equal: {group.by_design}"
    for group in found.identical:
        if not group.by_design:
            count = len(group.revisions)
            yield f"IDENTICAL   {count} branches: {name_steps(group.revisions)}"
            yield from _known(group.known)
    for mixture in found.mixtures:
        parts = "files" if found.compared == "files" else "matrices"
        yield (
            f"MIXED       {mixture.revision} has {len(mixture.shared)} of its {mixture.total} "
            f"{parts} from {mixture.other}: {', '.join(mixture.shared[:3])}"
            + (", ..." if len(mixture.shared) > 3 else "")
        )
        yield from _known(mixture.known)
    for one in found.lacking:
        yield f"MISSING     {one.revision}: {one.what}"
        yield from _known(one.known)
    yield f"main        is {found.main}"
    count = len(found.wrong)
    if not count:
        yield "nothing else is equal, mixed or missing"
    else:
        yield f"{count} finding{'s' if count > 1 else ''}"
    others = [one for one in found.known if one.state != BY_DESIGN]
    if others:
        yield f"said of this model (table of {found.known_date})"
        for entry in others:
            yield f"  {name_steps(entry.revisions) or 'all'}: {entry.what}; {entry.reference}"


def _known(references: Sequence[str]) -> Iterator[str]:
    yield from (f"{_INDENT}known: {reference}" for reference in references)


def name_steps(revisions: Sequence[str]) -> str:
    """Return names of revisions, with runs of steps in thousands as their ends."""
    steps = sorted(step for name in revisions if (step := step_of(name)) is not None)
    found = [name for name in revisions if step_of(name) is None]
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + _THOUSAND:
            runs[-1].append(step)
        else:
            runs.append([step])
    for run in runs:
        if len(run) > 2:
            found.append(f"step{run[0]} to step{run[-1]} in thousands")
        else:
            found += [f"step{step}" for step in run]
    return ", ".join(found)
