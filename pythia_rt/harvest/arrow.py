"""A harvest as the folder of Arrow files that SAELens reads (`pip install 'pythia_rt[arrow]'`).

The layout is that of Hugging Face's datasets, `load_from_disk`: a row for each window, whose column
of activations is named after a hook of TransformerLens and has the type Array2D.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.files.atomic import explained, new_folder, write_file
from pythia_rt.harvest.folder import Harvest
from pythia_rt.insides.names import BY_NAME, theirs

_TOKENS = "token_ids"
# Windows of a record batch, and values at most, unless one window has more: what is copied at a
# time. Arrow counts them in 32 bits.
_TOGETHER = 64
_MOST_VALUES = 1 << 27
_EXTENSION = "datasets.features.features.Array2DExtensionType"


def write_arrow(
    harvest: Harvest, point: str, out: str | os.PathLike[str], *, column: str | None = None
) -> int:
    """Write the rows of a point as SAELens wants them, to a new folder `out`; return how many.

    A row has the activations [context, width] of a window, in the harvest's type, under the name
    `column`, by default TransformerLens' of the point, and its `token_ids`, int32 [context]. All
    rows have the same size, so windows shorter than the context are left out: of a harvest that was
    `joined` only the last one is. The folder appears complete, with a file for each shard.

    Raises ValueError for a point that was not harvested, a harvest that is not complete or has no
    full window, and a `column` that is no name; ImportError without pyarrow; OSError where it
    cannot be written.
    """
    pyarrow = _pyarrow()
    if not harvest.is_complete:
        raise ValueError(f"{harvest.folder} is not complete: harvest the rest first")
    parts = list(_full_windows(harvest, point))
    shape = (harvest.meta["context"], harvest.meta["points"][point])
    column = _hook(point) if column is None else column
    if not isinstance(column, str) or column in ("", _TOKENS):
        raise ValueError(f"column must be a name, and another than {_TOKENS!r}, not {column!r}")
    n_rows = sum(len(starts) for _, starts, _ in parts)
    if not n_rows:
        raise ValueError(
            f"{harvest.folder} has no window of {shape[0]} tokens: harvest with joined=True"
        )
    parts = [part for part in parts if len(part[1])]
    destination = Path(out).expanduser()
    schema, features = _schema(pyarrow, column, shape, str(parts[0][0].dtype))
    names = [f"data-{i:05}-of-{len(parts):05}.arrow" for i in range(len(parts))]
    with new_folder(destination) as folder, explained(destination):
        for name, part in zip(names, parts, strict=True):
            _write(pyarrow, folder / name, schema, _batches(pyarrow, schema, *part, shape))
        info = {"citation": "", "description": "", "features": features, "homepage": ""}
        write_file(folder / "dataset_info.json", _json({**info, "license": ""}))
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in names],
            "_fingerprint": _fingerprint(harvest, point, column),
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_file(folder / "state.json", _json(state))
    return n_rows


def _write(pyarrow: ModuleType, path: Path, schema: Any, batches: Iterable[Any]) -> None:
    """Write a file of batches, which is on the disk before its folder has its name."""
    with path.open("wb") as file:
        with pyarrow.ipc.new_stream(file, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
        file.flush()
        os.fsync(file.fileno())


def _hook(point: str) -> str:
    """TransformerLens' name of a point."""
    _, _, rest = point.partition("layers.")
    layer, _, name = rest.partition(".")
    line = BY_NAME[name if rest else point]
    return theirs(line, int(layer or -1))[0]


def _pyarrow() -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise ImportError(
            f"Arrow files need pyarrow ({error}): pip install 'pythia_rt[arrow]'"
        ) from None
    module: ModuleType = pyarrow
    return module


def _full_windows(
    harvest: Harvest, point: str
) -> Iterator[tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int32]]]:
    """Of each shard the rows, where full windows begin in them, and the tokens."""
    context = harvest.meta["context"]
    starts = harvest.windows
    begin = 0
    for rows in harvest.shards(point):
        end = begin + len(rows)
        inside = (starts[:-1] >= begin) & (starts[:-1] < end) & (np.diff(starts) == context)
        yield rows, starts[:-1][inside] - begin, harvest.tokens[begin:end]
        begin = end


def _schema(
    pyarrow: ModuleType, column: str, shape: tuple[int, int], dtype: str
) -> tuple[Any, dict[str, Any]]:
    """The types of Arrow, and the same as datasets has them."""
    features = {
        column: {"shape": list(shape), "dtype": dtype, "_type": "Array2D"},
        _TOKENS: {
            "feature": {"dtype": "int32", "_type": "Value"},
            "length": shape[0],
            "_type": "Sequence",
        },
    }
    storage = pyarrow.list_(pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(dtype))))
    # What the type of datasets leaves in a file, without datasets.
    about = {
        "ARROW:extension:name": _EXTENSION,
        "ARROW:extension:metadata": json.dumps([list(shape), dtype]),
    }
    fields = [
        pyarrow.field(column, storage, metadata=about),
        pyarrow.field(_TOKENS, pyarrow.list_(pyarrow.int32(), shape[0])),
    ]
    kept = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.schema(fields, metadata=kept), features


def _batches(
    pyarrow: ModuleType,
    schema: Any,
    rows: NDArray[Any],
    starts: NDArray[np.int64],
    tokens: NDArray[np.int32],
    shape: tuple[int, int],
) -> Iterator[Any]:
    context, width = shape
    together = max(1, min(_TOGETHER, _MOST_VALUES // (context * width)))
    for first in range(0, len(starts), together):
        places = starts[first : first + together]
        index = (places[:, None] + np.arange(context)).reshape(-1)
        n = len(places)
        values = pyarrow.array(np.ascontiguousarray(rows[index]).reshape(-1))
        inner = pyarrow.ListArray.from_arrays(_offsets(n * context, width), values)
        outer = pyarrow.ListArray.from_arrays(_offsets(n, context), inner)
        ids = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(tokens[index]), context)
        yield pyarrow.RecordBatch.from_arrays([outer, ids], schema=schema)


def _offsets(n: int, length: int) -> NDArray[np.int32]:
    return np.arange(0, (n + 1) * length, length, dtype=np.int32)


def _fingerprint(harvest: Harvest, point: str, column: str) -> str:
    """By which datasets tells its caches apart."""
    shards = [shard["sha256"][point] for shard in harvest.meta["shards"]]
    about = [harvest.meta["tokens_sha256"], harvest.meta["context"], column, *shards]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
