"""What the hub says of a model: its branches and commits, and each file's size and digest."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.parse import quote as url_quote

import httpx2

from ..errors import CheckpointError, quote
from ..files.json_object import MAX_JSON_BYTES
from .client import gated, open_client
from .retry import keep_asking, refusal
from .settings import endpoint, is_hub_id, is_offline, own_cache, shown_endpoint

_TRIES = 4
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# No second try: without a network nothing answers in a second either, and a cache may serve.
_NO_NETWORK = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.InvalidURL)
_LONGEST_ANSWER = 600.0  # seconds: whoever sends a byte now and then sends nothing
_MAX_PAGES = 1000  # of the list of a commit's files


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


def list_revisions(name: str, client: httpx2.Client | None = None) -> list[Revision]:
    """The branches of the model `name`, in the hub's order; one request.

    Give a `client` of open_client() where there are many questions, here and below. Raises
    FileNotFoundError for no model of the hub, PermissionError for a gated one, ConnectionError when
    the hub does not answer, CheckpointError when it says something else.
    """
    said, _ = _ask(name, None, "/refs", {}, client)
    branches = said.get("branches") if isinstance(said, dict) else None
    if not isinstance(branches, list) or not all(isinstance(b, dict) for b in branches):
        raise _says_something_else(f"what branches {name} has")
    found = [(branch.get("name"), branch.get("targetCommit")) for branch in branches]
    return [Revision(_name(name, b), _commit(name, b, commit)) for b, commit in found]


def read_listing(name: str, revision: str) -> Listing:
    """The commit that `revision` points at and its files, in one request.

    What a commit holds never changes, so that is asked once and kept. Raises what `list_revisions`
    does, and FileNotFoundError for no such revision.
    """
    if (known := _read_kept(name, revision)) is not None:
        return Listing(revision, known)
    call = "/revision/" + url_quote(revision, safe="")
    said, _ = _ask(name, revision, call, {"blobs": "true"})
    answer: Mapping[str, Any] = said if isinstance(said, dict) else {}
    commit = _commit(name, revision, answer.get("sha"))
    found = _files(name, answer.get("siblings"), "rfilename", "blobId", "sha256")
    _keep(name, commit, found)
    return Listing(commit, {file.path: file for file in found})


def file_digests(
    name: str, revision: str, client: httpx2.Client | None = None
) -> dict[str, RemoteFile]:
    """The files of `revision`, a branch or commit, by their paths; one request for each thousand.

    No file is downloaded: the digests are those that the hub keeps. What a commit holds never
    changes, so that is asked once and kept. Raises what `read_listing` raises.
    """
    if (known := _read_kept(name, revision)) is not None:
        return known
    found: list[RemoteFile] = []
    call, parameters = "/tree/" + url_quote(revision, safe=""), {"recursive": "true"}
    for _ in range(_MAX_PAGES):
        said, cursor = _ask(name, revision, call, parameters, client)
        found += _files(name, said, "path", "oid", "oid")
        if not cursor:
            break
        parameters["cursor"] = cursor
    else:
        raise _says_something_else(f"where the list of files of {name} ends")
    if _COMMIT.fullmatch(revision):
        _keep(name, revision, found)
    return {file.path: file for file in found}


def _files(name: str, said: Any, path: str, git: str, sha256: str) -> list[RemoteFile]:
    """The files in a list of the API, by the keys that it has for path and digests."""
    if not isinstance(said, list) or not all(isinstance(one, dict) for one in said):
        raise _says_something_else(f"what files {name} has")
    found = []
    for one in said:
        if one.get("type") == "directory":
            continue
        lfs = one.get("lfs")
        digest = lfs.get(sha256) if isinstance(lfs, dict) else one.get(git)
        found.append(_remote_file(name, one.get(path), one.get("size"), digest))
    return found


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


def forget(name: str, commit: str) -> None:
    """Ask again what a commit holds: what came is not what was listed."""
    with suppress(OSError):
        _kept(name, commit).unlink(missing_ok=True)


def _remote_file(name: str, path: Any, size: Any, digest: Any) -> RemoteFile:
    """What a server says may be anything; digests become names of files."""
    is_digest = isinstance(digest, str) and _DIGEST.fullmatch(digest)
    if not isinstance(path, str) or type(size) is not int or size < 0 or not is_digest:
        raise _says_something_else(f"what size and digest {quote(str(path))} of {name} has")
    return RemoteFile(path, size, digest)


def _name(model: str, branch: Any) -> str:
    if not isinstance(branch, str):
        raise _says_something_else(f"what branches {model} has")
    return branch


def _commit(name: str, revision: Any, commit: Any) -> str:
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise _says_something_else(f"which commit of {name} {quote(str(revision))} is")
    return commit


def _says_something_else(what: str) -> CheckpointError:
    return CheckpointError(
        f"{shown_endpoint()} does not say {what}: set HF_ENDPOINT to another mirror"
    )


def _ask(
    name: str,
    revision: str | None,
    call: str,
    parameters: Mapping[str, str],
    client: httpx2.Client | None = None,
) -> tuple[Any, str]:
    """What the hub's API says of a model, and the cursor of the next page, "" on the last.

    Asks again when the hub was busy. The hub's library would wait for a silent one without end, and
    read what it sends whatever its size.
    """
    if not is_hub_id(name):
        raise FileNotFoundError(f"{name} is no folder and no hub id: check the spelling")
    if is_offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    if client is None:
        with open_client() as own:
            return _ask(name, revision, call, parameters, own)
    url = f"{endpoint()}/api/models/{name}{call}"

    def ask() -> tuple[Any, str]:
        with client.stream("GET", url, params=parameters) as response:
            if response.is_success:
                return _read(response, name), _cursor(response)
            _refuse(response, name, revision)
            raise refusal(response)

    return keep_asking(ask, HubUnreachableError, _TRIES, final=_NO_NETWORK)


def _read(response: httpx2.Response, name: str) -> Any:
    text = bytearray()
    end = time.monotonic() + _LONGEST_ANSWER
    for block in response.iter_bytes():
        text += block
        if time.monotonic() > end:
            raise HubUnreachableError("it is too slow")
        if len(text) > MAX_JSON_BYTES:
            raise _says_something_else(f"in {MAX_JSON_BYTES >> 20} MiB what {name} has")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _says_something_else(f"in JSON what {name} has") from None


def _cursor(response: httpx2.Response) -> str:
    """Only where to go on: which host is asked stays the user's choice."""
    following = response.links.get("next", {}).get("url", "")
    return parse_qs(urlsplit(following).query).get("cursor", [""])[0]


def _refuse(response: httpx2.Response, name: str, revision: str | None) -> None:
    """Raise what an answer means that asking again would not change."""
    status, code = response.status_code, response.headers.get("x-error-code", "")
    if code == "RevisionNotFound":
        raise NoRevisionError(
            f"{name} has no revision {quote(revision or 'main')}: see its branches on the hub"
        )
    if code == "GatedRepo" or (status == 403 and not code):
        raise gated(name)
    if status == 401 and not code and "authorization" in response.request.headers:
        raise PermissionError(
            "the hub does not know this token: log in with hf auth login, or set HF_TOKEN anew"
        )
    if code == "RepoNotFound" or status in (401, 404):
        raise FileNotFoundError(
            f"{name} is neither a folder here nor a model of the hub: check the spelling, or log "
            "in with hf auth login if it is private"
        )
    if status < 500 and status != 429:
        raise HubUnreachableError(f"status {status}")
