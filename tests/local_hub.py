"""A small stand-in for the Hugging Face hub: an HTTP server in a thread, with the hub's faults.

Speaks what models need of it: revision, refs, tree and paths-info of the API, and resolve, with
ranges. Files of weights are LFS files, known by their SHA-256, all others by git's SHA-1.

    with LocalHub() as hub:
        hub.add("someone/tiny", "step1", folder)
        ...  # HF_ENDPOINT is hub.url; hub.requests says what was asked
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from local_hub_handler import BLOCK, Fault, Handler, Request, Stored

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt")


@dataclass
class Limit:
    """A window of `seconds` in which `requests` of one kind are answered."""

    requests: int
    seconds: float
    begun: float
    used: int = 0


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of who hung up."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class LocalHub:
    """The server. Use it as a context manager; `url` is what HF_ENDPOINT should be.

    `ranges` False: every answer is the whole file. `redirects`: LFS files come from another host
    (localhost, not 127.0.0.1), with another etag, as from the hub's CDN. `gated`: models that are
    served only to whoever sends `token`. `clock`: the time in which windows of limits pass.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self._temporary = None if root else tempfile.TemporaryDirectory(prefix="local-hub-")
        self._objects = Path(root or self._temporary.name) / "objects"  # type: ignore[union-attr]
        self._commits: dict[str, dict[str, dict[str, Stored]]] = {}
        self._branches: dict[str, dict[str, str]] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.limits: dict[str, Limit] = {}
        self.ranges = True
        self.redirects = False
        self.gated: set[str] = set()
        self.token = "hf_local"
        self.clock: Callable[[], float] = time.monotonic
        self.is_closing = threading.Event()
        self.lock = threading.RLock()
        self.server = _Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.cdn = f"http://localhost:{self.server.server_port}/cdn"
        self._thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def __enter__(self) -> LocalHub:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server; its folder goes if it is the server's own."""
        self.is_closing.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
        if self._temporary is not None:
            self._temporary.cleanup()

    # What there is.

    def add(
        self,
        repo: str,
        revision: str,
        files: Path | Mapping[str, bytes | Path],
        commit: str | None = None,
        *,
        copy: bool = True,
    ) -> str:
        """Make the branch `revision` of `repo` hold `files`, a folder or {path: content}; return
        the commit. With `copy=False` large files are read from where they are."""
        if isinstance(files, Path):
            folder = files
            found = sorted(path for path in folder.rglob("*") if path.is_file())
            files = {path.relative_to(folder).as_posix(): path for path in found}
        stored = {name: self._store(name, content, copy) for name, content in files.items()}
        if commit is None:
            text = "\n".join([repo, revision, *(f"{n} {s.etag}" for n, s in stored.items())])
            commit = hashlib.sha1(text.encode()).hexdigest()
        with self.lock:
            self._commits.setdefault(repo, {})[commit] = stored
            self._branches.setdefault(repo, {})[revision] = commit
        return commit

    def add_empty(self, repo: str) -> str:
        """A main branch as new repositories have it: no more than its .gitattributes."""
        return self.add(repo, "main", {".gitattributes": b"*.bin filter=lfs\n"})

    def add_shards_of(self, repo: str, revision: str, other: str, shards: str) -> str:
        """Make the files of branch `revision` that match `shards` those of the branch `other`."""
        with self.lock:
            taken = self.files(repo, other)
            mixed = {
                name: taken.get(name, stored) if fnmatch.fnmatch(name, shards) else stored
                for name, stored in self.files(repo, revision).items()
            }
        return self.add(repo, revision, {name: stored.path for name, stored in mixed.items()})

    def change(self, repo: str, revision: str, name: str, content: bytes) -> None:
        """Replace a file without a new commit: its etag changes, which the hub never does."""
        with self.lock:
            self.files(repo, revision)[name] = self._store(name, content, True)

    def files(self, repo: str, revision: str) -> dict[str, Stored]:
        """The files of a branch or commit, by path; KeyError where there is none."""
        commits = self._commits[repo]
        return commits[self._branches[repo].get(revision, revision)]

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a branch points at."""
        return self._branches[repo][revision]

    def _store(self, name: str, content: bytes | Path, copy: bool) -> Stored:
        def blocks() -> Iterator[bytes]:
            if isinstance(content, bytes):
                yield content
                return
            with content.open("rb") as stream:
                while block := stream.read(1 << 20):
                    yield block

        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        is_lfs = name.endswith(LFS_SUFFIXES)
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        for block in blocks():
            sha256.update(block)
            sha1.update(block)
        digest, oid = sha256.hexdigest(), sha1.hexdigest()
        if is_lfs:  # git knows the pointer
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n"
            )
            oid = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode()).hexdigest()
        if not copy and isinstance(content, Path):
            return Stored(content, size, oid, digest if is_lfs else None)
        path = self._objects / digest
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                shutil.copyfile(content, path)
        return Stored(path, size, oid, digest if is_lfs else None)

    # What goes wrong.

    def cut(self, pattern: str, at: int, times: int | None = 1) -> None:
        """Close the connection after `at` bytes of a body, whose length was said."""
        self.faults.append(Fault(pattern, "cut", times, at=at))

    def hold(self, pattern: str, at: int, times: int | None = 1) -> None:
        """Say nothing more after `at` bytes of a body, and keep the connection."""
        self.faults.append(Fault(pattern, "hold", times, at=at))

    def flip(self, pattern: str, at: int = 0, times: int | None = None) -> None:
        """Flip a bit of the byte `at` of a file: the length is right, the content is not."""
        self.faults.append(Fault(pattern, "flip", times, at=at))

    def fail(
        self, pattern: str, status: int = 503, times: int | None = 1, *, skip: int = 0
    ) -> None:
        """Answer with an error `times` times, after `skip` usual answers, then as usual."""
        self.faults.append(Fault(pattern, "status", times, status=status, skip=skip))

    def slow(
        self, pattern: str, pause: float, block: int = BLOCK, times: int | None = None
    ) -> None:
        """Send `block` bytes at a time, with `pause` seconds before each."""
        self.faults.append(Fault(pattern, "slow", times, pause=pause, block=block))

    def answer(
        self, pattern: str, say: Callable[[Handler], None], times: int | None = None
    ) -> None:
        """Let `say` answer, whatever it says."""
        self.faults.append(Fault(pattern, "answer", times, answer=say))

    def limit(self, kind: str, requests: int, seconds: float) -> None:
        """Answer `requests` of a kind (api, resolve) in each window of `seconds` of `clock`, then
        429."""
        self.limits[kind] = Limit(requests, seconds, self.clock())

    # What happened.

    def environment(self, cache: str | Path) -> dict[str, str]:
        """The variables by which other processes use this hub, with `cache` as the hub's own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_CACHE": str(cache),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def count(self, kind: str | None = None, pattern: str = "*") -> int:
        """How many requests there were, of a kind, for paths that match."""
        return len(self._matching(kind, pattern))

    def sent(self, pattern: str = "*") -> int:
        """How many bytes of files were sent."""
        return sum(r.sent for r in self._matching(None, pattern) if r.kind != "api")

    def _matching(self, kind: str | None, pattern: str) -> list[Request]:
        with self.lock:
            seen = list(self.requests)
        return [
            request
            for request in seen
            if kind in (None, request.kind) and fnmatch.fnmatch(request.path, f"*{pattern}")
        ]

    # For the handler.

    def take_faults(self, path: str) -> list[Fault]:
        """The faults of this request; those that happen only so often are used up."""
        with self.lock:
            found = []
            for fault in self.faults:
                if not fnmatch.fnmatch(path, f"*{fault.pattern}"):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None and fault.kind in {f.kind for f in found}:
                    continue  # it is the next request's
                found.append(fault)
                if fault.times is not None:
                    fault.times -= 1
            self.faults = [f for f in self.faults if f.times != 0]
            return found

    def by_digest(self, digest: str) -> Stored | None:
        """A file of any model, by its SHA-256."""
        every = (s for r in self._commits.values() for files in r.values() for s in files.values())
        return next((stored for stored in every if stored.sha256 == digest), None)

    def count_towards_limit(self, kind: str) -> tuple[bool, dict[str, str]]:
        """Whether a request is over the limit, and the headers that say how far off it is."""
        with self.lock:
            if (limit := self.limits.get(kind)) is None:
                return False, {}
            now = self.clock()
            if now - limit.begun >= limit.seconds:
                limit.begun, limit.used = now, 0
            limit.used += 1
            left = max(0, limit.requests - limit.used)
            wait = max(1, round(limit.begun + limit.seconds - now))
            policy = f'"fixed window";"{kind}";q={limit.requests};w={round(limit.seconds)}'
            said = {"RateLimit": f'"{kind}";r={left};t={wait}', "RateLimit-Policy": policy}
            return limit.used > limit.requests, said

    def branches(self, repo: str) -> dict[str, str]:
        """{branch: commit} of a model; KeyError where there is none."""
        return dict(self._branches[repo])


def say(
    status: int, body: bytes = b"", headers: dict[str, str] | None = None
) -> Callable[[Handler], None]:
    """An answer for `LocalHub.answer`."""
    return lambda handler: handler.say(status, body, headers or {})


def says_json(value: Any) -> Callable[[Handler], None]:
    """An answer of the API."""
    return say(200, json.dumps(value).encode())
