"""A GGUF file as a source of tensors: quantised ones are decoded row by row as they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from ..errors import CheckpointError, quote
from ..files.closing import Closing
from ..files.gguf import all_parts, part_of
from ..files.positional import PositionalFile
from ..source.tensor import SourceTensor
from .blocks import BY_NAME, Type
from .container import Container, Entry, read_container

_DECODED_VALUES = 1 << 20  # at a time: 4 MB, and some times that while they are decoded


@dataclass(frozen=True)
class QuantisedTensor(SourceTensor):
    """A tensor whose rows are float32 when they are read, and blocks in the file.

    It has strides, those of its rows, as what does not lie in its file as it is read.
    """

    type: Type = BY_NAME["F32"]

    def read_rows(self, start: int, stop: int, destination: memoryview) -> None:
        """Decode rows [start, stop) into `destination`; see `SourceTensor.read_rows`."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise ValueError(f"rows {start} to {stop} are not in tensor {quote(self.name)}")
        if self.type.decode is None:
            raise ValueError(f"tensor {quote(self.name)} is not quantised")
        values = np.frombuffer(destination, "<f4")
        columns, block = math.prod(self.shape[1:]), self.type.values
        # A vector's rows are its entries, which need not begin or end with a block.
        first, last, done = start * columns, stop * columns, 0
        while first < last:
            begin = first // block
            end = min(-(-last // block), begin + _DECODED_VALUES // block)
            data = self.file.read(
                self.offset + begin * self.type.nbytes, (end - begin) * self.type.nbytes
            )
            decoded = self.type.decode(
                np.frombuffer(data, np.uint8).reshape(end - begin, self.type.nbytes)
            ).reshape(-1)
            piece = decoded[first - begin * block : last - begin * block]
            values[done : done + piece.size] = piece
            first, done = first + piece.size, done + piece.size


@final
class GgufFile(Closing):
    """A GGUF file, or all parts of a split one, open. Use it as a context manager.

    `metadata` is the first part's; `tensors` maps names to SourceTensor; `files` lists the paths;
    `quantised` has the names of the types of quantised tensors.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at `path`, the first part of a split one.

        Raises CheckpointError when one is damaged, truncated, of another kind, or missing.
        """
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, SourceTensor] = {}
        self.files: list[Path] = []
        self.quantised: list[str] = []
        self._open: list[PositionalFile] = []
        try:
            self._read(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every file."""
        for file in self._open:
            file.close()

    def _read(self, path: Path) -> None:
        number, count = part_of(path)
        if number != 1:
            raise CheckpointError(f"{path} is part {number} of {count}: give the first part")
        for i, part in enumerate(all_parts(path)):
            if not part.exists():
                raise CheckpointError(
                    f"{path} is the first of {count} parts, and {quote(part.name)} is missing: "
                    "fetch it too"
                )
            file = PositionalFile(part, CheckpointError)
            self._open.append(file)
            self.files.append(part)
            found = read_container(file)
            _check_part(part, found, (i, count))
            self.metadata = self.metadata or found.metadata
            for name, entry in found.tensors.items():
                if name in self.tensors:
                    raise CheckpointError(
                        f"{part} has tensor {quote(name)} of another part: fetch all parts again"
                    )
                self.tensors[name] = _tensor(name, entry, file)
        types = {t.type.name for t in self.tensors.values() if isinstance(t, QuantisedTensor)}
        self.quantised = sorted(types)
        whole = self.metadata.get("split.tensors.count", len(self.tensors))
        if whole != len(self.tensors):
            raise CheckpointError(
                f"{path} says that its parts have {whole} tensors and they have "
                f"{len(self.tensors)}: fetch all parts again"
            )


def _check_part(path: Path, found: Container, expected: tuple[int, int]) -> None:
    """Check that the metadata says which part it is, as its name does."""
    said = found.metadata.get("split.no", 0), found.metadata.get("split.count", 1) or 1
    if said != expected:
        raise CheckpointError(
            f"{path} says that it is part {_one_more(said[0])} of {said[1]}, and its name says "
            f"{expected[0] + 1} of {expected[1]}: give the first of all parts under their own names"
        )


def _one_more(number: Any) -> Any:
    return number + 1 if type(number) is int else number


def _tensor(name: str, entry: Entry, file: PositionalFile) -> SourceTensor:
    kind = BY_NAME[entry.type]
    if kind.decode is None:
        return SourceTensor(name, kind.dtype, entry.shape, file, entry.offset)
    strides = (math.prod(entry.shape[1:]), 1)[: len(entry.shape)]
    return QuantisedTensor(name, "F32", entry.shape, file, entry.offset, strides, kind)
