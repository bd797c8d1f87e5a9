"""What a branch holds, in a form in which branches are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pythia_rt.suites.branches import BIN, FILE_KINDS, Branch


@dataclass(frozen=True)
class Content:
    """What a branch holds, in a form that can be compared: digests of its parts, by their names.

    `keys` has one key for each kind of files, all of which stand for the same weights; branches
    that have an equal one of the same kind are the same. `parts` are the digests of large parts.
    """

    keys: Mapping[str, str]
    parts: Mapping[str, str]


def by_files(branch: Branch) -> Content:
    """Return what a branch holds, by the digests of its files."""
    keys = {
        kind: " ".join(sorted(file.digest for file in files))
        for kind in FILE_KINDS
        if (files := branch.of_kind(kind))
    }
    return Content(keys, {file.name: file.digest for file in branch.weights})


def group(branches: Sequence[Branch], contents: Mapping[str, Content]) -> list[tuple[str, ...]]:
    """Return the revisions with weights in groups of equal ones, in the order of the branches."""
    leader: dict[tuple[str, str], str] = {}  # a key -> the first revision that has it
    joined: dict[str, list[str]] = {}
    home: dict[str, str] = {}
    for branch in branches:
        keys = contents[branch.revision].keys
        # The kind that is loaded decides; the other helps those that have nothing else.
        first = next(iter(keys.items()), None)
        if first is None:
            continue
        found = leader.get(first)
        if found is None and first[0] != BIN and BIN in keys:
            other = leader.get((BIN, keys[BIN]))
            if other is not None and next(iter(contents[other].keys)) == BIN:
                found = other
        if found is None:
            found = branch.revision
            joined[found] = []
        for key in keys.items():
            leader.setdefault(key, found)
        home[branch.revision] = found
        joined[found].append(branch.revision)
    return [tuple(members) for members in joined.values()]
