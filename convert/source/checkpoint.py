"""A checkpoint folder, read lazily: names, dtypes and shapes at once, rows when asked for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, final

from ..errors import CheckpointError, quote
from ..files.closing import Closing
from ..files.json_object import read_json
from ..files.positional import PositionalFile
from ..files.safetensors_header import read_header
from ..flatfile.metadata import PREFIX
from . import meta
from .tensor import SourceTensor, same
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
# As for transformers, either kind of index may list either kind of file.
SHARD_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

# What a folder without weights may hold instead, and what leads to weights from there.
_INSTEAD = (
    ("adapter_model.*", "it is an adapter, merge it into its model first (merge_and_unload)"),
    ("zero_to_fp32.py", "it is from a sharded training, run zero_to_fp32.py to gather them"),
    ("pytorch_model_fsdp_*", "it is from a sharded training, run accelerate merge-weights"),
    ("model-*-of-*.safetensors", "it is a shard, fetch model.safetensors.index.json too"),
    ("pytorch_model-*-of-*.bin", "it is a shard, fetch pytorch_model.bin.index.json too"),
)


@final
class Checkpoint(Closing):
    """The tensors of a checkpoint folder, in open files. Use it as a context manager.

    `tensors` maps names to SourceTensor, in the order of the files; `files` lists the paths that
    were opened (and the index), whose digests identify the source. `config_file` says what they
    are, in folders of Meta's own by other keys.
    """

    def __init__(self, folder: Path) -> None:
        """Open the checkpoint in `folder`.

        Raises CheckpointError when there is none, or when any file is damaged, truncated, foreign,
        missing from a sharded set, or holds a tensor that another one holds with other contents.
        """
        self.tensors: dict[str, SourceTensor] = {}
        self.files: list[Path] = []
        self.config_file = folder / CONFIG_FILE
        self._open: list[PositionalFile] = []
        try:
            self._read(folder)
        except BaseException:
            self.close()
            raise

    @property
    def is_metas(self) -> bool:
        """Whether the folder is one of Meta's own."""
        return self.config_file.name == meta.PARAMS_FILE

    def read_rows(self, name: str, start: int, stop: int, destination: memoryview) -> None:
        """Read rows [start, stop) of tensor `name` into `destination`: raw little-endian bytes.

        `destination` has exactly (stop - start) * row_bytes bytes; see `SourceTensor.read_rows`.
        """
        self.tensors[name].read_rows(start, stop, destination)

    def read_config(self) -> dict[str, Any]:
        """Return what the config says, by transformers' keys; raise CheckpointError without it."""
        config = read_json(self.config_file, CheckpointError)
        if not self.is_metas:
            return config
        embedding = self.tensors.get("model.embed_tokens.weight")
        return meta.make_config(config, embedding.shape[0] if embedding and embedding.shape else 0)

    def close(self) -> None:
        """Close every file."""
        for file in self._open:
            file.close()

    def _read(self, folder: Path) -> None:
        path = next((folder / n for n in WEIGHT_FILES if (folder / n).exists()), None)
        if path is None and (parts := meta.shards(folder)):
            self._read_parts(folder, parts)
            return
        if path is None:
            raise _no_weights(folder)
        if path.suffix != ".json":
            self._add(path)
            return
        # As transformers does, we ask the index which files there are and them what they hold.
        # A tensor that it lists and none of them holds is missed where the model needs it.
        self.files.append(path)
        for shard in index_shards(path):
            if not (folder / shard).exists():
                raise CheckpointError(
                    f"{path} names {quote(shard)}, which is missing: fetch it too"
                )
            self._add(folder / shard)

    def _read_parts(self, folder: Path, paths: list[Path]) -> None:
        self.config_file = folder / meta.PARAMS_FILE
        parts = []
        for path in paths:
            file = PositionalFile(path, CheckpointError)
            self._open.append(file)
            self.files.append(path)
            parts.append(read_tensors(file))
        self.tensors = meta.join_shards(parts)

    def _add(self, path: Path) -> None:
        file = PositionalFile(path, CheckpointError)
        self._open.append(file)
        self.files.append(path)
        for name, tensor in read_tensors(file).items():
            other = self.tensors.setdefault(name, tensor)
            if other is not tensor and not same(other, tensor):
                raise CheckpointError(
                    f"tensor {quote(name)} is both in {other.file.path.name} and in {path.name}, "
                    "and they differ: remove the shard that is not part of this checkpoint from "
                    "the index"
                )


def _no_weights(folder: Path) -> CheckpointError:
    for pattern, advice in _INSTEAD:
        if found := sorted(folder.glob(pattern)):
            return CheckpointError(
                f"{folder} holds {quote(found[0].name)} and no weights: {advice}"
            )
    return CheckpointError(
        f"{folder} holds no weights: give a folder with {', '.join(WEIGHT_FILES[::2])} or their "
        "sharded forms"
    )


def index_shards(path: Path) -> list[str]:
    """Return the files that the *.index.json at `path` lists, as paths relative to its folder.

    Raises CheckpointError for an index that is damaged or names anything outside its folder.
    """
    places = read_json(path, CheckpointError).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{path} has no weight_map: fetch it again")
    return sorted({_checked_shard(path, shard) for shard in places.values()})


def _checked_shard(index: Path, shard: Any) -> str:
    """Return the path `shard` without "./"; an index must not make us read outside its folder."""
    parts = PurePosixPath(shard).parts if isinstance(shard, str) else ()
    inside = bool(parts) and not shard.startswith("/") and ".." not in parts
    plain = inside and not set(shard) & {"\\", "\0"}
    if not plain or not shard.endswith(SHARD_SUFFIXES) or len(shard.encode(errors="replace")) > 255:
        shown = quote(shard) if isinstance(shard, str) else "something"
        raise CheckpointError(
            f"{index} names {shown}, which is not a file of weights in its folder "
            f"({', '.join(SHARD_SUFFIXES)}): fetch the index again"
        )
    return "/".join(parts)


def read_tensors(file: PositionalFile) -> dict[str, SourceTensor]:
    if file.size == 0:
        raise CheckpointError(f"{file.path} is empty: fetch it again")
    if file.path.suffix == ".safetensors":
        header = read_header(file, CheckpointError)
        if PREFIX + "version" in header.metadata:
            raise CheckpointError(f"{file.path} is a flat file already: load it, do not convert it")
        return {
            name: SourceTensor(name, entry.dtype, entry.shape, file, entry.offset)
            for name, entry in header.tensors.items()
        }
    return {
        name: SourceTensor(name, t.dtype, t.shape, file, t.offset, t.strides)
        for name, t in read_archive(file).items()
    }
