"""Flat files made from checkpoints, kept so that the second load converts nothing.

A cached file's name holds a key over everything its content depends on: this package's version and
the file format's, the format of the weights, the folder, and of each source file in it the name,
size and identity. The identity of a file in a hub snapshot is its blob's name, which is the digest
of its content; that of any other file is its modification time in nanoseconds, and the small files
count with their SHA-256 besides: config.json and those that say what text is made by; adapters,
with their weights, count likewise. So the key
costs a few `stat` calls and never reads weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock

import pythia_rt
from pythia_rt.convert import FlatFile, FlatFileError, convert, resolve
from pythia_rt.convert.files.gguf import all_parts
from pythia_rt.convert.flatfile.basis import BASIS_PREFIX
from pythia_rt.convert.flatfile.layout import (
    CHAT_TEMPLATE_FOLDER,
    TEXT_FILES,
    TOKENIZER_FILE,
    TOKENIZER_SOURCES,
)
from pythia_rt.convert.flatfile.metadata import VERSION
from pythia_rt.convert.merging import ADAPTER, Merge, Weighted, read_merges
from pythia_rt.convert.quantise.recipe import check_formats
from pythia_rt.convert.source.adapter import WEIGHT_FILES as ADAPTER_FILES
from pythia_rt.convert.source.adapter_config import CONFIG_FILE as ADAPTER_CONFIG_FILE
from pythia_rt.convert.source.checkpoint import CONFIG_FILE
from pythia_rt.convert.source.drop import check_droppable, drop_weights
from pythia_rt.convert.source.hub import identify, locate
from pythia_rt.convert.source.settings import own_cache

FileKey: TypeAlias = "tuple[str, int, str | int]"  # name, bytes, identity

# What a checkpoint can be made of: other files in the folder (a README, images) change nothing.
_SOURCE_SUFFIXES = {".bin", ".jinja", ".json", ".safetensors"}
_READ_FILES = {CONFIG_FILE, *TEXT_FILES} - {TOKENIZER_FILE}
_DROPPED = "dropped"  # the folder of notes beside that of flat files
_SHOWN_BYTES = 160  # of the source's name in the file's, which may have 255 in all


def cache_folder(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where flat files are kept: in `cache_dir`, $PYTHIA_RT_CACHE or ~/.cache/pythia_rt."""
    return own_cache(cache_dir) / "flat"


def open_checkpoint(
    source: str,
    *,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    format: str,
    threads: int | None,
    local_files_only: bool,
    progress: bool,
    copy: bool,
    adapters: Sequence[Weighted],
    step: int | None,
    keep_source: bool,
) -> FlatFile:
    """The flat file of the checkpoint `source`, from the cache or converted into it now.

    Safe when several processes do it at once: one converts, the others wait for it. Without
    `keep_source` the weights that were downloaded are deleted then; a note of them stays, by which
    the flat file is found again. Raises what `resolve` and `convert` raise, and OSError when the
    cache cannot be written.
    """
    check_formats(format)  # an unknown format is refused before gigabytes are downloaded
    if not keep_source:
        check_droppable(source)
    hub_cache = None if cache_dir is None else Path(cache_dir)
    merges = read_merges(ADAPTER, adapters)
    flat = cache_folder(cache_dir)
    if (flat.parent / _DROPPED / source.replace("/", "--")).is_dir():
        place = locate(source, revision, hub_cache, local_files_only, step)
        if place is not None and (noted := _noted(flat, *place)):
            found = _open(flat / _name(place[0], format, merges, noted), copy)
            if found is not None:
                if not keep_source:
                    drop_weights(place[0])
                return found
    folder, commit = resolve(source, revision, hub_cache, local_files_only, progress, step)
    path = flat / _name(folder, format, merges)
    if (found := _open(path, copy)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            # Another process may have written it while this one waited for the lock.
            if (found := _open(path, copy)) is None:
                convert(
                    folder,
                    path,
                    format=format,
                    threads=threads,
                    progress=progress,
                    force=True,
                    adapters=[(merge.path, merge.weight) for merge in merges],
                )
                found = FlatFile(path, copy=copy)
    if not keep_source and commit:
        _note_dropped(flat, folder, commit)
        drop_weights(folder)
    return found


def _note(flat: Path, folder: Path, commit: str) -> Path:
    name, _ = identify(folder)
    return flat.parent / _DROPPED / name.replace("/", "--") / f"{commit}.json"


def _note_dropped(flat: Path, folder: Path, commit: str) -> None:
    """Write down what the snapshot `folder` holds, as the names of flat files need it."""
    note = _note(flat, folder, commit)
    note.parent.mkdir(parents=True, exist_ok=True)
    written = note.with_name(f"{note.name}.{os.getpid()}.tmp")
    written.write_text(json.dumps(_keys(folder)), encoding="utf-8")
    written.replace(note)


def _noted(flat: Path, folder: Path, commit: str) -> list[FileKey]:
    """What was noted of a commit; nothing where that is damaged or was never written."""
    try:
        said = json.loads(_note(flat, folder, commit).read_text(encoding="utf-8"))
        return [(str(name), int(size), identity) for name, size, identity in said]
    except (OSError, ValueError, TypeError):
        return []


def _open(path: Path, copy: bool) -> FlatFile | None:
    """None where it is missing or damaged, perhaps by the disk: nothing is lost."""
    try:
        return FlatFile(path, copy=copy)
    except (FileNotFoundError, FlatFileError):
        return None


def _name(folder: Path, format: str, merges: Sequence[Merge], noted: Sequence[FileKey] = ()) -> str:
    """The name of the flat file of `folder`, which may also be a GGUF file, with adapters.

    `noted` are its files where not all are there any more.
    """
    folder = folder.resolve()
    key: dict[str, object] = {
        "producer": pythia_rt.__version__,
        "version": VERSION,
        "says": [BASIS_PREFIX, "biases"],  # what files of this version did not always say
        "format": format,
        "folder": str(folder),
        "files": noted or _keys(folder),
        "content": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in sorted(_READ_FILES)
            if (folder / name).is_file()
        },
    }
    if merges:
        key["adapters"] = [(merge.weight, _adapter_key(merge.path.resolve())) for merge in merges]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    source, _ = identify(folder)
    shown = source.replace("/", "--").encode(errors="surrogateescape")[:_SHOWN_BYTES]
    return f"{shown.decode(errors='ignore')}-{format}-{digest[:16]}.safetensors"


def _adapter_key(folder: Path) -> list[object]:
    config = folder / ADAPTER_CONFIG_FILE
    text = config.read_bytes() if config.is_file() else b""
    files = [folder / name for name in ADAPTER_FILES]
    found = [(f.name, f.stat().st_size, _identity(f)) for f in files if f.is_file()]
    return [str(folder), hashlib.sha256(text).hexdigest(), found]


def _keys(folder: Path) -> list[FileKey]:
    return [
        (file.name, file.stat().st_size, _identity(file))
        for file in (all_parts(folder) if folder.is_file() else _files(folder))
        if file.is_file()
    ]


def _files(folder: Path) -> list[Path]:
    return [
        file
        for part in (folder, folder / CHAT_TEMPLATE_FOLDER)
        if part.is_dir()
        for file in sorted(part.iterdir())
        if file.suffix in _SOURCE_SUFFIXES or file.name in TOKENIZER_SOURCES
    ]


def _identity(file: Path) -> str | int:
    target = file.resolve()
    return target.name if target.parent.name == "blobs" else target.stat().st_mtime_ns
