"""The branches of a model of the hub: their files' digests, and tensors read in ranges."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx2

from pythia_rt.convert.source.checkpoint import read_tensors
from pythia_rt.convert.source.client import open_client
from pythia_rt.convert.source.listing import (
    HubUnreachableError,
    Revision,
    file_digests,
    list_revisions,
)
from pythia_rt.convert.source.ranged_file import RangedFile
from pythia_rt.convert.source.settings import is_offline
from pythia_rt.convert.source.steps import step_of
from pythia_rt.convert.source.tensor import SourceTensor
from pythia_rt.suites.branches import Branch, in_order, make_branch

_AT_ONCE = 8  # requests


def remote_branches(
    name: str, steps: Collection[int] | None, progress: Callable[[int, int], None]
) -> list[Branch]:
    """Return the branches step{N} and main of a model, with the digests of their files.

    With `steps` only these, and main: one request for each and one for all. Raises
    FileNotFoundError for no such model and for one without steps, and what `list_revisions` raises.
    """
    if is_offline():
        raise ConnectionError(
            "an audit asks the hub and HF_HUB_OFFLINE is set: unset it, or give a folder of steps"
        )
    try:
        with open_client() as client:
            return _branches(name, steps, progress, client)
    except HubUnreachableError as reason:
        raise ConnectionError(
            f"the hub does not answer ({reason}): check the network, or give a folder of steps"
        ) from None


def _branches(
    name: str,
    steps: Collection[int] | None,
    progress: Callable[[int, int], None],
    client: httpx2.Client,
) -> list[Branch]:
    revisions = list_revisions(name, client)
    if not any(step_of(revision.name) is not None for revision in revisions):
        raise FileNotFoundError(f"{name} has no branches step0, step1 and so on: name a suite")
    wanted = [
        revision
        for revision in revisions
        if revision.name == "main"
        or ((step := step_of(revision.name)) is not None and (steps is None or step in steps))
    ]

    def read(revision: Revision) -> Branch:
        files = file_digests(name, revision.commit, client)
        sizes = {path: (file.size, file.digest) for path, file in files.items()}
        return make_branch(revision.name, revision.commit, sizes)

    found = []
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for branch in pool.map(read, wanted):
            found.append(branch)
            progress(len(found), len(wanted))
    return in_order(found)


@contextmanager
def remote_tensors(name: str, branch: Branch) -> Iterator[Mapping[str, SourceTensor]]:
    """Give the tensors of a branch, of which only what is read is fetched.

    Raises CheckpointError for files that are damaged, ConnectionError when the hub does not answer.
    """
    with open_client() as client, ExitStack() as stack:
        tensors: dict[str, SourceTensor] = {}
        for weights in branch.weights:
            file = RangedFile(name, branch.commit, weights.name, weights.bytes, client)
            stack.callback(file.close)
            tensors |= read_tensors(file)
        yield tensors
