"""Sources of the hub: only what is needed is fetched, a filled cache serves without network."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from convert_sources import write_checkpoint
from huggingface_hub import errors
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.flatfile import layout
from pythia_rt.convert.source import download, hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-neox"


class FakeHub:
    """Stands for the hub: a folder is the repository, the cache is filled as the library does."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.fetched: list[str] = []
        self.failure: Exception | None = None

    def model_info(self, name: str, *, revision: str) -> SimpleNamespace:
        if self.failure is not None:
            raise self.failure
        assert (name, revision) == (NAME, "step3")
        files = [SimpleNamespace(rfilename=path.name) for path in self.repository.iterdir()]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def download(
        self, name: str, file: str, *, revision: str, cache_dir: str, local_files_only: bool
    ) -> str:
        snapshots = Path(cache_dir) / f"models--{name.replace('/', '--')}" / "snapshots"
        if revision == "step3" and (snapshots / COMMIT).exists():
            revision = COMMIT
        cached = snapshots / revision / file
        if not cached.exists():
            if local_files_only or self.failure is not None:
                raise errors.LocalEntryNotFoundError("not cached")
            self.fetched.append(file)
            cached.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repository / file, cached)
        return str(cached)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "repository")
    monkeypatch.setattr(download, "HfApi", lambda: fake)
    monkeypatch.setattr(download, "hf_hub_download", fake.download)
    return fake


def response_error(kind: type[Exception]) -> Exception:
    """Return an error of the hub's library, whose constructors differ between versions."""
    error = kind.__new__(kind)
    Exception.__init__(error, "from the hub")
    return error


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin"])
def test_only_what_is_needed_is_fetched(tmp_path: Path, fake: FakeHub, kind: str) -> None:
    write_checkpoint(fake.repository, kind=kind)
    for name in layout.TEXT_FILES[1:]:  # all that say what text is made by
        (fake.repository / name).write_text("{}")
    expected = {path.name for path in fake.repository.iterdir()}
    for surplus in ("README.md", "flax_model.msgpack", "vocab.json", "merges.txt"):
        (fake.repository / surplus).write_text("")
    if kind in ("safetensors", "sharded"):  # the pickle beside it stays where it is
        (fake.repository / "pytorch_model.bin").write_text("")
    path = convert(NAME, tmp_path / "flat", revision="step3", cache_dir=tmp_path / "cache")
    assert set(fake.fetched) == expected
    file = FlatFile(path)
    assert (file.metadata["source"], file.metadata["revision"]) == (NAME, COMMIT)
    local = convert(fake.repository, tmp_path / "local")
    assert FlatFile(local).metadata["data_sha256"] == file.metadata["data_sha256"]


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_what_a_tokenizer_is_built_of_is_fetched_where_there_is_none(
    tmp_path: Path, fake: FakeHub, has_tokenizer: bool
) -> None:
    write_checkpoint(fake.repository)
    for name in layout.TOKENIZER_SOURCES:
        (fake.repository / name).write_text("")
    if not has_tokenizer:
        (fake.repository / "tokenizer.json").unlink()
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    assert folder.is_dir()
    assert (set(layout.TOKENIZER_SOURCES) < set(fake.fetched)) is not has_tokenizer
    assert fake.fetched.count("tokenizer.json") == has_tokenizer


def test_shards_are_fetched_from_where_the_index_says(tmp_path: Path, fake: FakeHub) -> None:
    write_checkpoint(fake.repository, kind="sharded")
    (fake.repository / "weights").mkdir()
    (fake.repository / "model-00001-of-00003.safetensors").rename(
        fake.repository / "weights" / "model-00001-of-00003.safetensors"
    )
    index = fake.repository / "model.safetensors.index.json"
    index.write_text(
        index.read_text()
        .replace("model-00001-of", "./weights/model-00001-of")
        .replace("model-00002-of", "./model-00002-of")
    )
    path = convert(NAME, tmp_path / "flat", revision="step3", cache_dir=tmp_path / "cache")
    expected = {f"model-0000{i}-of-00003.safetensors" for i in (2, 3)}
    expected |= {index.name, "weights/model-00001-of-00003.safetensors"}
    assert {name for name in fake.fetched if name.startswith(("model", "weights"))} == expected
    assert expected < set(FlatFile(path).source_digests)


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin"])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_filled_cache_serves_without_network(
    tmp_path: Path, fake: FakeHub, kind: str, tokenizer: bool
) -> None:
    write_checkpoint(fake.repository, kind=kind)
    for name in layout.TEXT_FILES[1:]:
        (fake.repository / name).write_text("{}")
    if not tokenizer:
        (fake.repository / "tokenizer.json").unlink()
    online = hub.resolve(NAME, "step3", tmp_path)
    fake.failure = ConnectionError("no network")
    fake.fetched.clear()
    assert hub.resolve(NAME, "step3", tmp_path) == online
    assert hub.resolve(NAME, "step3", tmp_path, local_files_only=True) == online
    assert hub.resolve(NAME, COMMIT, tmp_path, local_files_only=True) == online
    assert not fake.fetched
    names = {path.name for path in fake.repository.iterdir()}
    assert {path.name for path in online[0].iterdir()} == names


def test_the_hubs_own_library_reads_a_filled_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--tiny-neox"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = write_checkpoint(repository / "snapshots" / COMMIT, kind="sharded")
    assert hub.resolve(NAME, None, tmp_path, local_files_only=True) == (snapshot, COMMIT)
    assert hub.resolve(NAME, COMMIT, tmp_path, local_files_only=True) == (snapshot, COMMIT)
    for name, revision in ((NAME, "step3"), ("someone/else", None)):
        with pytest.raises(FileNotFoundError, match="is not in the cache"):
            hub.resolve(name, revision, tmp_path, local_files_only=True)


@pytest.mark.parametrize("name", ["a--b", "a..b", "someone/model.", "someone/model.git"])
def test_names_that_the_hub_forbids(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match="check the spelling"):
        hub.resolve(name, None, tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (OSError(28, "No space left on device"), "No space left"),
        (RuntimeError("x"), "RuntimeError"),
        (errors.LocalEntryNotFoundError("x"), "connection lost"),
    ],
)
def test_a_download_that_breaks_off(
    tmp_path: Path,
    fake: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    says: str,
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise failure

    write_checkpoint(fake.repository)
    monkeypatch.setattr(download, "hf_hub_download", fail)
    with pytest.raises(ConnectionError, match=rf"cannot fetch config\.json .*\({says}"):
        hub.resolve(NAME, "step3", tmp_path)


def test_an_empty_cache_says_so(tmp_path: Path, fake: FakeHub) -> None:
    with pytest.raises(FileNotFoundError, match=r"not in the cache .* allow downloading once"):
        hub.resolve(NAME, "step3", tmp_path, local_files_only=True)
    fake.failure = ConnectionError("no network")
    with pytest.raises(FileNotFoundError, match=r"does not answer \(ConnectionError\)"):
        hub.resolve(NAME, "step3", tmp_path)


def test_a_half_filled_cache_is_not_enough(tmp_path: Path, fake: FakeHub) -> None:
    write_checkpoint(fake.repository, kind="sharded")
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        hub.resolve(NAME, "step3", tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("failure", "kind", "says"),
    [
        (errors.RevisionNotFoundError, FileNotFoundError, "has no revision 'step3'"),
        (errors.RepositoryNotFoundError, FileNotFoundError, "neither a folder here nor a model"),
        (errors.GatedRepoError, PermissionError, "is gated: accept its terms"),
    ],
)
def test_what_the_hub_refuses(
    tmp_path: Path, fake: FakeHub, failure: type[Exception], kind: type[Exception], says: str
) -> None:
    fake.failure = response_error(failure)
    with pytest.raises(kind, match=says):
        hub.resolve(NAME, "step3", tmp_path)


def test_a_repository_without_weights(tmp_path: Path, fake: FakeHub) -> None:
    fake.repository.mkdir()
    (fake.repository / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="has no weights that can be read"):
        hub.resolve(NAME, "step3", tmp_path)


def test_an_index_cannot_fetch_other_paths(tmp_path: Path, fake: FakeHub) -> None:
    write_checkpoint(fake.repository, kind="sharded")
    index = fake.repository / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../x.safetensors"}}')
    with pytest.raises(CheckpointError, match="not a file of weights in its folder"):
        hub.resolve(NAME, "step3", tmp_path)
    assert not [file for file in fake.fetched if "x" in file.split(".")[0]]


@pytest.mark.parametrize(
    "source", ["no/such/folder", "/no/folder", "", "../x", "a b", "-x/y", "a\n"]
)
def test_what_can_be_neither_folder_nor_hub_id(source: str, fake: FakeHub) -> None:
    if source == "":  # Path("") is the current folder, which holds no checkpoint
        return
    with pytest.raises(FileNotFoundError, match="no folder and no hub id: check the spelling"):
        hub.resolve(source)


def test_folders_are_taken_as_they_are(tmp_path: Path) -> None:
    assert hub.resolve(tmp_path) == (tmp_path, "")
    with pytest.raises(ValueError, match="no revisions: leave revision out"):
        hub.resolve(tmp_path, "main")


def test_snapshots_are_recognised(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b--c" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert hub.identify(snapshot) == ("a/b--c", COMMIT)
    assert hub.identify(tmp_path) == (tmp_path.name, "")


@pytest.mark.parametrize("wanted", [True, False])
def test_the_hubs_progress_bars_are_left_as_they_were(
    tmp_path: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    write_checkpoint(fake.repository)
    states: list[bool] = []

    def spy(*arguments: Any, **options: Any) -> str:
        states.append(are_progress_bars_disabled())
        return fake.download(*arguments, **options)

    monkeypatch.setattr(download, "hf_hub_download", spy)
    before = are_progress_bars_disabled()
    hub.resolve(NAME, "step3", tmp_path, progress=wanted)
    assert set(states) == {before or not wanted}
    assert are_progress_bars_disabled() == before
