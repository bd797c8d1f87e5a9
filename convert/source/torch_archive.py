"""Where the tensors of a `pytorch_model.bin` lie: zip archives of torch >= 1.6, and older files.

Nothing is unpacked or executed: the pickle is read by `unpickler`, the storages are stored
uncompressed, so every tensor is a range of bytes of the file.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, quote
from ..files.positional import PositionalFile
from ..files.safetensors_header import DTYPE_BYTES
from . import unpickler
from .state_dict import all_views, state_dict
from .unpickler import Storage, TensorView

# A pickle of tensor names has some 250 bytes per tensor; this is room for 16,000 tensors.
MAX_PICKLE_BYTES = 4 << 20
MAX_DIRECTORY_BYTES = 8 << 20  # of a zip file: its list of entries, of which torch has one a tensor
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_LEGACY_START = b"\x80\x02\x8a\x0a" + LEGACY_MAGIC.to_bytes(10, "little") + b"."


@dataclass(frozen=True)
class ArchivedTensor:
    """A tensor of the archive: absolute `offset` in bytes; `strides` as in `SourceTensor`."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None


def read_archive(file: PositionalFile) -> dict[str, ArchivedTensor]:
    """Return the tensors of a file written by torch.save(state_dict).

    The state dict may also lie in a dictionary of a training's state, if it is the only one there.
    Raises CheckpointError with a sentence for files that are foreign, damaged or truncated, that
    hold no state dict or several, or whose pickle asks for code (refused by name, not executed).
    """
    start = file.read(0, min(file.size, len(_LEGACY_START)))
    if start.startswith(b"PK\x03\x04"):
        state, offset_of = _read_zip(file)
    elif start == _LEGACY_START:
        state, offset_of = _read_legacy(file)
    else:
        raise CheckpointError(
            f"{file.path} was not written by torch.save or is damaged: fetch the file again"
        )
    views = state_dict(state, str(file.path))
    return {name: _locate(file, name, view, offset_of) for name, view in views.items()}


OffsetOf = Callable[[Storage], int]  # absolute offset in bytes of a storage


def _locate(
    file: PositionalFile, name: str, view: TensorView, offset_of: OffsetOf
) -> ArchivedTensor:
    stride, row_major, last = 1, True, view.offset
    for extent, actual in zip(reversed(view.shape), reversed(view.strides), strict=True):
        row_major = row_major and (extent == 1 or actual == stride)
        stride *= extent
        last += (extent - 1) * actual
    # An empty tensor touches nothing; any other must end inside its storage.
    if stride > 0 and last >= view.storage.count:
        raise CheckpointError(
            f"{file.path} is damaged: tensor {quote(name)} leaves its storage; fetch the file again"
        )
    offset = offset_of(view.storage) + view.offset * DTYPE_BYTES[view.storage.dtype]
    # An empty tensor has no order that could differ.
    strides = None if row_major or stride == 0 else view.strides
    return ArchivedTensor(view.storage.dtype, view.shape, offset, strides)


def _read_zip(file: PositionalFile) -> tuple[Any, OffsetOf]:
    entries = _zip_entries(file)
    pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise CheckpointError(
            f"{file.path} is a zip file without torch's data.pkl: give a pytorch_model.bin"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    order = entries.get(prefix + "byteorder")
    if order is not None and file.read(_payload(file, order), order.file_size) != b"little":
        raise CheckpointError(f"{file.path} is big-endian: save it on a little-endian machine")
    entry = entries[pickles[0]]
    if entry.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{file.path} has a pickle of {entry.file_size} bytes: too large")
    state = unpickler.load(
        io.BytesIO(file.read(_payload(file, entry), entry.file_size)), str(file.path)
    )
    offsets: dict[str, int] = {}

    def offset_of(storage: Storage) -> int:
        if storage.key not in offsets:
            entry = entries.get(f"{prefix}data/{storage.key}")
            if entry is None:
                raise CheckpointError(
                    f"{file.path} lacks its storage {quote(storage.key)}: fetch the file again"
                )
            offsets[storage.key] = _payload(file, entry)
        # Two views may claim different dtypes or counts for one storage: check each claim.
        needed = storage.count * DTYPE_BYTES[storage.dtype]
        if needed > entries[f"{prefix}data/{storage.key}"].file_size:
            raise CheckpointError(
                f"{file.path} is damaged: storage {quote(storage.key)} is smaller than it says; "
                "fetch the file again"
            )
        return offsets[storage.key]

    return state, offset_of


class _Bounded(io.BufferedIOBase):
    """What zipfile reads of a file, whose last bytes may call any part of it the list of entries,
    which it reads at once."""

    def __init__(self, file: PositionalFile) -> None:
        self._stream = file.stream()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise ValueError("a list of entries that is longer than any real one")
        return self._stream.read(MAX_DIRECTORY_BYTES if size is None or size < 0 else size)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()


def _zip_entries(file: PositionalFile) -> dict[str, zipfile.ZipInfo]:
    try:
        with _Bounded(file) as stream, zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
    except OSError:
        raise
    except Exception:  # zipfile reports damage with half a dozen types of exception
        raise CheckpointError(
            f"{file.path} is truncated or is not an archive of torch.save: fetch the file again"
        ) from None
    by_name = {entry.filename: entry for entry in entries}
    if len(by_name) != len(entries):
        raise CheckpointError(f"{file.path} names an entry twice: fetch the file again")
    return by_name


def _payload(file: PositionalFile, entry: zipfile.ZipInfo) -> int:
    """Return where the bytes of `entry` start, after checking that they lie there as they are."""
    # Local header (PKWARE APPNOTE 4.3.7): signature, 22 bytes that the directory repeats, then
    # the lengths of name and extra field, which torch pads to align the data.
    header = file.read(entry.header_offset, 30)
    signature, name_length, extra_length = struct.unpack("<4s22xHH", header)
    start: int = entry.header_offset + 30 + name_length + extra_length
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise CheckpointError(
            f"{file.path} is compressed or encrypted, which torch.save never does: save it again"
        )
    damaged = signature != b"PK\x03\x04" or start + entry.file_size > file.size
    if damaged or entry.compress_size != entry.file_size:
        raise CheckpointError(
            f"{file.path} is damaged at entry {quote(entry.filename)}: fetch the file again"
        )
    return start


def _read_legacy(file: PositionalFile) -> tuple[Any, OffsetOf]:
    """Read the form before torch 1.6: five pickles, then each storage as u64 count and its bytes.

    Source: pytorch/pytorch, torch/serialization.py, `_legacy_load`.
    """
    stream = io.BytesIO(file.read(0, min(file.size, MAX_PICKLE_BYTES)))
    magic, protocol, system, state, keys = (
        unpickler.load(stream, str(file.path)) for _ in range(5)
    )
    little = isinstance(system, dict) and system.get("little_endian") is True
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or not little:
        raise CheckpointError(f"{file.path} is of an unknown old form: save it with torch >= 1.6")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"{file.path} has a damaged storage list: fetch the file again")
    storages = {view.storage.key: view.storage for view in all_views(state)}
    offsets: dict[str, int] = {}
    position = stream.tell()
    for key in keys:
        if key not in storages or key in offsets:
            raise CheckpointError(f"{file.path} has a storage too many: fetch the file again")
        count = int.from_bytes(file.read(position, 8), "little")
        if count != storages[key].count:
            raise CheckpointError(
                f"{file.path} is damaged: storage {quote(key)} is not as long as it says; "
                "fetch the file again"
            )
        offsets[key] = position + 8
        position += 8 + count * DTYPE_BYTES[storages[key].dtype]
    if position != file.size:
        raise CheckpointError(f"{file.path} is truncated or has bytes left over: fetch it again")

    def offset_of(storage: Storage) -> int:
        # The element count was compared for one claim; every other claim must equal that one.
        if storages[storage.key] != storage or storage.key not in offsets:
            raise CheckpointError(f"{file.path} contradicts itself: fetch the file again")
        return offsets[storage.key]

    return state, offset_of
