"""A strict reader of safetensors headers, for source checkpoints and for flat files.

Layout (huggingface/safetensors, README): u64 little-endian length of the header, the
header as a JSON object {name: {dtype, shape, data_offsets}, "__metadata__": {str: str}}, the data.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import quote
from .positional import PositionalFile

# Bytes per element. Sub-byte types exist in the format but not in the checkpoints we read.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1,
    "F8_E5M2FNUZ": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2, "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip

# The largest real header we know of has some 100 kB; parsing JSON costs about ten times its size.
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 8
MAX_EXTENT = 1 << 48


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `offset` is absolute, in bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """A validated header. `tensors` is in the order of the data; `data_start` is in bytes."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]
    data_start: int


def read_header(file: PositionalFile, error: type[ValueError]) -> Header:
    """Read and validate the header of `file`.

    Raises `error` with a sentence that names the file when anything is not as the format says: the
    length, the JSON, a dtype, a shape, or offsets that leave the file, overlap or leave holes. What
    the safetensors library reads beyond the format is read too: metadata that is null, and further
    keys of a tensor.
    """
    return _HeaderReader(file, error).read()


class _HeaderReader:
    """Holds what every sentence needs: the file's name and the exception to raise."""

    def __init__(self, file: PositionalFile, error: type[ValueError]) -> None:
        self.file = file
        self.error = error

    def fail(self, what: str) -> NoReturn:
        raise self.error(f"{self.file.path} {what}: fetch or write the file again")

    def read(self) -> Header:
        if self.file.size < 8:
            self.fail(f"has {self.file.size} bytes, too few for a safetensors file")
        length = int.from_bytes(self.file.read(0, 8), "little")
        if length > self.file.size - 8:
            self.fail("is truncated or is not a safetensors file (its header would end beyond it)")
        if length > MAX_HEADER_BYTES:
            self.fail(f"has a header of {length} bytes, more than any real checkpoint")
        raw = self._parse(self.file.read(8, length))
        metadata = self._metadata(raw.pop("__metadata__", None))
        data_start = 8 + length
        entries = [(name, self._entry(name, value, data_start)) for name, value in raw.items()]
        entries.sort(key=lambda item: (item[1].offset, item[1].nbytes))
        self._check_coverage(entries, data_start)
        return Header(dict(entries), metadata, data_start)

    def _parse(self, text: bytes) -> dict[str, Any]:
        try:
            value = json.loads(text.decode("utf-8"), object_pairs_hook=self._unique)
        except (ValueError, RecursionError) as reason:
            if isinstance(reason, self.error):
                raise
            self.fail("has a header that is not JSON, so it is damaged or not a safetensors file")
        if not isinstance(value, dict):
            self.fail("has a header that is not a JSON object")
        return value

    def _unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            twice = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
            self.fail(f"names {quote(twice)} twice in its header")
        return value

    def _metadata(self, value: Any) -> dict[str, str]:
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
            self.fail("has metadata that is not a map of strings")
        return value

    def _entry(self, name: str, value: Any, data_start: int) -> TensorEntry:
        if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= set(value):
            self.fail(f"describes tensor {quote(name)} without dtype, shape and data_offsets")
        dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            shown = quote(dtype) if isinstance(dtype, str) else "that is not a name"
            self.fail(f"gives tensor {quote(name)} an unknown dtype, {shown}")
        if not _is_extents(shape) or len(shape) > MAX_DIMENSIONS:
            self.fail(f"gives tensor {quote(name)} a shape that is not a list of sizes")
        if not _is_extents(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            self.fail(f"gives tensor {quote(name)} offsets that are not a range")
        begin, end = offsets
        nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
        if end - begin != nbytes:
            self.fail(
                f"gives tensor {quote(name)} {end - begin} bytes where its shape needs {nbytes}"
            )
        if data_start + end > self.file.size:
            self.fail(f"is truncated: tensor {quote(name)} would end beyond the file")
        return TensorEntry(dtype, tuple(shape), data_start + begin, nbytes)

    def _check_coverage(self, entries: list[tuple[str, TensorEntry]], data_start: int) -> None:
        """Check that the tensors, in order, cover the data without overlap, hole or rest."""
        end = data_start
        for name, entry in entries:
            if entry.offset != end:
                trouble = (
                    "overlaps another tensor" if entry.offset < end else "leaves a hole before it"
                )
                self.fail(f"is damaged: tensor {quote(name)} {trouble}")
            end = entry.offset + entry.nbytes
        if end != self.file.size:
            self.fail(f"has {self.file.size - end} bytes after its last tensor")


def _is_extents(value: Any) -> bool:
    """Whether `value` is a list of whole numbers that can be sizes or offsets (bools are not)."""
    return isinstance(value, list) and all(type(v) is int and 0 <= v <= MAX_EXTENT for v in value)
