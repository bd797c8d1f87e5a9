"""A checkpoint becomes a flat file: fetched, verified, converted, and its source dropped."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from pythia_rt.convert import FlatFile, FlatFileError, convert
from pythia_rt.convert.conversion import PRODUCER
from pythia_rt.convert.errors import CheckpointError
from pythia_rt.convert.opening import open_source
from pythia_rt.convert.source.digests import SourceDigests
from pythia_rt.convert.source.hub import resolve
from pythia_rt.sweeps.plan import Unit


def digest_of(digests: Mapping[str, str]) -> str:
    """One digest of a checkpoint's files, {name: SHA-256}."""
    return hashlib.sha256(json.dumps(dict(sorted(digests.items()))).encode()).hexdigest()


def read_digest(folder: Path) -> str:
    """The digest of a folder's files, those that a conversion reads; raises as converting does."""
    with (
        open_source(folder) as opened,
        SourceDigests(opened.folder, opened.files) as digests,
    ):
        return digest_of(digests.result())


def fetch(unit: Unit, cache: Path) -> Path:
    """The folder of its source: where it is, in the hub's own cache if it is all there, or
    downloaded into `cache`. Raises what downloading raises: nothing unverified is ever taken."""
    if unit.is_local:
        return Path(unit.source)
    with contextlib.suppress(OSError, CheckpointError):
        return resolve(unit.source, unit.commit, local_files_only=True)[0]
    return resolve(unit.source, unit.commit, cache)[0]


def convert_unit(
    unit: Unit, digest: str, folder: Path, destination: Path, form: str, threads: int | None
) -> str:
    """Make the flat file `destination`; return the digest of what it was made from.

    With a `digest` that must be the one. Raises what converting raises.
    """
    convert(folder, destination, format=form, threads=threads, force=True)
    found = digest_of(FlatFile(destination).source_digests)
    if digest and found != digest:
        destination.unlink()
        raise CheckpointError(f"the files of {unit.where} changed while they were read")
    return found


def digest_of_made(path: Path, digest: str) -> str | None:
    """What the flat file `path`, left by a sweep that was killed, was made from.

    None where there is none that this version made from files of `digest`.
    """
    with contextlib.suppress(FileNotFoundError, FlatFileError):
        file = FlatFile(path)
        found = digest_of(file.source_digests)
        if file.metadata["producer"] == PRODUCER and digest in ("", found):
            return found
    return None
