"""The branches of a suite of checkpoints and the files of weights that each has, unread.

A suite is a model of the hub with a branch for each step, or a folder with a folder step{N} for
each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pythia_rt.convert.files.digest import sha256_of
from pythia_rt.convert.source.steps import step_of

SAFETENSORS, BIN = FILE_KINDS = ("safetensors", "bin")  # in the order in which they are preferred
_NAMES = {
    SAFETENSORS: re.compile(r"model(?:-(\d{1,9})-of-(\d{1,9}))?\.safetensors", re.ASCII),
    BIN: re.compile(r"pytorch_model(?:-(\d{1,9})-of-(\d{1,9}))?\.bin", re.ASCII),
}


@dataclass(frozen=True)
class WeightFile:
    """A file of weights: its size in bytes, and the SHA-256 of its content."""

    name: str
    bytes: int
    digest: str


@dataclass(frozen=True)
class Branch:
    """A branch: `commit` is "" of a folder; `files` are those of weights, of both kinds."""

    revision: str
    commit: str
    files: tuple[WeightFile, ...]

    @property
    def step(self) -> int | None:
        """The step that its name says; None of main."""
        return step_of(self.revision)

    def of_kind(self, kind: str) -> tuple[WeightFile, ...]:
        """Return its files of one of FILE_KINDS."""
        return tuple(file for file in self.files if _NAMES[kind].fullmatch(file.name))

    @property
    def kind(self) -> str | None:
        """The kind of files that is loaded; None without weights."""
        return next((kind for kind in FILE_KINDS if self.of_kind(kind)), None)

    @property
    def weights(self) -> tuple[WeightFile, ...]:
        """The files that are loaded."""
        return self.of_kind(self.kind) if self.kind else ()

    def lacking(self) -> list[str]:
        """Return the numbers, as "2 of 3", of the shards that are not there."""
        found = []
        for kind in FILE_KINDS:
            numbers = [_NAMES[kind].fullmatch(file.name) for file in self.of_kind(kind)]
            totals = {int(match[2]) for match in numbers if match and match[2]}
            there = {int(match[1]) for match in numbers if match and match[1]}
            found += [
                f"{number} of {total} ({kind})"
                for total in sorted(totals)
                for number in range(1, min(total, 1000) + 1)
                if number not in there
            ]
        return found


def in_order(branches: Iterable[Branch]) -> list[Branch]:
    """Return the branches by their steps, main at the end."""
    return sorted(
        branches, key=lambda b: (b.step is None, -1 if b.step is None else b.step, b.revision)
    )


def is_weights(name: str) -> bool:
    """Whether a file of this name, in the branch itself, is one of weights."""
    return any(pattern.fullmatch(name) for pattern in _NAMES.values())


def local_branches(
    folder: Path, steps: Collection[int] | None, progress: Callable[[int, int], None]
) -> list[Branch]:
    """Return the branches of a folder that has folders step{N}, and maybe main.

    With `steps` only these, and main. Reads all their weights, for the digests: a link to nothing,
    and a folder, are none. `progress` is called with how many branches are read, and of how many.
    Raises FileNotFoundError where there is no such folder, OSError for what cannot be read.
    """
    wanted = [
        inner
        for inner in folder.iterdir()
        if inner.is_dir()
        and (
            inner.name == "main"
            or ((step := step_of(inner.name)) is not None and (steps is None or step in steps))
        )
    ]
    if not any(step_of(inner.name) is not None for inner in wanted):
        raise FileNotFoundError(
            f"{folder} has no folders step0, step1 and so on: give one that has, or a hub id"
        )
    found = []
    for inner in wanted:
        paths = [p for p in sorted(inner.iterdir()) if is_weights(p.name) and p.is_file()]
        weights = tuple(WeightFile(p.name, p.stat().st_size, sha256_of(p)) for p in paths)
        found.append(Branch(inner.name, "", weights))
        progress(len(found), len(wanted))
    return in_order(found)


def make_branch(revision: str, commit: str, files: Mapping[str, tuple[int, str]]) -> Branch:
    """Return a branch of the hub from the size and digest of each of its files."""
    weights = tuple(WeightFile(name, *files[name]) for name in sorted(files) if is_weights(name))
    return Branch(revision, commit, weights)
