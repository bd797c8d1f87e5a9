"""Audits a suite: which branches hold the same weights, or a mixture, or none.

From digests of whole files, which the hub tells without sending a byte of them; `deep` compares
digests of the tensors' values.
"""

from __future__ import annotations

import datetime
import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pythia_rt.convert.errors import Sentence
from pythia_rt.suites.branches import Branch, local_branches
from pythia_rt.suites.content import Content, by_files, group
from pythia_rt.suites.known import (
    BY_DESIGN,
    IDENTICAL,
    MISSING,
    MIXTURE,
    Known,
    KnownTable,
    read_known,
)
from pythia_rt.suites.names import known_steps

Progress = Callable[[int, int], None]  # branches done, and of how many


@dataclass(frozen=True)
class Identical:
    """Branches that hold the same weights. `by_design` says why that is right, or is empty."""

    revisions: tuple[str, ...]
    by_design: str
    known: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Mixture:
    """A branch that shares some of its files, or tensors, and not all, with another."""

    revision: str
    other: str
    shared: tuple[str, ...]
    total: int
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lacking:
    """A branch that is not there, or has no weights, or not all of them."""

    revision: str
    what: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """What was found. `to_dict` gives JSON values.

    `compared` is "files" or "tensors"; `read` says how much of remote tensors was read. `main` says
    what main is: "the last step", "another than the last step", "not there", "empty" or
    "not compared", which it is without any step. `known` are the entries of the table that are of
    this model, and `known_date` the table's day.
    """

    model: str
    date: str
    compared: str
    read: str
    branches: tuple[Branch, ...]
    identical: tuple[Identical, ...]
    mixtures: tuple[Mixture, ...]
    lacking: tuple[Lacking, ...]
    main: str
    known: tuple[Known, ...]
    known_date: str
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def wrong(self) -> list[Identical | Mixture | Lacking]:
        """What was found that is not by design."""
        unexpected = [group for group in self.identical if not group.by_design]
        return [*unexpected, *self.mixtures, *self.lacking]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values; `digests` are those of the values, by revision."""
        return asdict(self)


def audit(
    model: str | os.PathLike[str],
    *,
    steps: Collection[int] | None = None,
    deep: bool = False,
    whole: bool = False,
    known: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Return what is identical, mixed or missing in the suite `model`.

    `model` is a hub id whose branches are its steps, or a folder with folders step0, step1 and so
    on. `steps` are the ones to look at, by default all. From the hub come only the files' digests,
    one request for each branch. With `deep` tensors are compared by digests over their values, in
    which -0 is +0 and masks of attention and tables of the rotation do not count: those of a folder
    are read, of the hub's the first 64 KiB of each matrix, or with `whole` all. `known` is a table
    of known cases in place of the bundled one (see pythia_rt.suites.known). `progress` is called
    with how many branches are done.

    Raises FileNotFoundError for no such model, ValueError for a bad argument, CheckpointError for
    weights that are damaged, OSError when the hub does not answer or reading fails.
    """
    if whole and not deep:
        raise ValueError(
            Sentence(
                "whole has no effect without deep: leave it out, or compare tensors",
                "--whole has no effect without --deep: leave it out, or compare tensors",
            )
        )
    if steps is not None and not (
        isinstance(steps, Collection) and steps and all(type(n) is int and n >= 0 for n in steps)
    ):
        raise ValueError("steps must be whole numbers from 0 on: name one at least")
    table = read_known(known)
    name = os.fspath(model)
    folder = Path(name).expanduser()
    told = progress or (lambda done, total: None)
    if folder.is_dir():
        branches = local_branches(folder, steps, told)
    else:
        from pythia_rt.suites.remote import remote_branches  # the hub's library is slow to import

        branches = remote_branches(name, steps, told)
    contents = {branch.revision: by_files(branch) for branch in branches}
    digests: dict[str, str] = {}
    if deep:
        from pythia_rt.suites.deep import read_contents

        contents, digests = read_contents(
            branches, folder if folder.is_dir() else name, whole=whole, progress=told
        )
    found = _judge(name, branches, contents, table, steps, deep)
    read = "all" if whole or folder.is_dir() else "the first 64 KiB of each matrix"
    return replace(found, read=read if deep else "", digests=digests)


def _judge(
    model: str,
    branches: Sequence[Branch],
    contents: Mapping[str, Content],
    table: KnownTable,
    steps: Collection[int] | None,
    deep: bool,
) -> Audit:
    entries = table.of(model)
    last = max((b for b in branches if b.step is not None), key=lambda b: b.step or 0, default=None)
    groups = group(branches, contents)
    class_of = {revision: number for number, members in enumerate(groups) for revision in members}
    return Audit(
        model=model,
        date=datetime.date.today().isoformat(),
        compared="tensors" if deep else "files",
        read="",
        branches=tuple(branches),
        identical=tuple(
            _identical(members, entries, None if last is None else last.revision)
            for members in groups
            if len(members) > 1
        ),
        mixtures=tuple(_mixtures(groups, contents, entries)),
        lacking=tuple(_lacking(model, branches, entries, steps)),
        main=_main(branches, class_of, last, steps),
        known=tuple(entries),
        known_date=table.date,
    )


def _identical(members: tuple[str, ...], entries: list[Known], last: str | None) -> Identical:
    reasons = []
    rest = set(members)
    for entry in entries:
        if entry.kind == IDENTICAL and entry.state == BY_DESIGN:
            same = rest & set(entry.revisions)
            if len(same) > 1:
                rest -= set(sorted(same)[1:])  # one of them stands for the others
                reasons.append(entry.what)
    if rest == {"main", last}:
        rest -= {"main"}
        reasons.append("main is the last step")
    by_design = "; ".join(reasons) if len(rest) == 1 else ""
    said = () if by_design else _said(entries, IDENTICAL, members, 2)
    return Identical(members, by_design, said)


def _mixtures(
    groups: Sequence[tuple[str, ...]], contents: Mapping[str, Content], entries: list[Known]
) -> list[Mixture]:
    """Return the branches of groups that share parts with another, each with the one it shares
    most with.

    Of two groups the one that has main, or more branches, or the later one, is taken to be whole.
    """
    names = [  # of each group: digest -> name of the part
        {digest: name for name, digest in contents[members[0]].parts.items()} for members in groups
    ]
    holders: dict[str, list[int]] = defaultdict(list)
    for number, parts in enumerate(names):
        for digest in parts:
            holders[digest].append(number)

    def trust(number: int) -> tuple[bool, int, int]:
        return "main" in groups[number], len(groups[number]), number

    found = []
    for number, parts in enumerate(names):
        shared: dict[int, list[str]] = defaultdict(list)
        for digest, name in parts.items():
            for other in holders[digest]:
                if trust(other) > trust(number):
                    shared[other].append(name)
        if shared:
            most = max(shared, key=lambda other: (len(shared[other]), trust(other)))
            steps = [name for name in groups[most] if name != "main"]
            found += [
                Mixture(
                    revision,
                    (steps or ["main"])[-1],
                    tuple(shared[most]),
                    len(parts),
                    _said(entries, MIXTURE, [revision], 1),
                )
                for revision in groups[number]
            ]
    return found


def _lacking(
    model: str,
    branches: Sequence[Branch],
    entries: list[Known],
    steps: Collection[int] | None,
) -> list[Lacking]:
    found = []
    there = {branch.step for branch in branches}
    for step in sorted(set(steps if steps is not None else known_steps(model) or ()) - there):
        found.append(Lacking(f"step{step}", "there is no such branch"))
    for branch in branches:
        if not branch.weights:
            found.append(Lacking(branch.revision, "it has no weights"))
        elif shards := branch.lacking():
            found.append(Lacking(branch.revision, f"it lacks the shards {', '.join(shards)}"))
    return [replace(one, known=_said(entries, MISSING, [one.revision], 1)) for one in found]


def _main(
    branches: Sequence[Branch],
    class_of: Mapping[str, int],
    last: Branch | None,
    steps: Collection[int] | None,
) -> str:
    main = next((branch for branch in branches if branch.revision == "main"), None)
    if main is None:
        return "not there"
    if not main.weights:
        return "empty"
    if last is None or last.revision not in class_of or steps is not None:
        return "not compared"
    same = class_of["main"] == class_of[last.revision]
    return "the last step" if same else "another than the last step"


def _said(
    entries: list[Known], kind: str, revisions: Collection[str], least: int
) -> tuple[str, ...]:
    """Return where it is said of `least` of the revisions at least."""
    return tuple(
        entry.reference
        for entry in entries
        if entry.kind == kind
        and entry.state != BY_DESIGN
        and len(set(revisions) & set(entry.revisions)) >= least
    )
