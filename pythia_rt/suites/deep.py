"""What the branches of a suite hold, by digests over the values of their tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pythia_rt.convert.source.checkpoint import Checkpoint
from pythia_rt.convert.source.value_digests import ValueDigests, digest_values
from pythia_rt.suites.branches import Branch
from pythia_rt.suites.content import Content

SAMPLE_BYTES = 64 << 10  # of each matrix of the hub's, unless it is read whole


def read_contents(
    branches: Sequence[Branch],
    suite: Path | str,
    *,
    whole: bool,
    progress: Callable[[int, int], None],
) -> tuple[dict[str, Content], dict[str, str]]:
    """Return what each branch holds, and the digest over all its values, both by revision.

    `suite` is the folder of the branches, or their hub id. Branches with the same files are read
    once. Raises CheckpointError for files that are damaged, and OSError where reading fails.
    """
    read: dict[tuple[str, ...], ValueDigests] = {}
    contents: dict[str, Content] = {}
    digests: dict[str, str] = {}
    for number, branch in enumerate(branches):
        files = tuple(sorted(file.digest for file in branch.weights))
        if files and not branch.lacking():
            if files not in read:
                read[files] = _read(branch, suite, whole)
            found = read[files]
            parts = {name: one.values for name, one in found.tensors.items() if one.is_large}
            contents[branch.revision] = Content({"values": found.values}, parts)
            digests[branch.revision] = found.values
        else:
            contents[branch.revision] = Content({}, {})
        progress(number + 1, len(branches))
    return contents, digests


def _read(branch: Branch, suite: Path | str, whole: bool) -> ValueDigests:
    if isinstance(suite, Path):
        with Checkpoint(suite / branch.revision) as checkpoint:
            return digest_values(checkpoint.tensors)
    from pythia_rt.suites.remote import remote_tensors

    with remote_tensors(suite, branch) as tensors:
        if whole:
            return digest_values(tensors)
        # A vector takes a request as well, and says less.
        large = {name: tensor for name, tensor in tensors.items() if len(tensor.shape) > 1}
        return digest_values(large, limit=SAMPLE_BYTES)
