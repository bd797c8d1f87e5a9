"""Downloads the files of a hub model that a conversion needs, and no others."""

from __future__ import annotations

import errno
import re
import shutil
import threading
import warnings
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from tqdm import tqdm

from ..errors import CheckpointError, Sentence, quote, with_sentence
from ..files.json_object import MAX_JSON_BYTES
from ..flatfile.layout import (
    CHAT_TEMPLATE_FOLDER,
    TEXT_FILES,
    TOKENIZER_FILE,
    TOKENIZER_SOURCES,
)
from ..stopping import StoppedError, check_stop
from .checkpoint import CONFIG_FILE, WEIGHT_FILES, index_shards
from .client import open_client
from .listing import (
    HubUnreachableError,
    Listing,
    NoRevisionError,
    RemoteFile,
    list_revisions,
    read_listing,
)
from .settings import hub_cache, is_hub_id, is_offline
from .steps import no_step, revision_of, step_of
from .store import Store
from .transfer import Transfer

AT_ONCE = 4  # files
_LOOK = 0.1  # seconds after which to look whether anybody still waits
_CHAT_TEMPLATE = re.compile(rf"{CHAT_TEMPLATE_FOLDER}/[^/]+\.jinja")


class Repository:
    """One revision of one model of the hub. See `hub.resolve` for what it raises."""

    def __init__(self, name: str, revision: str, cache_dir: str | Path | None) -> None:
        if not is_hub_id(name):
            raise FileNotFoundError(f"{name} is no folder and no hub id: check the spelling")
        self.name = name
        self.revision = revision
        self.store = Store(hub_cache(cache_dir), name)

    def fetch(self, *, offline: bool, progress: bool) -> tuple[Path, str]:
        """Return the folder in the cache and the commit, after downloading what is missing."""
        listing = self._find(offline)
        if isinstance(listing, str):
            return self._from_cache(listing)
        return self._download(listing, progress), listing.commit

    def locate(self, *, offline: bool) -> str:
        """Return the commit of the revision, as the hub or else the cache has it."""
        listing = self._find(offline)
        if not isinstance(listing, str):
            return listing.commit
        if (commit := self.store.commit_of(self.revision)) is None:
            raise FileNotFoundError(listing)
        return commit

    def _find(self, offline: bool) -> Listing | str:
        """What the hub has at the revision; or why it cannot be asked, should the cache lack it.

        Where `main` holds no weights the revision becomes that of the last step.
        """
        missing = f"{self.name} is not in the cache at revision {self.revision}"
        if offline:
            return Sentence(
                f"{missing}: allow downloading once (local_files_only=False)",
                f"{missing}: allow downloading once, without --local-files-only",
            )
        if is_offline():
            return f"{missing}, and HF_HUB_OFFLINE is set: unset it to allow downloading once"
        try:
            listing = self._list()
            if self.revision == "main" and not set(WEIGHT_FILES) & listing.files.keys():
                steps = self._steps()
                if steps:
                    warnings.warn(
                        f"main of {self.name} holds no weights: taking step {max(steps)}, the last",
                        stacklevel=5,
                    )
                    self.revision = revision_of(max(steps))
                    listing = self._list()
            return listing
        except HubUnreachableError as reason:
            return (
                f"{self.name} is not in the cache and the hub does not answer "
                f"({reason}): check the network"
            )
        except ConnectionError as reason:  # with a sentence of its own
            return f"{self.name} is not in the cache, and {reason}"

    def _list(self) -> Listing:
        try:
            return read_listing(self.name, self.revision)
        except NoRevisionError:
            step = step_of(self.revision)
            if step is None:
                raise
            raise FileNotFoundError(no_step(self.name, step, self._steps())) from None

    def _steps(self) -> list[int]:
        found = (step_of(revision.name) for revision in list_revisions(self.name))
        return [step for step in found if step is not None]

    def _from_cache(self, otherwise: str) -> tuple[Path, str]:
        if (commit := self.store.commit_of(self.revision)) is not None:
            folder = self.store.snapshot(commit)
            try:
                needed = self._needed(lambda name: (folder / name).is_file())
                if needed[-1].endswith(".json"):
                    needed += index_shards(folder / needed[-1])
            except CheckpointError:
                raise FileNotFoundError(otherwise) from None
            if all((folder / name).is_file() for name in needed):
                return folder, commit
        raise FileNotFoundError(otherwise)

    def _needed(self, has: Callable[[str], bool]) -> list[str]:
        """What a conversion needs of what there is: last the weights, or their index."""
        weights = next((name for name in WEIGHT_FILES if has(name)), None)
        if weights is None:
            raise CheckpointError(
                f"{self.name} has no weights that can be read ({', '.join(WEIGHT_FILES[::2])}) "
                f"at revision {quote(self.revision)}: choose another model or revision"
            )
        sources = () if has(TOKENIZER_FILE) else TOKENIZER_SOURCES
        return [CONFIG_FILE, *filter(has, (*TEXT_FILES, *sources)), weights]

    def _download(self, listing: Listing, progress: bool) -> Path:
        files = listing.files
        needed = self._needed(files.__contains__)
        needed += filter(_CHAT_TEMPLATE.fullmatch, sorted(files))
        index = next((name for name in WEIGHT_FILES if name in needed), "")
        with tqdm(
            desc=f"fetching {self.name.rpartition('/')[2]}",
            total=0,
            unit="B",
            unit_scale=True,
            disable=not progress or are_progress_bars_disabled(),
        ) as bar:
            if index.endswith(".json"):
                self._get([index], listing, bar)
                folder = self.store.snapshot(listing.commit)
                needed += index_shards(folder / index)
                needed.remove(index)
            self._get(needed, listing, bar)
        self.store.set_ref(self.revision, listing.commit)
        return self.store.snapshot(listing.commit)

    def _get(self, names: Iterable[str], listing: Listing, bar: Any) -> None:
        """Fetch files, several at once; those that are there cost nothing."""
        files = {name: self._listed(name, listing) for name in names}
        places = {name: self.store.place(listing.commit, name) for name in files}
        holds = self.store.holds
        missing = [file for name, file in files.items() if not holds(places[name], file)]
        if not missing:
            return
        try:
            self._fetch(missing, listing, bar)
        except OSError as reason:
            if reason.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise with_sentence(
                reason,
                f"{self.name} is not all in {self.store.cache}, which cannot be written "
                f"({reason.strerror}): set HF_HUB_CACHE to a folder of yours",
            ) from None

    def _fetch(self, missing: Collection[RemoteFile], listing: Listing, bar: Any) -> None:
        self._check_room(missing)
        bar.total += sum(file.size for file in missing)
        lock = threading.Lock()

        def advance(count: int) -> None:
            with lock:
                bar.update(count)

        with open_client() as client:
            transfer = Transfer(client, self.store, self.name, listing.commit, advance)
            _run(transfer, missing)

    def _listed(self, name: str, listing: Listing) -> RemoteFile:
        if name not in listing.files:
            raise CheckpointError(
                f"{self.name} has no {name} at revision {quote(self.revision)}: choose another "
                "model or revision"
            )
        file = listing.files[name]
        if name.endswith(".json") and file.size > MAX_JSON_BYTES:
            raise CheckpointError(
                f"{name} of {self.name} has {file.size} bytes, more than any real one: choose "
                "another model or revision"
            )
        return file

    def _check_room(self, files: Collection[RemoteFile]) -> None:
        folder = self.store.folder / "blobs"
        folder.mkdir(parents=True, exist_ok=True)
        needed = 0
        for file in files:
            if not self.store.holds(self.store.blob(file.digest), file):
                part = folder / f"{file.digest}.part"
                needed += file.size - (part.stat().st_size if part.exists() else 0)
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"no room for {self.name} in {self.store.cache}: it needs {needed / 1e9:.1f} GB "
                f"more, and {free / 1e9:.1f} GB are free"
            )


def _run(transfer: Transfer, files: Iterable[RemoteFile]) -> None:
    """Fetch `files` in a few threads; the first error, or Ctrl-C, ends all."""
    # Small ones first: nobody waits for gigabytes to learn that config.json is not there.
    jobs = sorted(files, key=lambda file: file.size)
    with ThreadPoolExecutor(min(AT_ONCE, len(jobs)), "fetching") as pool:
        try:
            running = [pool.submit(transfer.fetch, file) for file in jobs]
            done = _finished(running)
        finally:
            transfer.stop()
    failed = [job.exception() for job in running if job in done and job.exception()]
    for error in failed:
        if error is not None and not isinstance(error, StoppedError):
            raise error


def _finished(running: Collection[Future[Path]]) -> set[Future[Path]]:
    """Wait for all, or for one that fails; return those that are over."""
    while True:
        done, others = wait(running, _LOOK, FIRST_EXCEPTION)
        if not others or any(job.exception() for job in done):
            return done
        check_stop()
