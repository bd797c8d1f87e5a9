"""How tests/local_hub.py answers: the hub's calls, its headers and its faults."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from local_hub import LocalHub

BLOCK = 1 << 16
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/(?P<call>[\w-]+)(?:/(?P<rest>.+))?)?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Stored:
    """A file of a commit: where its bytes are, git's oid, and the SHA-256 of an LFS file."""

    path: Path
    size: int
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass
class Request:
    """What was asked, and what came back: `sent` counts the body's bytes, `kind` is api, resolve
    or cdn."""

    method: str
    path: str
    kind: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Fault:
    """What happens to the next `times` (None: all) GET requests for a file or a path of the API
    that matches `pattern`, after `skip` of them."""

    pattern: str
    kind: str  # cut, hold, flip, status, slow or answer
    times: int | None = None
    at: int = 0  # cut, hold: after so many bytes; flip: the file's byte
    status: int = 503
    pause: float = 0.0  # slow: seconds before each `block` bytes
    block: int = BLOCK
    skip: int = 0
    answer: Callable[[Handler], None] | None = None  # answer: says all that there is to say


class Refused(Exception):  # noqa: N818
    """An answer of the hub that is an error: its status, and its name for it."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(code)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    hub: ClassVar[LocalHub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def do_POST(self) -> None:
        """Answer what asks with a body: paths-info."""
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = (
            "api" if path.startswith("/api/") else "cdn" if path.startswith("/cdn/") else "resolve"
        )
        self.request_log: Request = Request(
            self.command, path, kind, self.headers.get("Range"), self.headers.get("Authorization")
        )
        with self.hub.lock:
            self.hub.requests.append(self.request_log)
        is_over, said = self.hub.count_towards_limit(kind)
        faults = self.hub.take_faults(path) if self.command == "GET" else []
        try:
            if is_over:
                self._send(429, b'{"error":"rate limited"}', said)
                return
            for fault in faults:
                if fault.answer is not None:
                    fault.answer(self)
                    return
                if fault.kind == "status":
                    self._send(fault.status, b"{}", said)
                    return
            if kind == "api":
                self._api(path, body, said, faults)
            elif kind == "cdn":
                self._cdn(path, faults)
            else:
                self._resolve(path, said, faults)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code}
            self._send(refused.status, b'{"error":"%s"}' % refused.code.encode(), said | headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # The API.

    def _files(self, repo: str, revision: str) -> dict[str, Stored]:
        self._admit(repo)
        try:
            return dict(self.hub.files(repo, revision))
        except KeyError:
            raise Refused(404, "RevisionNotFound") from None

    def _admit(self, repo: str) -> None:
        try:
            self.hub.branches(repo)
        except KeyError:
            raise Refused(401, "RepoNotFound") from None
        if (
            repo in self.hub.gated
            and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            raise Refused(401, "GatedRepo")

    def _commit(self, repo: str, revision: str) -> str:
        return self.hub.branches(repo).get(revision, revision)

    def _api(self, path: str, body: bytes, said: dict[str, str], faults: list[Fault]) -> None:
        match = _API.fullmatch(path)
        if match is None:
            raise Refused(404)
        repo, call, rest = match["repo"], match["call"], match["rest"] or "main"
        answer: Any
        if call in (None, "revision"):
            files = self._files(repo, rest)
            answer = {
                "_id": "0" * 24,
                "id": repo,
                "modelId": repo,
                "sha": self._commit(repo, rest),
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [_sibling(name, stored) for name, stored in files.items()],
            }
        elif call == "refs":
            self._admit(repo)
            branches = self.hub.branches(repo)
            answer = {
                "branches": [
                    {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                    for name, commit in branches.items()
                ],
                "converts": [],
                "tags": [],
            }
        elif call == "tree":
            answer = [_entry(*item) for item in self._files(repo, rest).items()]
        elif call == "paths-info":
            files = self._files(repo, rest)
            wanted = parse_qs(body.decode()).get("paths", [])
            answer = [_entry(name, files[name]) for name in wanted if name in files]
        else:
            raise Refused(404)
        content = json.dumps(answer).encode()
        self._send(200, content, said | {"Content-Type": "application/json"}, faults=faults)

    # Files.

    def _resolve(self, path: str, said: dict[str, str], faults: list[Fault]) -> None:
        match = _RESOLVE.fullmatch(path)
        if match is None:
            raise Refused(404, "RepoNotFound")
        repo, revision, name = match["repo"], match["revision"], match["file"]
        stored = self._files(repo, revision).get(name)
        headers = said | {"X-Repo-Commit": self._commit(repo, revision)}
        if stored is None:
            raise Refused(404, "EntryNotFound")
        if stored.sha256 is not None:
            headers |= {"X-Linked-Etag": f'"{stored.sha256}"', "X-Linked-Size": str(stored.size)}
            if self.hub.redirects:
                location = f"{self.hub.cdn}/{stored.sha256}"
                self._send(302, b"", headers | {"Location": location, "ETag": '"redirect"'})
                return
        self._send_file(stored, headers | {"ETag": f'"{stored.etag}"'}, faults)

    def _cdn(self, path: str, faults: list[Fault]) -> None:
        stored = self.hub.by_digest(path.removeprefix("/cdn/"))
        if stored is None:
            raise Refused(404)
        self._send_file(stored, {"ETag": f'"cdn-{stored.etag[:16]}"'}, faults)

    def _send_file(self, stored: Stored, headers: dict[str, str], faults: list[Fault]) -> None:
        begin, end, status = 0, stored.size, 200
        if self.hub.ranges:
            headers["Accept-Ranges"] = "bytes"
            asked = _RANGE.fullmatch(self.headers.get("Range") or "")
            condition = self.headers.get("If-Range")
            if asked and condition in (None, headers["ETag"]):
                first, last = asked.groups()
                begin = int(first) if first else max(0, stored.size - int(last))
                end = min(stored.size, int(last) + 1) if first and last else stored.size
                if begin >= end:
                    said = {"Content-Range": f"bytes */{stored.size}"}
                    self._send(416, b"", headers | said)
                    return
                status = 206
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{stored.size}"
        with stored.path.open("rb") as stream:
            stream.seek(begin)
            self._send(status, stream, headers, begin, end - begin, faults)

    def say(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer with these headers and, if they do not say otherwise, the body's length."""
        self.request_log.status = status
        self.request_log.sent += len(body)
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _send(
        self,
        status: int,
        content: Any,
        headers: dict[str, str],
        begin: int = 0,
        length: int | None = None,
        faults: list[Fault] | None = None,
    ) -> None:
        """Send `content`, bytes or an open file of which `length` bytes are left to send."""
        length = len(content) if length is None else length
        self.request_log.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        # Counted before it is sent: whoever has it may ask at once how much there was.
        if isinstance(content, bytes):
            self.request_log.sent += len(content)
            self.wfile.write(content)
            return
        flips = [fault.at - begin for fault in faults or () if fault.kind == "flip"]
        cuts = [fault.at for fault in faults or () if fault.kind == "cut"]
        holds = [fault.at for fault in faults or () if fault.kind == "hold"]
        slow = next((fault for fault in faults or () if fault.kind == "slow"), None)
        stop = min([length, *cuts, *holds])
        sent = 0
        while sent < stop:
            if slow is not None:
                time.sleep(slow.pause)
            block = bytearray(content.read(min(slow.block if slow else BLOCK, stop - sent)))
            for flip in flips:
                if sent <= flip < sent + len(block):
                    block[flip - sent] ^= 1
            self.request_log.sent += len(block)
            self.wfile.write(block)
            sent += len(block)
        if stop in holds:
            self.hub.is_closing.wait()
        if stop < length:
            self.close_connection = True


def _sibling(name: str, stored: Stored) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": name, "size": stored.size, "blobId": stored.oid}
    if stored.sha256:
        found["lfs"] = {"sha256": stored.sha256, "size": stored.size, "pointerSize": 130}
    return found


def _entry(name: str, stored: Stored) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "file", "path": name, "size": stored.size, "oid": stored.oid}
    if stored.sha256:
        found["lfs"] = {"oid": stored.sha256, "size": stored.size, "pointerSize": 130}
    return found
