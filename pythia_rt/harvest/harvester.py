"""Activations of texts, written to a folder in shards, so that a killed run goes on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import pythia_rt
from pythia_rt.convert.errors import quote, with_sentence
from pythia_rt.convert.files.destination import check_new_folder, make_folder
from pythia_rt.convert.files.digest import sha256_of
from pythia_rt.convert.files.text import check_text_file
from pythia_rt.harvest.capture import Capturing, Ids, check_dtype, places_of
from pythia_rt.harvest.corpus import (
    DEFAULT_CONTEXT,
    Cut,
    Text,
    checked_cut,
    read_cut,
    read_documents,
    windows_of,
)
from pythia_rt.harvest.folder import (
    DOCUMENTS,
    TOKENS,
    VERSION,
    WINDOWS,
    Harvest,
    keep_array,
    read_meta,
    write_meta,
)
from pythia_rt.harvest.shards import ShardWriter, is_whole
from pythia_rt.insides.inputs import grouped
from pythia_rt.insides.lookup import Capture as Points
from pythia_rt.insides.lookup import NamesOfAnyModel
from pythia_rt.options import whole_number_from

if TYPE_CHECKING:
    from pythia_rt.model import Model

_LOCK = ".lock"
_SHARD = whole_number_from(1, 1 << 40, "tokens")
# In meta.json all else says what is harvested; what is in the files, the tokens' digest.
_MAY_DIFFER = ("files", "shards", "complete")


def harvest(
    model: Model,
    texts: Iterable[Text],
    points: Points,
    out: str | os.PathLike[str],
    *,
    context: int | None = None,
    dtype: str = "f16",
    shard_tokens: int = 1 << 18,
    prepend_bos: bool = False,
    joined: bool = False,
    max_tokens: int | None = None,
    progress: bool = False,
) -> Harvest:
    """Write what is at `points` of the model for each token of `texts` to the folder `out`.

    A text is a str, token ids, or a path object (not a str) of a UTF-8 file: of a .jsonl file each
    line's "text" is a document, of any other all of it. Documents are cut into windows of `context`
    tokens, by default 512 or the model's context, and the model reads each window on its own; with
    `prepend_bos` the model's BOS token stands at the start of each. With `joined` the documents
    follow each other, with an end token behind each, and windows are cut of that, so that all but
    the last are full. Of all that, the first `max_tokens` tokens are read.

    `points` are those that `Model.run` captures, but for scores, patterns and `result`: our names
    ("layers.3.resid_post"), TransformerLens', globs. Values are the checkpoint's, a row for each
    token, of q, k, v and z the heads one after another. They are float16 ("f16") or float32, in
    .npy files of whole windows with at most `shard_tokens` rows (or one window). Neither the head
    runs nor a layer after the last one that is asked for. The bytes do not depend on the machine,
    the device or the number of threads.

    Each file appears complete. When the same call is made again, it goes on after the last whole
    shard, and writes what it would have written uninterrupted; it returns at once where nothing is
    missing. Folders: see `Harvest`, which is returned.

    Raises ValueError, before anything is written, for bad arguments and for a folder that holds
    something else; RuntimeError for a value that float16 cannot hold; OSError where the disk is
    full. What was written stays.
    """
    shard_tokens = _SHARD("shard_tokens", shard_tokens)
    capture = Capturing(model, points, dtype)
    cut = read_cut(model, context, prepend_bos=prepend_bos, joined=joined, max_tokens=max_tokens)
    corpus = _read_corpus(model, texts, cut)
    folder = Path(out).expanduser()
    with _locked(folder):
        meta = _meta(model, capture, corpus, cut, dtype, shard_tokens)
        before = read_meta(folder)
        if before is not None:
            _check_same(folder, meta, before)
            meta = before
        else:
            _check_empty(folder)
            write_meta(folder, meta)
        with (
            _told(meta, corpus.n_tokens),
            tqdm(total=corpus.n_tokens, unit="tok", unit_scale=True, disable=not progress) as bar,
        ):
            for name, array in corpus.arrays().items():
                if not keep_array(folder / name, array):
                    raise ValueError(
                        f"{folder} holds another harvest, whose {name} is another: choose another "
                        "folder"
                    )
            _write_shards(folder, meta, corpus, capture, bar)
    return Harvest(folder)


def check_harvest(
    files: Sequence[Path],
    points: Points,
    out: Path,
    *,
    context: int | None,
    dtype: str,
    shard_tokens: int,
    prepend_bos: bool,
    joined: bool,
    max_tokens: int | None,
) -> None:
    """Raise what `harvest` would of its arguments, as far as that can be told without a model,
    which may take long to be had: points that no model has, files that are not there, and so on."""
    _SHARD("shard_tokens", shard_tokens)
    check_dtype(dtype)
    checked_cut(
        DEFAULT_CONTEXT if context is None else context,
        None,
        prepend_bos=prepend_bos,
        joined=joined,
        max_tokens=max_tokens,
    )
    places_of(NamesOfAnyModel(), points)
    for file in files:
        check_text_file(file.expanduser())
    folder = out.expanduser()
    check_new_folder(folder)
    if folder.is_dir() and read_meta(folder) is None:
        _check_empty(folder)


@dataclass(frozen=True)
class _Corpus:
    """All that is read, as the folder has it."""

    windows: list[Ids]
    documents: NDArray[np.int64]  # [documents + 1]
    files: list[dict[str, str]]  # name and SHA-256 of each

    @property
    def n_tokens(self) -> int:
        return int(self.documents[-1])

    def shards(self, most: int) -> list[list[Ids]]:
        """The windows of each shard: as many as have at most so many tokens, or one."""
        found: list[list[Ids]] = [[]]
        n_tokens = 0
        for window in self.windows:
            if found[-1] and n_tokens + len(window) > most:
                found.append([])
                n_tokens = 0
            found[-1].append(window)
            n_tokens += len(window)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The files beside the shards."""
        ends = np.cumsum([0, *map(len, self.windows)], dtype=np.int64)
        return {
            TOKENS: np.concatenate(self.windows),
            DOCUMENTS: self.documents,
            WINDOWS: ends,
        }


def _read_corpus(model: Model, texts: Iterable[Text], cut: Cut) -> _Corpus:
    files: dict[Path, str] = {}
    windows: list[Ids] = []
    starts: list[int] = []
    n_tokens = n_read = 0

    def documents() -> Iterator[Ids]:
        nonlocal n_read
        for ids, path in read_documents(model, texts, cut):
            if path.name and path not in files:
                if not path.is_file():
                    raise ValueError(
                        f"{path} is not a regular file, and a text's digest is taken by reading it "
                        "again: give a file"
                    )
                files[path] = sha256_of(path)
            n_read += 1
            yield ids

    for window in windows_of(documents(), cut):
        windows.append(window.ids)
        starts += [n_tokens + start for start in window.starts]
        n_tokens += len(window.ids)
    if not windows:
        raise ValueError("texts have no token: give some")
    if n_tokens != cut.max_tokens:  # the last documents may be empty
        starts += [n_tokens] * (n_read - len(starts))
    of_files = [{"name": path.name, "sha256": digest} for path, digest in files.items()]
    return _Corpus(windows, np.array([*starts, n_tokens], np.int64), of_files)


def _meta(
    model: Model, capture: Capturing, corpus: _Corpus, cut: Cut, dtype: str, shard_tokens: int
) -> dict[str, Any]:
    """What meta.json says before anything is harvested."""
    about = model.file.metadata
    tokens = corpus.arrays()[TOKENS]
    return {
        "layout": VERSION,
        "producer": f"pythia_rt {pythia_rt.__version__}",
        "model": about["source"],
        "commit": about["revision"] or None,
        "format": about["recipe"],
        "kv_format": model.kv_format,
        "data_sha256": about["data_sha256"],
        "points": capture.widths,
        "dtype": dtype,
        "context": cut.context,
        "prepend_bos": cut.bos,
        "joined": cut.end,
        "max_tokens": cut.max_tokens,
        "shard_tokens": shard_tokens,
        "n_tokens": len(tokens),
        "n_documents": len(corpus.documents) - 1,
        "n_windows": len(corpus.windows),
        "tokens_sha256": hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
        "files": corpus.files,
        "shards": [],
        "complete": False,
    }


def _check_same(folder: Path, meta: dict[str, Any], before: dict[str, Any]) -> None:
    """Raise ValueError where a folder's harvest is another one."""
    for name, value in meta.items():
        if name not in _MAY_DIFFER and before.get(name) != value:
            raise ValueError(
                f"{folder} holds another harvest, whose {name} is {quote(str(before.get(name)))} "
                f"and not {quote(str(value))}: choose another folder"
            )


def _write_shards(
    folder: Path, meta: dict[str, Any], corpus: _Corpus, capture: Capturing, bar: Any
) -> None:
    shards = corpus.shards(meta["shard_tokens"])
    with ShardWriter(folder, meta, len(shards)) as writer:
        for number, windows in enumerate(shards):
            n_tokens = sum(map(len, windows))
            if is_whole(folder, meta, number):
                bar.update(n_tokens)
                continue
            writer.begin(number, n_tokens)
            for group in grouped(windows):
                # By name: whoever goes on may name the points in another order.
                writer.add(dict(zip(capture.widths, capture.rows(group), strict=True)))
                bar.update(sum(map(len, group)))
            writer.end(number, n_tokens)
        writer.finish()


def _check_empty(folder: Path) -> None:
    """Raise FileExistsError for a folder in which other files are."""
    if any(not path.name.startswith(".") for path in folder.iterdir()):
        raise FileExistsError(f"{folder} holds something else: choose another folder")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder, made if it is not there, for this process alone."""
    from filelock import FileLock, Timeout

    make_folder(folder)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    except Timeout:
        raise RuntimeError(f"another process harvests into {folder}: wait for its end") from None


@contextlib.contextmanager
def _told(meta: dict[str, Any], n_tokens: int) -> Iterator[None]:
    """Say how much is there when the rest cannot be."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        done = sum(shard["tokens"] for shard in meta["shards"])
        said = f"{error}; {done} of {n_tokens} tokens are written and stay"
        if isinstance(error, OSError):
            raise with_sentence(error, said) from None
        raise RuntimeError(said) from None
