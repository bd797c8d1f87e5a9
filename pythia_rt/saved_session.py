"""Sessions as files: safetensors with the tokens and the pages of the cache.

`tokens` is I32 [n]; `page.i` is U8, what the core's Session.read_page gives for page i, of
PAGE tokens each, the last of fewer. The tokens that no page has are read again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import pythia_rt
from pythia_rt import _core
from pythia_rt.convert.files.closing import Closing
from pythia_rt.convert.files.positional import PositionalFile
from pythia_rt.convert.files.safetensors_header import read_header
from pythia_rt.convert.flatfile.layout import Stored

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile import FlatFile

PREFIX = "pythia_rt.session."
VERSION = 1
_DIGEST = "data_sha256"  # of everything after the header
_BLOCK_BYTES = 1 << 24


class SessionFileError(ValueError):
    """A file is no session that can be loaded here: foreign, damaged, newer, of another model."""


def save_session(
    path: Path, session: _core.Session, tokens: Sequence[int], file: FlatFile, *, force: bool
) -> None:
    """Write a session of the model in `file`, with these tokens, to `path`."""
    from pythia_rt.convert.flatfile.writer import FlatFileWriter  # needs more of the system

    n_cached = session.position - session.waiting
    stored = {"tokens": Stored("I32", (len(tokens),))}
    for i in range(session.pages):
        stored[f"page.{i}"] = Stored("U8", (session.page_bytes,))
    metadata = {
        "version": str(VERSION),
        "model": file.metadata["data_sha256"],
        "kv_format": session.kv_format,
        "n_cached": str(n_cached),
        "producer": f"pythia_rt {pythia_rt.__version__}",
        _DIGEST: "0" * 64,
    }
    with FlatFileWriter(path, stored, _prefixed(metadata), force=force) as writer:
        writer.write("tokens", [np.asarray(tokens, np.int32).tobytes()])
        for i in range(session.pages):
            writer.write(f"page.{i}", [session.read_page(i).data])
        writer.finish(_prefixed({**metadata, _DIGEST: writer.data_sha256}))


class SavedSession(Closing):
    """A session file of the model in `model`, opened and validated. A context manager.

    `tokens` are all its tokens, `kv_format` the format of its cache.
    """

    def __init__(self, path: Path, model: FlatFile) -> None:
        """Raises SessionFileError with a sentence, FileNotFoundError where there is none."""
        self._path = path
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: give a file written by Session.save")
        self._file = PositionalFile(path, SessionFileError)
        try:
            self._header = read_header(self._file, SessionFileError)
            self._position = self._header.data_start
            self._digest = hashlib.sha256()  # of what stands before
            self._check_metadata(model)
            self.kv_format = self._metadata("kv_format")
            if self.kv_format not in _core.kv_format_names():
                raise self._damaged(f"a cache format {self.kv_format!r}")
            self.tokens = self._read_tokens()
            cached = self._metadata("n_cached")
            if not (cached.isascii() and cached.isdigit() and int(cached) <= len(self.tokens)):
                raise self._damaged(f"{cached!r} cached tokens of {len(self.tokens)}")
            self._n_cached = int(cached)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def restore(self, session: _core.Session) -> None:
        """Bring an empty session of the core to where the saved one was; once, in one reading.

        Raises SessionFileError where the data is damaged, ValueError where it has no room; then
        the session is to be dropped.
        """
        if len(self.tokens) > session.capacity:
            raise ValueError(
                f"{self._path} has {len(self.tokens)} tokens, more than the capacity of "
                f"{session.capacity}"
            )
        # There are no logits in the file: the last token is read again, which gives the same ones.
        n_cached = min(self._n_cached, len(self.tokens) - 1) if self.tokens else 0
        for i, begin in enumerate(range(0, n_cached, _core.PAGE_POSITIONS)):
            page = self._read(f"page.{i}", session.page_bytes)
            count = min(_core.PAGE_POSITIONS, n_cached - begin)
            session.append_page(np.frombuffer(page, np.uint8), count)
        self._read_until(self._file.size)
        if self._digest.hexdigest() != self._metadata(_DIGEST):
            raise self._damaged("other data than were written")
        rest = np.array(self.tokens[n_cached:], np.int32)
        if len(rest):
            session.append(rest)

    def _check_metadata(self, model: FlatFile) -> None:
        if PREFIX + "version" not in self._header.metadata:
            raise SessionFileError(f"{self._path} is a safetensors file, but no saved session")
        version = self._metadata("version")
        if version != str(VERSION):
            raise SessionFileError(
                f"{self._path} was written by another pythia_rt (session format "
                f"{json.dumps(version[:20])}, this one reads {VERSION}): make it again"
            )
        if self._metadata("model") != model.metadata["data_sha256"]:
            raise SessionFileError(
                f"{self._path} is a session of another model, or of one in other formats, than "
                f"{model.path}"
            )

    def _read_tokens(self) -> list[int]:
        entry = self._header.tensors.get("tokens")
        if entry is None or entry.dtype != "I32" or len(entry.shape) != 1:
            raise self._damaged("no list of tokens")
        tokens: list[int] = np.frombuffer(self._read("tokens", entry.nbytes), np.int32).tolist()
        return tokens

    def _read(self, name: str, size: int) -> bytes:
        """A tensor of so many bytes, which stands behind those that were read before."""
        entry = self._header.tensors.get(name)
        if entry is None:
            raise self._damaged(f"no {name}")
        if entry.nbytes != size:
            raise self._damaged(f"a {name} of {entry.nbytes} bytes, not {size}")
        if entry.offset < self._position:
            raise self._damaged(f"{name} in another place than it was written")
        self._read_until(entry.offset)
        self._position += size
        data = self._file.read(entry.offset, size)
        self._digest.update(data)
        return data

    def _read_until(self, end: int) -> None:
        while self._position < end:
            size = min(_BLOCK_BYTES, end - self._position)
            self._digest.update(self._file.read(self._position, size))
            self._position += size

    def _metadata(self, key: str) -> str:
        value = self._header.metadata.get(PREFIX + key)
        if value is None:
            raise self._damaged(f"no {key}")
        return value

    def _damaged(self, what: str) -> SessionFileError:
        return SessionFileError(f"{self._path} is a damaged session file: it has {what}")


def _prefixed(metadata: dict[str, str]) -> dict[str, str]:
    return {PREFIX + key: value for key, value in metadata.items()}
