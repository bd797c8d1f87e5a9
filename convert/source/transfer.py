"""One file from the hub into its cache: continued where another process stopped, and verified.

What has come is a `.part` file beside the blob's place, with a sidecar `.part.json` that says of
which content it is a part. Whoever comes next asks for the rest (Range), provided that the server
still has the same file (If-Range). The digest is taken while bytes are written, of what was there
before too, and only a file whose digest is the hub's gets the blob's name. Where the server knows
no ranges, or has another file, everything comes again.

The hub's library deletes a partial file when its process ends, and compares no digests (from 1.18).
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from filelock import Timeout

from ..errors import CheckpointError, quote, with_sentence
from ..stopping import StoppedError
from .client import address, begin_of, gated, is_the_hubs
from .listing import RemoteFile, forget
from .rates import Pace
from .retry import AgainError, keep_asking, refusal
from .store import Store
from .verified import give_name

if TYPE_CHECKING:
    from hashlib import _Hash

BLOCK_BYTES = 1 << 20  # read and hashed at a time, of what was there
_TRIES = 6  # in a row that bring nothing
_LOOK = 0.2  # seconds between looks at `stop` while another process fetches the same
_LIMITED = 30  # times that a rate limit is waited for


class Transfer:
    """Fetches files of one commit of a model into `store`; several threads may call `fetch`.

    `advance` is told how many more bytes are there, negative ones where some have to come again.
    Others end them with `stop`, or where one fails: then what has come stays.
    """

    def __init__(
        self,
        client: httpx2.Client,
        store: Store,
        name: str,
        commit: str,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._store = store
        self._name = name
        self._commit = commit
        self._advance = advance
        self._pace = Pace()
        self._stopped = threading.Event()
        self._streams: list[Any] = []  # connections, the latest last

    def stop(self) -> None:
        """End all transfers under way, and those that wait for a server's bytes at once."""
        self._stopped.set()
        for stream in self._streams:
            # What a thread waits for ends; closing would not wake it. Older streams are closed, or
            # have given their socket to one with TLS.
            with suppress(OSError):
                socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)

    def _observe(self, event: str, info: Mapping[str, Any]) -> None:
        """What httpx says of its work: keep the connections that it opens, for `stop`."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._streams.append(info["return_value"])
            if self._stopped.is_set():
                self.stop()

    def fetch(self, file: RemoteFile) -> Path:
        """The path of `file` in the cache, after fetching what is missing of it.

        Safe when others fetch it too: one does, the others wait for it. Raises CheckpointError
        where what comes is not what the hub lists, PermissionError for what may not be fetched,
        ConnectionError when the connection is lost for good, OSError for a disk that is full.
        """
        place = self._store.place(self._commit, file.path)
        if self._store.holds(place, file):
            self._advance(file.size)
            return place
        with self._locked(file):
            blob = self._store.blob(file.digest)
            if self._store.holds(blob, file):
                self._advance(file.size)
            else:
                blob.parent.mkdir(parents=True, exist_ok=True)
                self._fetch_blob(file, blob)
            return self._store.link(self._commit, file)

    @contextmanager
    def _locked(self, file: RemoteFile) -> Iterator[None]:
        """Nobody else writes the file meanwhile; whoever waits for that can be stopped."""
        lock = self._store.lock(file.digest)
        while not lock.is_locked:
            if self._stopped.is_set():
                raise StoppedError
            with suppress(Timeout):
                lock.acquire(timeout=_LOOK)
        try:
            yield
        finally:
            lock.release()

    def _fetch_blob(self, file: RemoteFile, blob: Path) -> None:
        with _Part(blob, file, self._commit) as part:
            self._advance(part.size)
            for _ in range(2):
                self._complete(file, part)
                if part.is_right():
                    part.finish()
                    return
                self._begin_again(part)
        forget(self._name, self._commit)
        raise CheckpointError(
            f"{file.path} of {self._name} came damaged twice, its digest is not the hub's: it was "
            "deleted, try again or set HF_ENDPOINT to another mirror"
        )

    def _complete(self, file: RemoteFile, part: _Part) -> None:
        """Ask for the rest until it is there."""

        def lost(why: str) -> ConnectionError:
            return ConnectionError(
                f"cannot fetch {file.path} of {self._name} ({why}): try again, it goes on from "
                "where it stopped"
            )

        if part.size < file.size:
            keep_asking(
                lambda: self._ask(file, part),
                lost,
                _TRIES,
                waits=_LIMITED,
                progress=lambda: part.size,
                stop=self._stopped,
            )

    def _ask(self, file: RemoteFile, part: _Part) -> None:
        """Ask once for the rest, as soon as that may be."""
        self._pace.wait(self._stopped)
        try:
            self._receive(file, part)
        except httpx2.DecodingError:  # a part of what is packed is nothing
            self._begin_again(part)
            raise
        except httpx2.RequestError:
            if part.size < file.size:
                raise
        if part.size < file.size:
            raise AgainError("it sends less than the file has")

    def _receive(self, file: RemoteFile, part: _Part) -> None:
        """Ask, and write what comes."""
        if self._stopped.is_set():
            raise StoppedError
        url = address(self._name, self._commit, file.path)
        told = {"trace": self._observe}
        with self._client.stream("GET", url, headers=part.condition(), extensions=told) as response:
            self._pace.observe(response.headers)
            self._check_status(response, file)
            if response.status_code == 416:  # its file is shorter than what is here
                self._begin_again(part)
                raise AgainError("status 416")
            if begin_of(response) != part.size:
                # All of the file: the server knows no ranges, or has another one. Or another part
                # than the one that was asked for.
                self._begin_again(part)
                if response.status_code == 206:
                    raise AgainError("it sends another range")
            part.note(response.headers.get("etag", ""))
            for data in response.iter_bytes():
                if self._stopped.is_set():
                    raise StoppedError
                if part.size + len(data) > file.size:
                    self._begin_again(part)
                    raise AgainError("it sends more than the file has")
                part.write(data)
                self._advance(len(data))

    def _begin_again(self, part: _Part) -> None:
        self._advance(-part.size)
        part.begin_again()

    def _check_status(self, response: httpx2.Response, file: RemoteFile) -> None:
        status = response.status_code
        if status in (200, 206, 416):
            return
        code = response.headers.get("x-error-code", "")
        again = refusal(response)
        if again.is_limit or not is_the_hubs(response):
            raise again
        if code == "GatedRepo" or status in (401, 403):
            raise gated(self._name)
        if status == 404:
            raise CheckpointError(
                f"{self._name} has no {file.path} at revision {quote(self._commit)}: choose "
                "another model or revision"
            )
        raise again


class _Part:
    """The part of a file that has come. A context manager; `size` bytes are there and hashed."""

    def __init__(self, blob: Path, file: RemoteFile, commit: str) -> None:
        self._blob = blob
        self._path = blob.with_name(f"{blob.name}.part")
        self._sidecar = blob.with_name(f"{blob.name}.part.json")
        self._file = file
        self._commit = commit
        self._etag = ""  # the server's, which may be a CDN's

    def __enter__(self) -> _Part:
        self._stream = self._path.open("ab+", buffering=0)
        self._begin_hash()
        said = self._said()
        size = self._path.stat().st_size
        if said.get("digest") != self._file.digest or size > self._file.size:
            self.begin_again()
            return self
        self._etag = str(said.get("etag", ""))
        self._stream.seek(0)
        buffer = memoryview(bytearray(BLOCK_BYTES))
        while count := self._stream.readinto(buffer):
            self._hash.update(buffer[:count])
            self.size += count
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _begin_hash(self) -> None:
        self.size = 0
        self._hash: _Hash
        if self._file.sha256:
            self._hash = hashlib.sha256()
        else:  # as git names its blobs
            self._hash = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)

    def _said(self) -> dict[str, Any]:
        try:
            said = json.loads(self._sidecar.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return said if isinstance(said, dict) else {}

    def condition(self) -> dict[str, str]:
        """The headers that ask for what is missing."""
        if not self.size:
            return {}
        headers = {"Range": f"bytes={self.size}-"}
        if self._etag and not self._etag.startswith("W/"):  # weak ones promise no equal bytes
            headers["If-Range"] = self._etag
        return headers

    def note(self, etag: str) -> None:
        """Say in the sidecar what is being written: before its first byte, or with a new etag."""
        if self.size and etag == self._etag:
            return
        self._etag = etag
        said = {"digest": self._file.digest, "etag": etag, "commit": self._commit}
        written = self._sidecar.with_name(f"{self._sidecar.name}.tmp")
        with self._room():
            written.write_text(json.dumps(said), encoding="utf-8")
            written.replace(self._sidecar)

    def write(self, data: bytes) -> None:
        """Append `data`."""
        view = memoryview(data)
        while view:
            with self._room():
                count = self._stream.write(view)
            self._hash.update(view[:count])
            self.size += count
            view = view[count:]

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as reason:
            if reason.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise with_sentence(
                reason,
                f"no room for {self._file.path} in {self._blob.parent}: free "
                f"{(self._file.size - self.size) / 1e6:.0f} MB and try again, what has come stays",
            ) from None

    def begin_again(self) -> None:
        """Forget what has come."""
        self._stream.truncate(0)
        self._etag = ""
        self._begin_hash()

    def is_right(self) -> bool:
        """Whether all has come, and nothing else."""
        return self.size == self._file.size and self._hash.hexdigest() == self._file.digest

    def finish(self) -> None:
        """Give the file its name."""
        self._stream.close()
        give_name(self._path, self._blob, self._file.sha256)
        self._sidecar.unlink(missing_ok=True)
