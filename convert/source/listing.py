"""What the hub says of a model: its branches and commits, and each file's size and digest."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, errors

from ..errors import CheckpointError, quote
from .rates import pause, wait_of
from .settings import endpoint, is_hub_id, own_cache

_Answer = TypeVar("_Answer")
_TRIES = 4
_PAUSE = 1.0  # seconds before the second try; doubled for each further one
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# No second try: without a network nothing answers in a second either, and a cache may serve.
_NO_NETWORK = ("ConnectError", "ConnectTimeout", "OfflineModeIsEnabled")


class HubUnreachableError(ConnectionError):
    """The hub did not answer; the message is the reason's name."""


class NoRevisionError(FileNotFoundError):
    """A model has no such revision."""


@dataclass(frozen=True)
class Revision:
    """A branch of a model, and the commit that it points at."""

    name: str
    commit: str


@dataclass(frozen=True)
class RemoteFile:
    """A file of a commit: `size` in bytes, and the `digest` by which caches know it.

    That is the SHA-256 of an LFS file (64 digits, weights are such), of others git's SHA-1 (40).
    """

    path: str
    size: int
    digest: str

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of its content, where the hub says it."""
        return self.digest if len(self.digest) == 64 else None


@dataclass(frozen=True)
class Listing:
    """The files of a commit, by their paths."""

    commit: str
    files: dict[str, RemoteFile]


def list_revisions(name: str) -> list[Revision]:
    """The branches of the model `name`, in the hub's order; one request.

    Raises FileNotFoundError for no model of the hub, PermissionError for a gated one,
    ConnectionError when the hub does not answer.
    """
    refs = _ask(name, None, lambda api: api.list_repo_refs(name))
    return [Revision(str(ref.name), str(ref.target_commit)) for ref in refs.branches]


def read_listing(name: str, revision: str) -> Listing:
    """The commit that `revision` points at and its files, in one request.

    What a commit holds never changes, so that is asked once and kept. Raises what `list_revisions`
    does, and FileNotFoundError for no such revision.
    """
    if (known := _read_kept(name, revision)) is not None:
        return Listing(revision, known)
    info = _ask(
        name, revision, lambda api: api.model_info(name, revision=revision, files_metadata=True)
    )
    found = [
        _remote_file(name, s.rfilename, s.size, s.lfs.sha256 if s.lfs else s.blob_id)
        for s in info.siblings or ()
    ]
    commit = str(info.sha or "")
    if not _COMMIT.fullmatch(commit):
        raise CheckpointError(
            f"{endpoint()} does not say which commit of {name} {quote(revision)} is: set "
            "HF_ENDPOINT to another mirror"
        )
    _keep(name, commit, found)
    return Listing(commit, {file.path: file for file in found})


def file_digests(name: str, revision: str) -> dict[str, RemoteFile]:
    """The files of `revision`, a branch or commit, by their paths; one request for each thousand.

    No file is downloaded: the digests are those that the hub keeps. What a commit holds never
    changes, so that is asked once and kept. Raises what `read_listing` raises.
    """
    if (known := _read_kept(name, revision)) is not None:
        return known
    entries: Iterable[Any] = _ask(
        name,
        revision,
        lambda api: list(api.list_repo_tree(name, revision=revision, recursive=True)),
    )
    found = [
        _remote_file(name, e.path, e.size, e.lfs.sha256 if e.lfs else e.blob_id)
        for e in entries
        if hasattr(e, "size")  # folders have none
    ]
    if _COMMIT.fullmatch(revision):
        _keep(name, revision, found)
    return {file.path: file for file in found}


def _kept(name: str, commit: str) -> Path:
    return own_cache() / "listings" / name.replace("/", "--") / f"{commit}.json"


def _read_kept(name: str, commit: str) -> dict[str, RemoteFile] | None:
    if not _COMMIT.fullmatch(commit) or not is_hub_id(name):
        return None
    try:
        said = json.loads(_kept(name, commit).read_text(encoding="utf-8"))
        return {path: _remote_file(name, path, size, digest) for path, size, digest in said}
    except (OSError, ValueError, TypeError):
        return None


def _keep(name: str, commit: str, files: list[RemoteFile]) -> None:
    """What cannot be written is asked again."""
    try:
        place = _kept(name, commit)
        place.parent.mkdir(parents=True, exist_ok=True)
        written = place.with_name(f"{place.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        written.write_text(json.dumps([(f.path, f.size, f.digest) for f in files]), "utf-8")
        written.replace(place)
    except OSError:
        return


def _remote_file(name: str, path: Any, size: Any, digest: Any) -> RemoteFile:
    """What a server says may be anything; digests become names of files."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest) or not isinstance(size, int):
        raise CheckpointError(
            f"{endpoint()} does not say what size and digest {quote(str(path))} of {name} has: set "
            "HF_ENDPOINT to another mirror"
        )
    return RemoteFile(str(path), size, digest)


def _ask(name: str, revision: str | None, question: Callable[[HfApi], _Answer]) -> _Answer:
    """The hub's answer, after it was busy if need be."""
    api = HfApi(endpoint=endpoint(), library_name="pythia_rt")
    stop = threading.Event()
    tries = 0
    while True:
        tries += 1
        try:
            return question(api)
        except errors.RevisionNotFoundError:
            raise NoRevisionError(
                f"{name} has no revision {quote(revision or 'main')}: see its branches on the hub"
            ) from None
        except errors.GatedRepoError:
            raise PermissionError(
                f"{name} is gated: accept its terms on the hub and log in with hf auth login"
            ) from None
        except errors.RepositoryNotFoundError:
            raise FileNotFoundError(
                f"{name} is neither a folder here nor a model of the hub: check the spelling"
            ) from None
        except errors.HFValidationError:
            raise FileNotFoundError(
                f"{name} is no folder and no hub id: check the spelling"
            ) from None
        except errors.HfHubHTTPError as reason:
            status = reason.response.status_code
            said = wait_of(reason.response.headers) if status in (429, 503) else None
            if tries >= _TRIES or not (status == 429 or status >= 500):
                raise HubUnreachableError(f"status {status}") from None
            pause(_PAUSE * 2 ** (tries - 1) if said is None else said, stop)
        # What a missing network raises depends on the version of the hub's HTTP library.
        except Exception as reason:
            if tries >= _TRIES or type(reason).__name__ in _NO_NETWORK:
                raise HubUnreachableError(type(reason).__name__) from None
            pause(_PAUSE * 2 ** (tries - 1), stop)
