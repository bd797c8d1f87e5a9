"""Finds a source: a folder as it is, anything else as a model of the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError, Sentence
from ..files.gguf import is_gguf
from .settings import is_hub_id


def resolve(
    source: str | Path,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    progress: bool = False,
) -> tuple[Path, str]:
    """Return the path of `source` and its revision, a commit of the hub or "" for what is local.

    An existing folder, or GGUF file, is returned as it is. Anything else is a hub id: config.json,
    the weights (safetensors if the revision has them, else pytorch_model.bin), those of
    layout.TEXT_FILES that there are, and without a tokenizer.json those of TOKENIZER_SOURCES, are
    downloaded into `cache_dir` (default: the hub's own cache), unless they are there already: each
    is continued where another process stopped, and taken if its digest is the hub's. Without
    network, or with `local_files_only` or HF_HUB_OFFLINE, a filled cache serves; HF_ENDPOINT names
    a mirror, HF_TOKEN who asks.

    Raises FileNotFoundError when `source` is no folder, not on the hub or not in the cache,
    CheckpointError when the repository holds no weights that can be read, ValueError for a
    `revision` of a folder, OSError when the hub does not answer.
    """
    path = Path(source).expanduser()
    if path.is_dir() or is_gguf(path):
        if revision is not None:
            why = f"{source} is a {'folder' if path.is_dir() else 'file'}, which has no revisions"
            raise ValueError(Sentence(f"{why}: leave revision out", f"{why}: leave --revision out"))
        return path, ""
    name = str(source)
    if path.exists():
        raise CheckpointError(
            f"{source} is a file: give the folder that holds the checkpoint, or a GGUF file"
        )
    if not is_hub_id(name):
        raise FileNotFoundError(f"{source} is no folder and no hub id: check the spelling")
    # The hub's library is slow to import, and a folder does not need it.
    from .download import Repository

    repository = Repository(name, revision or "main", cache_dir)
    return repository.fetch(offline=local_files_only, progress=progress)


def fetch(
    name: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    *,
    local_files_only: bool = False,
    progress: bool = False,
) -> Path:
    """Return the folder of the hub's model `name` at `revision`, as `resolve` does."""
    return resolve(name, revision, cache_dir, local_files_only, progress)[0]


def identify(folder: Path) -> tuple[str, str]:
    """Return the name and the revision by which a flat file remembers the source `folder`.

    A snapshot in the hub's cache is known by its hub id and commit, any other folder by its name.
    """
    folder = folder.resolve()
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/", 1), folder.name
    return folder.name, ""
