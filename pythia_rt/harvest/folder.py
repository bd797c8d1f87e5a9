"""A folder of activations: where everything is in it, and what its meta.json says.

    meta.json               what it is of, and which shards there are
    tokens.npy              int32 [tokens]
    documents.npy           int64 [documents + 1]: where each begins, and where the last ends
    windows.npy             int64 [windows + 1]: where each begins that the model read on its own
    layers.3.resid_post/    a folder for each point
        00000.npy           float16 or float32 [tokens of the shard, width]

A shard counts once meta.json names it.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import write_file

META = "meta.json"
TOKENS, DOCUMENTS, WINDOWS = "tokens.npy", "documents.npy", "windows.npy"
VERSION = 1  # of the layout


class Harvest:
    """A folder that `harvest` writes, read: complete, or as far as it is written."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open it. Raises OSError where there is none, and ValueError for another folder."""
        self._folder = Path(folder).expanduser()
        meta = read_meta(self._folder)
        if meta is None:
            raise FileNotFoundError(f"{self._folder} has no {META}: it is no harvest")
        self._meta = meta

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    @property
    def meta(self) -> dict[str, Any]:
        """What its meta.json says: the model, the points, how texts were cut, digests."""
        return self._meta

    @property
    def points(self) -> list[str]:
        """The names of its points."""
        return list(self._meta["points"])

    @property
    def is_complete(self) -> bool:
        """Whether all shards are there."""
        return bool(self._meta["complete"])

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The token of each row, int32 [tokens], those of shards still to come included."""
        return self._array(TOKENS)

    @property
    def documents(self) -> NDArray[np.int64]:
        """Where each document begins in `tokens`, and where the last one ends, int64."""
        return self._array(DOCUMENTS)

    @property
    def windows(self) -> NDArray[np.int64]:
        """The same of the windows, which the model read each on its own, from position 0 on."""
        return self._array(WINDOWS)

    def shards(self, point: str) -> Iterator[NDArray[Any]]:
        """Yield the rows of a point, a mapped array [tokens of the shard, width] at a time.

        Raises ValueError for a point that was not harvested and for a file that is damaged, OSError
        for one that is not there.
        """
        if point not in self._meta["points"]:
            raise ValueError(
                f"{self._folder} has no {point}: it has {', '.join(self._meta['points'])}"
            )
        for number in range(len(self._meta["shards"])):
            yield self._array(shard_name(point, number))

    def _array(self, name: str) -> NDArray[Any]:
        path = self._folder / name
        try:
            found: NDArray[Any] = np.load(path, mmap_mode="r")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing: make the same harvest again, which writes it"
            ) from None
        except (EOFError, ValueError):
            raise ValueError(
                f"{path} is damaged: delete it and make the same harvest again, which writes it"
            ) from None
        return found


def shard_name(point: str, number: int) -> str:
    """Where a shard is, in its folder."""
    return f"{point}/{number:05}.npy"


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a folder's meta.json says, None where there is none.

    Raises ValueError for one that is not ours, OSError for one that cannot be read.
    """
    path = folder / META
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        meta = json.loads(content)
        if meta["layout"] != VERSION:
            raise ValueError
        _check_types(meta)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(
            f"{path} is not what this pythia_rt writes: choose another folder"
        ) from None
    return dict(meta)


def _check_types(meta: Any) -> None:
    """Raise TypeError where what we read of it is something else."""
    shards, points = meta["shards"], meta["points"]
    kinds = {"context": int, "complete": bool, "tokens_sha256": str}
    right = isinstance(shards, list) and isinstance(points, dict)
    right = right and all(type(meta[name]) is kind for name, kind in kinds.items())
    right = right and all(type(n) is int and n > 0 for n in [meta["context"], *points.values()])
    if not right or not all(
        isinstance(shard, dict)
        and isinstance(shard.get("tokens"), int)
        and isinstance(shard.get("sha256"), dict)
        and shard["sha256"].keys() == points.keys()
        for shard in shards
    ):
        raise TypeError


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Replace its meta.json in one step."""
    write_file(folder / META, (json.dumps(meta, indent=2, ensure_ascii=False) + "\n").encode())


def keep_array(path: Path, array: NDArray[Any]) -> bool:
    """Write a .npy, which appears complete, if there is none; return whether it has the array."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    if path.is_file():
        return path.read_bytes() == content.getbuffer()
    write_file(path, content.getbuffer())
    return True


def header(shape: tuple[int, ...], dtype: Any) -> bytes:
    """What stands before the values of a .npy."""
    found = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(
        found, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return found.getvalue()
