"""A checkpoint folder, read lazily: names, dtypes and shapes at once, rows when asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

from .errors import CheckpointError, quote
from .files import PositionalFile
from .safetensors_header import DTYPE_BYTES, read_header
from .torch_archive import read_archive

CONFIG_FILE = "config.json"
# In the order of preference; the first that exists is the checkpoint. As transformers does, a
# single file wins over an index, and safetensors over pickles.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of a checkpoint: `dtype` by its safetensors name, `offset` in bytes in `file`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: PositionalFile
    offset: int
    contiguous: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, that is of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]


@final
class Checkpoint:
    """The tensors of a checkpoint folder, in open files. Use it as a context manager.

    `tensors` maps names to SourceTensor, in the order of the files; `files` lists the paths that
    were opened (and the index), whose digests identify the source.
    """

    def __init__(self, folder: Path) -> None:
        """Open the checkpoint in `folder`.

        Raises CheckpointError when there is none, or when any file is damaged, truncated, foreign,
        missing from a sharded set, or holds a tensor that another one holds too.
        """
        self.tensors: dict[str, SourceTensor] = {}
        self.files: list[Path] = []
        self._open: list[PositionalFile] = []
        try:
            self._read(folder)
        except BaseException:
            self.close()
            raise

    def read_rows(self, name: str, start: int, stop: int, destination: memoryview) -> None:
        """Read rows [start, stop) of tensor `name` into `destination`: raw little-endian bytes.

        `destination` has exactly (stop - start) * row_bytes bytes. Raises CheckpointError when the
        tensor is not stored in row-major order or its file has become shorter.
        """
        tensor = self.tensors[name]
        if not tensor.contiguous:
            raise CheckpointError(
                f"tensor {quote(name)} is not stored row by row: save {tensor.file.path.name} "
                "again with every tensor made contiguous()"
            )
        if not 0 <= start <= stop <= tensor.shape[0]:
            raise ValueError(f"rows {start} to {stop} are not in tensor {quote(name)}")
        tensor.file.read_into(tensor.offset + start * tensor.row_bytes, destination)

    def close(self) -> None:
        """Close every file."""
        for file in self._open:
            file.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, folder: Path) -> None:
        path = next((folder / n for n in WEIGHT_FILES if (folder / n).exists()), None)
        if path is None:
            raise CheckpointError(
                f"{folder} holds no weights: give a folder with {', '.join(WEIGHT_FILES[::2])} "
                "or their sharded forms"
            )
        if path.suffix != ".json":
            self._add(path)
            return
        self.files.append(path)
        places = _read_index(path)
        for shard in sorted(set(places.values())):
            if not (folder / shard).exists():
                raise CheckpointError(f"{path} names {shard}, which is missing: fetch it too")
            self._add(folder / shard)
        for name, shard in places.items():
            if name not in self.tensors or self.tensors[name].file.path.name != shard:
                raise CheckpointError(
                    f"{path} says that {shard} holds tensor {quote(name)}, which it does not: "
                    "fetch both files again"
                )

    def _add(self, path: Path) -> None:
        file = PositionalFile(path, CheckpointError)
        self._open.append(file)
        self.files.append(path)
        for name, tensor in _tensors_of(file).items():
            if name in self.tensors:
                other = self.tensors[name].file.path.name
                raise CheckpointError(
                    f"tensor {quote(name)} is both in {other} and in {path.name}: "
                    "remove the shard that is not part of this checkpoint"
                )
            self.tensors[name] = tensor


def read_json(path: Path, error: type[ValueError] = CheckpointError) -> dict[str, Any]:
    """Return the JSON object in the file at `path`.

    Raises `error` with a sentence when it is missing, empty, damaged, too large or not an object.
    """
    if not path.exists():
        raise error(f"{path} is missing: give a folder in Hugging Face layout")
    file = PositionalFile(path, error)
    try:
        if file.size > MAX_JSON_BYTES:
            raise error(f"{path} has {file.size} bytes, more than any real one: fetch it again")
        return parse_json(file.read(0, file.size), str(path), error)
    finally:
        file.close()


def parse_json(text: bytes | str, where: str, error: type[ValueError]) -> dict[str, Any]:
    """Return the JSON object in `text`; raise `error`, with a sentence, when it is none."""
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError):
        raise error(f"{where} is not valid JSON: fetch it again") from None
    if not isinstance(value, dict):
        raise error(f"{where} is not a JSON object: fetch it again")
    return value


def index_shards(path: Path) -> list[str]:
    """Return the names of the shards that the *.index.json at `path` lists."""
    return sorted(set(_read_index(path).values()))


def _read_index(path: Path) -> Mapping[str, str]:
    """Return {tensor name: shard file name} of a *.index.json."""
    places = read_json(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path} has no weight_map: fetch it again")
    suffix = path.name.removesuffix(".index.json").rpartition(".")[2]
    for shard in places.values():
        # Only plain names: an index must not make us read files outside its folder.
        plain = isinstance(shard, str) and shard == Path(shard).name and "\\" not in shard
        if not plain or not shard.endswith(f".{suffix}") or "\0" in shard:
            shown = quote(shard) if isinstance(shard, str) else "something"
            raise CheckpointError(
                f"{path} names {shown}, which is not a .{suffix} file of its folder: "
                "fetch the index again"
            )
    return places


def _tensors_of(file: PositionalFile) -> dict[str, SourceTensor]:
    if file.size == 0:
        raise CheckpointError(f"{file.path} is empty: fetch it again")
    if file.path.suffix == ".safetensors":
        header = read_header(file, CheckpointError)
        if "pythia_rt.version" in header.metadata:
            raise CheckpointError(f"{file.path} is a flat file already: load it, do not convert it")
        return {
            name: SourceTensor(name, entry.dtype, entry.shape, file, entry.offset, True)
            for name, entry in header.tensors.items()
        }
    return {
        name: SourceTensor(name, t.dtype, t.shape, file, t.offset, t.contiguous)
        for name, t in read_archive(file).items()
    }
