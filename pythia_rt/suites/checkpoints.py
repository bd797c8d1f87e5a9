"""What checkpoints there are of a model: its steps, with their commits, files and sizes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pythia_rt.convert.errors import Sentence
from pythia_rt.convert.source.settings import hub_cache, is_hub_id, is_offline
from pythia_rt.convert.source.steps import local_steps, revision_of, step_of
from pythia_rt.suites.names import known_steps

if TYPE_CHECKING:
    import httpx2

    from pythia_rt.convert.source.listing import RemoteFile

AT_ONCE = 8  # questions to the hub


@dataclass(frozen=True)
class Checkpoint:
    """A model at one step of its training.

    `step` counts the optimizer's updates; `revision` is "step{N}", and `commit` what that is on the
    hub now, "" for a folder, None where only the schedule is known. `files` are the paths of its
    files, `bytes` is their size in all; None where nobody was asked.
    """

    step: int
    revision: str
    commit: str | None = None
    files: tuple[str, ...] | None = None
    bytes: int | None = None


def checkpoints(
    model: str | os.PathLike[str],
    *,
    offline: bool = False,
    files: bool = True,
    cache_dir: str | os.PathLike[str] | None = None,
) -> list[Checkpoint]:
    """The checkpoints of `model`, by step.

    `model` is a hub id or a folder with the folders step{N}. The hub is asked once, and once more
    for each commit whose files are not known yet; without `files` these are left out. With
    `offline`, or HF_HUB_OFFLINE, the hub is not asked: what Pythia's models are known to have is
    listed, and what the hub's cache (`cache_dir`) knows of others, without sizes.

    Raises FileNotFoundError for a model that is not there or, offline, not known, ValueError for a
    folder without steps, PermissionError for a gated model, ConnectionError when the hub does not
    answer.
    """
    folder = Path(model).expanduser()
    name = os.fspath(model)
    if folder.is_dir():
        return _local(folder, files)
    if not is_hub_id(name):
        raise FileNotFoundError(f"{name} is no folder and no hub id: check the spelling")
    if offline or is_offline():
        return _known(name, cache_dir)
    return _on_the_hub(name, files)


def _local(folder: Path, files: bool) -> list[Checkpoint]:
    steps = local_steps(folder)
    if not steps:
        raise ValueError(f"{folder} has no folders step0, step1, ...: give one that has")
    found = []
    for step, place in steps.items():
        inside = sorted(p for p in place.rglob("*") if p.is_file()) if files else []
        paths = tuple(p.relative_to(place).as_posix() for p in inside)
        size = sum(p.stat().st_size for p in inside)
        sized = (paths, size) if files else (None, None)
        found.append(Checkpoint(step, place.name, "", *sized))
    return found


def _known(name: str, cache_dir: str | os.PathLike[str] | None) -> list[Checkpoint]:
    from pythia_rt.convert.source.store import Store

    store = Store(hub_cache(cache_dir), name)
    refs = store.folder / "refs"
    cached = {step_of(path.name) for path in refs.iterdir()} if refs.is_dir() else set()
    steps = {step for step in cached if step is not None} | set(known_steps(name) or ())
    if not steps:
        raise FileNotFoundError(
            Sentence(
                f"the steps of {name} are not known here: ask the hub once, without offline",
                f"the steps of {name} are not known here: ask the hub once, without --offline and "
                "HF_HUB_OFFLINE",
            )
        )
    return [
        Checkpoint(step, revision_of(step), store.commit_of(revision_of(step)))
        for step in sorted(steps)
    ]


def _on_the_hub(name: str, files: bool) -> list[Checkpoint]:
    from pythia_rt.convert.source.client import open_client
    from pythia_rt.convert.source.listing import HubUnreachableError, list_revisions

    try:
        with open_client() as client:
            revisions = {step_of(r.name): r for r in list_revisions(name, client)}
            steps = sorted(step for step in revisions if step is not None)
            commits = [revisions[step].commit for step in steps]
            listings = _listings(name, commits, client) if files else []
    except HubUnreachableError as reason:
        raise ConnectionError(
            f"the hub does not answer ({reason}): check the network, or pass offline=True"
        ) from None
    if not steps:
        raise FileNotFoundError(
            f"{name} has no branches step0, step1, ...: see its page on the hub"
        )
    if not files:
        return [Checkpoint(s, revisions[s].name, c) for s, c in zip(steps, commits, strict=True)]
    return [
        Checkpoint(
            step, revisions[step].name, commit, tuple(listed), sum(f.size for f in listed.values())
        )
        for step, commit, listed in zip(steps, commits, listings, strict=True)
    ]


def _listings(name: str, commits: list[str], client: httpx2.Client) -> list[dict[str, RemoteFile]]:
    from pythia_rt.convert.source.listing import file_digests

    with ThreadPoolExecutor(AT_ONCE, "listing") as pool:
        return list(pool.map(lambda commit: file_digests(name, commit, client), commits))
