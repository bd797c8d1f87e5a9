"""Downloads the files of a hub model that a conversion needs, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, errors, hf_hub_download
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from ..errors import CheckpointError, Sentence, quote
from ..flatfile.layout import (
    CHAT_TEMPLATE_FOLDER,
    TEXT_FILES,
    TOKENIZER_FILE,
    TOKENIZER_SOURCES,
)
from .checkpoint import CONFIG_FILE, WEIGHT_FILES, index_shards

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHAT_TEMPLATE = re.compile(rf"{CHAT_TEMPLATE_FOLDER}/[^/]+\.jinja")


class Repository:
    """One revision of one model of the hub. See `hub.resolve` for what it raises."""

    def __init__(self, name: str, revision: str, cache_dir: str | Path | None) -> None:
        self.name = name
        self.revision = revision
        self.cache_dir = None if cache_dir is None else str(Path(cache_dir).expanduser())

    def fetch(self, *, offline: bool, progress: bool) -> tuple[Path, str]:
        """Return the folder in the cache and the commit, after downloading what is missing."""
        try:
            with _progress_bars(progress):
                return self._fetch(offline)
        except errors.HFValidationError:
            raise FileNotFoundError(
                f"{self.name} is no folder and no hub id: check the spelling"
            ) from None

    def _fetch(self, offline: bool) -> tuple[Path, str]:
        if offline:
            missing = f"{self.name} is not in the cache at revision {self.revision}"
            return self._from_cache(
                Sentence(
                    f"{missing}: allow downloading once (local_files_only=False)",
                    f"{missing}: allow downloading once, without --local-files-only",
                )
            )
        try:
            info = HfApi().model_info(self.name, revision=self.revision)
        except errors.RevisionNotFoundError:
            raise FileNotFoundError(
                f"{self.name} has no revision {quote(self.revision)}: see its branches on the hub"
            ) from None
        except errors.GatedRepoError:
            raise PermissionError(
                f"{self.name} is gated: accept its terms on the hub and log in with hf auth login"
            ) from None
        except errors.RepositoryNotFoundError:
            raise FileNotFoundError(
                f"{self.name} is neither a folder here nor a model of the hub: check the spelling"
            ) from None
        except errors.HFValidationError:
            raise
        # What a missing network raises depends on the version of the hub's HTTP library.
        except Exception as reason:
            return self._from_cache(
                f"{self.name} is not in the cache and the hub does not answer "
                f"({type(reason).__name__}): check the network"
            )
        commit = info.sha or self.revision
        listing = {sibling.rfilename for sibling in info.siblings or []}
        folder = self._download(commit, listing.__contains__, offline=False)
        self._get_all(filter(_CHAT_TEMPLATE.fullmatch, sorted(listing)), commit, offline=False)
        return folder, commit

    def _from_cache(self, otherwise: str) -> tuple[Path, str]:
        try:
            folder = self._download(self.revision, self._is_cached, offline=True)
        except (errors.LocalEntryNotFoundError, CheckpointError):
            raise FileNotFoundError(otherwise) from None
        # The cache keeps each commit in a folder of its name.
        return folder, folder.name if _COMMIT.fullmatch(folder.name) else self.revision

    def _is_cached(self, file: str) -> bool:
        try:
            self._get(file, self.revision, offline=True)
        except errors.LocalEntryNotFoundError:
            return False
        return True

    def _download(self, revision: str, has: Callable[[str], bool], *, offline: bool) -> Path:
        """Fetch what a conversion needs of what the revision `has`; return the folder."""
        weights = next((name for name in WEIGHT_FILES if has(name)), None)
        if weights is None:
            raise CheckpointError(
                f"{self.name} has no weights that can be read ({', '.join(WEIGHT_FILES[::2])}) "
                f"at revision {quote(self.revision)}: choose another model or revision"
            )
        folder = self._get(CONFIG_FILE, revision, offline=offline).parent
        sources = () if has(TOKENIZER_FILE) else TOKENIZER_SOURCES
        optional = [name for name in (*TEXT_FILES, *sources) if has(name)]
        self._get_all([*optional, weights], revision, offline=offline)
        if weights.endswith(".json"):
            self._get_all(index_shards(folder / weights), revision, offline=offline)
        return folder

    def _get_all(self, files: Iterable[str], revision: str, *, offline: bool) -> None:
        for file in files:
            self._get(file, revision, offline=offline)

    def _get(self, file: str, revision: str, *, offline: bool) -> Path:
        try:
            return Path(
                hf_hub_download(
                    self.name,
                    file,
                    revision=revision,
                    cache_dir=self.cache_dir,
                    local_files_only=offline,
                )
            )
        except errors.LocalEntryNotFoundError:  # also what a lost connection ends in
            if offline:
                raise
            raise ConnectionError(
                f"cannot fetch {file} of {self.name} (connection lost): try again"
            ) from None
        except errors.EntryNotFoundError:
            raise CheckpointError(
                f"{self.name} has no {file} at revision {quote(self.revision)}: "
                "choose another model or revision"
            ) from None
        except errors.HFValidationError:
            raise
        except Exception as reason:
            text = reason.strerror if isinstance(reason, OSError) else None
            raise ConnectionError(
                f"cannot fetch {file} of {self.name} ({text or type(reason).__name__}): try again"
            ) from None


@contextmanager
def _progress_bars(wanted: bool) -> Iterator[None]:
    """Show the hub's own progress bars or not, and restore what was set before."""
    hidden = are_progress_bars_disabled()
    if wanted or hidden:
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
