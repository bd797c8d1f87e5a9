"""Reads what a GGUF file says of itself: metadata, and where its tensors lie. Trusts nothing.

Source: ggml-org/ggml, docs/gguf.md, whose numbers of types stand here.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple, NoReturn, final

import numpy as np

from ..errors import CheckpointError, quote
from ..files.gguf import MAGIC
from ..files.positional import PositionalFile
from .blocks import TYPES, type_name

VERSIONS = (2, 3)  # 3 may be big-endian, nothing else is new
DEFAULT_ALIGNMENT = 32
# Real headers have a few megabytes, nearly all of them the tokenizer's.
MAX_HEADER_BYTES = 64 << 20
MAX_ENTRIES = 1 << 16  # pairs of the metadata, and tensors
MAX_STRINGS = 1 << 21  # of one array
MAX_DIMENSIONS = 4
_BLOCK_BYTES = 1 << 20  # read at a time

_STRING, _ARRAY, _BOOL = 8, 9, 7
# Numbers by the number of their type, as struct spells them.
_NUMBERS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip


class Entry(NamedTuple):
    """One tensor: the name of its type (blocks.TYPES), rows first, and its place in the file."""

    type: str
    shape: tuple[int, ...]
    offset: int  # from the start of the file
    nbytes: int


class Container(NamedTuple):
    """`metadata` maps keys to bool, int, float, str, a list of str or an array of numbers."""

    metadata: dict[str, Any]
    tensors: dict[str, Entry]


def read_container(file: PositionalFile) -> Container:
    """Return what `file` says of itself. Raises CheckpointError for one that is not sound."""
    return _Reader(file).read()


@final
class _Reader:
    """Reads a header from its start; every count is held against the file before it is used."""

    def __init__(self, file: PositionalFile) -> None:
        self._file = file
        self._block, self._start, self._at = b"", 0, 0  # the bytes read, where they begin, and we

    def read(self) -> Container:
        if self._file.size < 24 or self._take(4) != MAGIC:
            self._fail("is no GGUF file, or is truncated")
        version = self._number("<I")
        if version and version & 0xFFFF == 0:
            self._fail("is big-endian, which is not read", "convert the original checkpoint")
        if version not in VERSIONS:
            newer = version > max(VERSIONS)
            self._fail(
                f"has version {version} of GGUF, known ones are 2 and 3",
                "upgrade pythia_rt" if newer else "write it again with today's llama.cpp",
            )
        counts = self._count("tensors", MAX_ENTRIES), self._count("metadata", MAX_ENTRIES)
        metadata: dict[str, Any] = {}
        for _ in range(counts[1]):
            key = self._string("a key of its metadata")
            if key in metadata:
                self._fail(f"has {quote(key)} twice in its metadata")
            metadata[key] = self._value(self._number("<I"), key)
        found = [self._tensor() for _ in range(counts[0])]
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            self._fail("has a general.alignment that is no power of two from 8")
        start = -(-self._position // alignment) * alignment
        return Container(metadata, self._place(found, start, alignment))

    def _place(
        self, found: list[tuple[str, Entry]], start: int, alignment: int
    ) -> dict[str, Entry]:
        """Return the tensors where they lie in the file; the data begins at `start`."""
        tensors: dict[str, Entry] = {}
        for name, entry in found:
            if name in tensors:
                self._fail(f"has tensor {quote(name)} twice")
            if entry.offset % alignment:
                self._fail(f"is damaged: tensor {quote(name)} does not lie on its alignment")
            tensors[name] = entry._replace(offset=start + entry.offset)
        end = 0
        for name, entry in sorted(tensors.items(), key=lambda item: item[1].offset):
            if entry.offset < end:
                self._fail(f"is damaged: tensor {quote(name)} overlaps another one")
            end = entry.offset + entry.nbytes
            if end > self._file.size:
                self._fail(f"is truncated: tensor {quote(name)} would end beyond the file")
        return tensors

    def _tensor(self) -> tuple[str, Entry]:
        name = self._string("the name of a tensor")
        count = self._number("<I")
        if not 1 <= count <= MAX_DIMENSIONS:
            self._fail(f"gives tensor {quote(name)} {count} dimensions")
        shape = tuple(self._number("<Q") for _ in range(count))[::-1]
        number, offset = self._number("<I"), self._number("<Q")
        kind = TYPES.get(number)
        if kind is None:
            self._fail(
                f"has tensor {quote(name)} as {type_name(number)}, which is not read (known are "
                f"{', '.join(kind.name for kind in TYPES.values())})",
                "choose another file of this model",
            )
        size = math.prod(shape)
        if not all(shape) or size >= 1 << 62 or shape[-1] % kind.values:
            self._fail(f"gives tensor {quote(name)} of {kind.name} the shape {list(shape)}")
        return name, Entry(kind.name, shape, offset, size // kind.values * kind.nbytes)

    def _value(self, kind: int, key: str) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _BOOL:
            return bool(self._checked_bools(self._take(1), key)[0])
        if kind == _STRING:
            return self._string(quote(key))
        if kind != _ARRAY:
            self._fail(f"gives {quote(key)} a type {kind}, which is unknown")
        kind = self._number("<I")
        if kind == _STRING:
            count = self._count(quote(key), MAX_STRINGS)
            return [self._string(quote(key)) for _ in range(count)]
        if kind != _BOOL and kind not in _NUMBERS:
            self._fail(f"gives {quote(key)} an array of type {kind}, which is not read")
        code = "B" if kind == _BOOL else _NUMBERS[kind][1]
        dtype = np.dtype(code).newbyteorder("<")
        content = self._take(self._count(quote(key), MAX_HEADER_BYTES) * dtype.itemsize)
        return np.frombuffer(self._checked_bools(content, key) if kind == _BOOL else content, dtype)

    def _checked_bools(self, content: bytes, key: str) -> bytes:
        if content.strip(b"\0\1"):
            self._fail(f"gives {quote(key)} a bool that is neither true nor false")
        return content

    def _string(self, what: str) -> str:
        content = self._take(self._number("<Q"))
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            self._fail(f"has a text that is not UTF-8 as {what}")

    def _count(self, what: str, most: int) -> int:
        count: int = self._number("<Q")
        if count > most:
            self._fail(f"counts {count} entries for {what}, more than any real one")
        return count

    def _number(self, code: str) -> Any:
        value = struct.unpack(code, self._take(struct.calcsize(code)))[0]
        # The shortest decimal of that float: what was 1e-5 before it was narrowed is so again.
        return float(str(np.float32(value))) if code == "<f" else value

    @property
    def _position(self) -> int:
        return self._start + self._at

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if size > self._file.size - self._position:
            self._fail("is truncated: it ends within its header")
        if self._position + size > MAX_HEADER_BYTES:
            self._fail("has a longer header than any real one")
        if self._at + size > len(self._block):
            self._start, self._at = self._position, 0
            rest = self._file.size - self._start
            self._block = self._file.read(self._start, min(rest, max(size, _BLOCK_BYTES)))
        taken = self._block[self._at : self._at + size]
        self._at += size
        return taken

    def _fail(self, what: str, advice: str = "fetch it again") -> NoReturn:
        raise CheckpointError(f"{self._file.path} {what}: {advice}")
