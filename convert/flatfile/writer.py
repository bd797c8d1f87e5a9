"""Writes a flat file as a stream: no tensor is ever whole in memory, no half file has a name."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

from ..files.atomic import AtomicFile
from ..files.closing import Closing
from ..files.safetensors_header import DTYPE_BYTES
from .layout import Stored
from .metadata import ALIGNMENT, PADDING_PREFIX


@final
class FlatFileWriter(Closing):
    """Writes the tensors of a table one after the other. Use it as a context manager.

    Leaving the context without `finish`, by whatever exception, leaves no file.
    """

    def __init__(
        self,
        destination: Path,
        tensors: Mapping[str, Stored],
        metadata: Mapping[str, str],
        *,
        force: bool,
        reserve: int = 0,
    ) -> None:
        """Reserve the header and create the file.

        `metadata` has the entries of the final header in their final lengths, but for `reserve`
        bytes by which `finish` may lengthen it. Raises OSError, with a sentence, when the
        destination exists, cannot be written or its disk has too little space.
        """
        self._entries = _place(tensors)
        self._pending = list(self._entries)
        self._header_bytes = (
            len(_encode(self._entries, metadata)) + -(-reserve // ALIGNMENT) * ALIGNMENT
        )
        self._digest = hashlib.sha256()  # of what was written, until something is rewritten
        self._rewritten = False
        self._file = AtomicFile(destination, force=force)
        try:
            data_bytes = max((e["data_offsets"][1] for e in self._entries.values()), default=0)
            self._check_space(self._header_bytes + data_bytes)
            os.lseek(self._file.descriptor, self._header_bytes, os.SEEK_SET)
        except BaseException:
            self._file.discard()
            raise

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write tensor `name`, the next of the table, from `pieces`, and its padding."""
        self._write_tensor(name, pieces)
        if self._pending and self._pending[0].startswith(PADDING_PREFIX):
            padding = self._pending[0]
            self._write_tensor(padding, [bytes(self._entries[padding]["shape"][0])])

    def rewrite(self, name: str, data: memoryview) -> None:
        """Replace all of tensor `name`, which has been written."""
        begin, end = self._entries[name]["data_offsets"]
        if name in self._pending or data.nbytes != end - begin:
            raise RuntimeError("the flat file differs from its plan: please report this")
        self._file.write_at(self._header_bytes + begin, data)
        self._rewritten = True

    def write_header(self, metadata: Mapping[str, str]) -> Path:
        """Write the header, so that the file can be opened before it has its name.

        Returns the path where it stands until then. All tensors must have been written.
        """
        header = _encode(self._entries, metadata, self._header_bytes)
        if self._pending or len(header) != self._header_bytes:
            raise RuntimeError("the flat file differs from its plan: please report this")
        self._file.write_at(0, header)
        return self._file.hidden

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header with the final `metadata`, flush, and give the file its name."""
        self.write_header(metadata)
        self._file.publish()

    @property
    def data_sha256(self) -> str:
        """The digest, in hexadecimal, of all data written so far."""
        if self._rewritten:
            self._digest = self._file.digest(self._header_bytes)
            self._rewritten = False
        return self._digest.hexdigest()

    def close(self) -> None:
        """Leave no file, unless it has its name."""
        self._file.discard()

    def _write_tensor(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        begin, end = self._entries[name]["data_offsets"]
        written = 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            written += len(view)
            self._digest.update(view)
            self._file.write(view)
        if name != self._pending.pop(0) or written != end - begin:
            raise RuntimeError("the flat file differs from its plan: please report this")

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self._file.folder).free
        if free < needed:
            error = OSError(
                f"{self._file.destination} needs {needed / 1e6:.0f} MB and its disk has "
                f"{free / 1e6:.0f} MB: free some space or choose another disk"
            )
            error.errno = errno.ENOSPC
            raise error


def _place(tensors: Mapping[str, Stored]) -> dict[str, dict[str, Any]]:
    """Return the header entries of `tensors` and of the padding between them."""
    entries: dict[str, dict[str, Any]] = {}
    position = 0
    for number, (name, stored) in enumerate(tensors.items()):
        size = math.prod(stored.shape) * DTYPE_BYTES[stored.dtype]
        padding = -size % ALIGNMENT
        for key, dtype, shape, length in (
            (name, stored.dtype, list(stored.shape), size),
            (f"{PADDING_PREFIX}{number}", "U8", [padding], padding),
        ):
            if key == name or length:
                offsets = [position, position + length]
                entries[key] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
                position += length
    return entries


def _encode(entries: Mapping[str, Any], metadata: Mapping[str, str], length: int = 0) -> bytes:
    """Return the length and the JSON header, padded with spaces to the alignment of the data.

    Where `length` bytes are more than that, they are filled.
    """
    text = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":")).encode()
    text += b" " * max(-(8 + len(text)) % ALIGNMENT, length - 8 - len(text))
    return len(text).to_bytes(8, "little") + text
