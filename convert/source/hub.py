"""Finds a source: a folder as it is, anything else as a model of the Hugging Face hub."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CheckpointError, Sentence
from ..files.gguf import is_gguf
from .checkpoint import CONFIG_FILE
from .settings import is_hub_id
from .steps import chosen, local_steps, no_step, step_of

if TYPE_CHECKING:
    from .download import Repository


def resolve(
    source: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: bool = False,
    step: int | None = None,
) -> tuple[Path, str]:
    """Return the path of `source` and its revision, a commit of the hub or "" for what is local.

    An existing folder, or GGUF file, is returned as it is, of a folder with step{N} folders in it
    that of `step`, or the last. Anything else is a hub id, whose revision step{N} `step` is short
    for; where its `main` holds no weights, its last step is taken, with a warning. config.json,
    the weights (safetensors if the revision has them, else pytorch_model.bin), those of
    layout.TEXT_FILES that there are, and without a tokenizer.json those of TOKENIZER_SOURCES, are
    downloaded into `cache_dir` (default: the hub's own cache), unless they are there already: each
    is continued where another process stopped, and taken if its digest is the hub's. Without
    network, or with `local_files_only` or HF_HUB_OFFLINE, a filled cache serves; HF_ENDPOINT names
    a mirror, HF_TOKEN who asks.

    Raises FileNotFoundError when `source` is no folder, not on the hub or not in the cache, or has
    no such step, CheckpointError when the repository holds no weights that can be read, or they
    came damaged, ValueError for a `revision` of a folder, OSError when the hub does not answer.
    """
    repository = _repository(source, revision, cache_dir, step)
    if isinstance(repository, Path):
        return repository, ""
    return repository.fetch(offline=local_files_only, progress=progress)


def locate(
    source: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    step: int | None = None,
) -> tuple[Path, str] | None:
    """Return what `resolve` would, for a model of the hub and without fetching anything.

    The folder may lack files, or not be there. None for what is local. Raises what `resolve` does.
    """
    repository = _repository(source, revision, cache_dir, step)
    if isinstance(repository, Path):
        return None
    commit = repository.locate(offline=local_files_only)
    return repository.store.snapshot(commit), commit


def _repository(
    source: str | Path, revision: str | None, cache_dir: str | Path | None, step: int | None
) -> Path | Repository:
    path = Path(source).expanduser()
    revision = chosen(revision, step)
    if path.is_dir():
        steps = local_steps(path)
        if step is not None and steps:
            if step not in steps:
                raise FileNotFoundError(no_step(str(source), step, steps))
            return steps[step]
        if revision is None and steps and not (path / CONFIG_FILE).exists():
            last = max(steps)
            warnings.warn(
                f"{source} holds steps and no checkpoint itself: taking step {last}, its last",
                stacklevel=4,
            )
            return steps[last]
    if path.is_dir() or is_gguf(path):
        if step is not None:
            why = f"{source} is a {'folder' if path.is_dir() else 'file'} without steps"
            raise ValueError(Sentence(f"{why}: leave step out", f"{why}: leave --step out"))
        if revision is not None:
            why = f"{source} is a {'folder' if path.is_dir() else 'file'}, which has no revisions"
            raise ValueError(Sentence(f"{why}: leave revision out", f"{why}: leave --revision out"))
        return path
    name = str(source)
    if path.exists():
        raise CheckpointError(
            f"{source} is a file: give the folder that holds the checkpoint, or a GGUF file"
        )
    if not is_hub_id(name):
        raise FileNotFoundError(f"{source} is no folder and no hub id: check the spelling")
    # The hub's library is slow to import, and a folder does not need it.
    from .download import Repository

    return Repository(name, revision or "main", cache_dir)


def fetch(
    name: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    *,
    local_files_only: bool = False,
    progress: bool = False,
    step: int | None = None,
) -> Path:
    """Return the folder of the hub's model `name` at `revision` or `step`, as `resolve` does."""
    return resolve(name, revision, cache_dir, local_files_only, progress, step)[0]


def identify(folder: Path) -> tuple[str, str]:
    """Return the name and the revision by which a flat file remembers the source `folder`.

    A snapshot in the hub's cache is known by its hub id and commit, a step of a local suite by the
    suite's name and step{N}, any other folder by its name.
    """
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1), folder.name
    if step_of(folder.name) is not None and folder.parent.name:
        return folder.parent.name, folder.name
    return folder.name, ""
