"""A checkpoint as a temporary flat file in its own number type, which loses nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from .conversion import convert
from .flatfile import FlatFile
from .merging import ADAPTER, TASK_VECTOR, Merge
from .opening import open_source
from .quantise.weights import WeightReader
from .source.hub import resolve


def open_exactly(
    source: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    step: int | None = None,
    activation: str | None = None,
    cache_dir: str | Path | None = None,
    threads: int | None = None,
    progress: bool = False,
    merges: Sequence[Merge] = (),
) -> FlatFile:
    """Convert the checkpoint `source`, with `base` and `merges`, without loss and open the result.

    The formats are f16 or bf16 where every matrix has that type in the checkpoint, else f32. The
    file stands in the system's folder for temporary files ($TMPDIR) until it is mapped into memory,
    and is deleted before this returns, or when anything interrupts it: its space is free again when
    the FlatFile's arrays are gone.

    Raises what `convert` raises, with the same arguments.
    """
    path, _ = resolve(source, revision, cache_dir, progress=progress, step=step)
    base_path = None if base is None else resolve(base, None, cache_dir, progress=progress)[0]
    with tempfile.TemporaryDirectory(prefix="pythia_rt-") as temporary:
        made = convert(
            path,
            Path(temporary) / "reference.safetensors",
            format=own_format(path, activation, base_path, merges),
            base=base_path,
            activation=activation,
            threads=threads,
            progress=progress,
            adapters=[(merge.path, merge.weight) for merge in merges if merge.kind == ADAPTER],
            task_vectors=[
                (merge.path, merge.weight) for merge in merges if merge.kind == TASK_VECTOR
            ],
        )
        return FlatFile(made)


def own_format(
    path: Path, activation: str | None, base: Path | None, merges: Sequence[Merge]
) -> str:
    """The format that holds every matrix of the source at `path`, with all else, exactly."""
    with open_source(path, base, merges) as opened:
        plan = opened.make_plan(activation)
        reader = WeightReader(opened)
        types = {reader.dtype(pieces) for pieces in plan.linears.values()}
    return {"F16": "f16", "BF16": "bf16"}.get(types.pop(), "f32") if len(types) == 1 else "f32"
