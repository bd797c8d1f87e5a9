"""Sources of the hub: only what is needed is fetched, a filled cache serves without network."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from convert_sources import write_checkpoint
from huggingface_hub.utils import enable_progress_bars
from local_hub import LocalHub

from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.flatfile import layout
from pythia_rt.convert.source import digests, hub, verified

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-neox"
NOWHERE = "http://127.0.0.1:9"


class Repository:
    """A folder, and what it holds as the branch step3 of a model."""

    def __init__(self, served: LocalHub, folder: Path) -> None:
        self.served = served
        self.folder = folder

    def serve(self) -> None:
        """Let the hub have what the folder holds now."""
        self.served.add(NAME, "step3", self.folder, COMMIT)

    @property
    def fetched(self) -> list[str]:
        """The files that were asked for, in order."""
        asked = [r.path.partition(f"/resolve/{COMMIT}/")[2] for r in self.served.requests]
        return [name for name in asked if name]


@pytest.fixture
def fake(local_hub: LocalHub, tmp_path: Path) -> Repository:
    return Repository(local_hub, tmp_path / "repository")


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin"])
def test_only_what_is_needed_is_fetched(tmp_path: Path, fake: Repository, kind: str) -> None:
    write_checkpoint(fake.folder, kind=kind)
    for number, name in enumerate(layout.TEXT_FILES[1:]):  # all that say what text is made by
        (fake.folder / name).write_text("{}" + number * " ")  # equal files are fetched once
    expected = {path.name for path in fake.folder.iterdir()}
    for surplus in ("README.md", "flax_model.msgpack", "vocab.json", "merges.txt"):
        (fake.folder / surplus).write_text("")
    if kind in ("safetensors", "sharded"):  # the pickle beside it stays where it is
        (fake.folder / "pytorch_model.bin").write_text("")
    fake.serve()
    path = convert(NAME, tmp_path / "flat", revision="step3", cache_dir=tmp_path / "cache")
    assert set(fake.fetched) == expected
    file = FlatFile(path)
    assert (file.metadata["source"], file.metadata["revision"]) == (NAME, COMMIT)
    local = convert(fake.folder, tmp_path / "local")
    assert FlatFile(local).metadata["data_sha256"] == file.metadata["data_sha256"]


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_what_a_tokenizer_is_built_of_is_fetched_where_there_is_none(
    tmp_path: Path, fake: Repository, has_tokenizer: bool
) -> None:
    write_checkpoint(fake.folder)
    for name in layout.TOKENIZER_SOURCES:
        (fake.folder / name).write_text(name)
    if not has_tokenizer:
        (fake.folder / "tokenizer.json").unlink()
    fake.serve()
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    assert folder.is_dir()
    assert (set(layout.TOKENIZER_SOURCES) < set(fake.fetched)) is not has_tokenizer
    assert fake.fetched.count("tokenizer.json") == has_tokenizer


def test_shards_are_fetched_from_where_the_index_says(tmp_path: Path, fake: Repository) -> None:
    write_checkpoint(fake.folder, kind="sharded")
    (fake.folder / "weights").mkdir()
    (fake.folder / "model-00001-of-00003.safetensors").rename(
        fake.folder / "weights" / "model-00001-of-00003.safetensors"
    )
    index = fake.folder / "model.safetensors.index.json"
    index.write_text(
        index.read_text()
        .replace("model-00001-of", "./weights/model-00001-of")
        .replace("model-00002-of", "./model-00002-of")
    )
    fake.serve()
    path = convert(NAME, tmp_path / "flat", revision="step3", cache_dir=tmp_path / "cache")
    expected = {f"model-0000{i}-of-00003.safetensors" for i in (2, 3)}
    expected |= {index.name, "weights/model-00001-of-00003.safetensors"}
    assert {name for name in fake.fetched if name.startswith(("model", "weights"))} == expected
    assert expected < set(FlatFile(path).source_digests)


@pytest.mark.parametrize("kind", ["safetensors", "sharded", "bin", "sharded bin"])
@pytest.mark.parametrize("tokenizer", [True, False])
def test_a_filled_cache_serves_without_network(
    tmp_path: Path,
    fake: Repository,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    tokenizer: bool,
) -> None:
    write_checkpoint(fake.folder, kind=kind)
    for name in layout.TEXT_FILES[1:]:
        (fake.folder / name).write_text("{}")
    if not tokenizer:
        (fake.folder / "tokenizer.json").unlink()
    fake.serve()
    online = hub.resolve(NAME, "step3", tmp_path)
    fake.served.requests.clear()
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert hub.resolve(NAME, "step3", tmp_path) == online
    assert hub.resolve(NAME, "step3", tmp_path, local_files_only=True) == online
    assert hub.resolve(NAME, COMMIT, tmp_path, local_files_only=True) == online
    assert not fake.fetched
    names = {path.name for path in fake.folder.iterdir()}
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


def test_an_empty_cache_says_so(
    tmp_path: Path, fake: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"not in the cache .* allow downloading once"):
        hub.resolve(NAME, "step3", tmp_path, local_files_only=True)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(FileNotFoundError, match=r"does not answer \(ConnectError\)"):
        hub.resolve(NAME, "step3", tmp_path)


def test_a_half_filled_cache_is_not_enough(tmp_path: Path, fake: Repository) -> None:
    write_checkpoint(fake.folder, kind="sharded")
    fake.serve()
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="not in the cache"):
        hub.resolve(NAME, "step3", tmp_path, local_files_only=True)


def test_what_the_hub_refuses(tmp_path: Path, fake: Repository) -> None:
    write_checkpoint(fake.folder)
    fake.serve()
    with pytest.raises(FileNotFoundError, match="has no revision 'other'"):
        hub.resolve(NAME, "other", tmp_path)
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a model"):
        hub.resolve("no/body", "step3", tmp_path)
    fake.served.gated.add(NAME)
    with pytest.raises(PermissionError, match="is gated: accept its terms"):
        hub.resolve(NAME, "step3", tmp_path)


def test_a_repository_without_weights(tmp_path: Path, fake: Repository) -> None:
    fake.folder.mkdir()
    (fake.folder / "config.json").write_text("{}")
    fake.serve()
    with pytest.raises(CheckpointError, match="has no weights that can be read"):
        hub.resolve(NAME, "step3", tmp_path)


def test_an_index_cannot_fetch_other_paths(tmp_path: Path, fake: Repository) -> None:
    write_checkpoint(fake.folder, kind="sharded")
    index = fake.folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../x.safetensors"}}')
    fake.serve()
    with pytest.raises(CheckpointError, match="not a file of weights in its folder"):
        hub.resolve(NAME, "step3", tmp_path)
    assert not [file for file in fake.fetched if "x" in file.split(".")[0]]


@pytest.mark.parametrize(
    "source", ["no/such/folder", "/no/folder", "", "../x", "a b", "-x/y", "a\n"]
)
def test_what_can_be_neither_folder_nor_hub_id(source: str, fake: Repository) -> None:
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
def test_progress_is_shown_where_it_is_wanted(
    tmp_path: Path, fake: Repository, capsys: pytest.CaptureFixture[str], wanted: bool
) -> None:
    enable_progress_bars()  # another test of this process may have made transformers show none
    write_checkpoint(fake.folder, kind="sharded")
    fake.serve()
    hub.resolve(NAME, "step3", tmp_path, progress=wanted)
    shown = capsys.readouterr()
    assert not shown.out
    assert ("fetching tiny-neox: 100%" in shown.err) is wanted


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", "is damaged, its SHA-256 is not the hub's: delete"),
        (
            "config.json",
            "damaged or was edited, its digest is not the hub's: delete",
        ),
    ],
)
def test_a_blob_that_is_damaged_is_not_converted(
    tmp_path: Path, fake: Repository, name: str, says: str
) -> None:
    """As another tool may have left it, or a disk."""
    write_checkpoint(fake.folder)
    fake.serve()
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    blob = (folder / name).resolve()
    data = bytearray(blob.read_bytes())
    if name == "config.json":
        data += b" "  # which changes nothing that can be seen
    else:
        data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(CheckpointError, match=says):
        convert(folder, tmp_path / "flat")
    assert not (tmp_path / "flat").exists()
    blob.unlink()
    folder, _ = hub.resolve(NAME, "step3", tmp_path)
    assert convert(folder, tmp_path / "flat").exists()


@pytest.fixture
def read_for_digests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names: list[str] = []
    real = digests.sha256_of

    def noted(path: Path, stopped: Callable[[], bool]) -> str:
        names.append(path.name)
        return real(path, stopped)

    monkeypatch.setattr(digests, "sha256_of", noted)
    return names


@pytest.mark.parametrize("kind", ["safetensors", "sharded bin"])
def test_what_was_just_verified_is_not_hashed_again(
    tmp_path: Path, fake: Repository, read_for_digests: list[str], kind: str
) -> None:
    write_checkpoint(fake.folder, kind=kind)
    weights = {p.name for p in fake.folder.iterdir() if p.suffix in (".safetensors", ".bin")}
    fake.serve()
    made = convert(NAME, tmp_path / "flat", revision="step3", cache_dir=tmp_path / "cache")
    assert "config.json" in read_for_digests
    assert not weights & set(read_for_digests)
    local = convert(fake.folder, tmp_path / "local")
    assert weights < set(read_for_digests)
    assert FlatFile(made).source_digests == FlatFile(local).source_digests


@pytest.mark.parametrize("how", ["in place", "at once", "at the same time", "another file"])
def test_what_was_written_since_is_hashed_again(tmp_path: Path, fake: Repository, how: str) -> None:
    """Whatever its size and its times say."""
    write_checkpoint(fake.folder)
    fake.serve()
    for turn in range(20 if how == "at once" else 1):  # within one tick of the clock
        folder, _ = hub.resolve(NAME, "step3", tmp_path / str(turn))
        blob = (folder / "model.safetensors").resolve()
        before = blob.stat()
        assert verified.known_sha256(blob) == blob.name
        if how == "another file":
            other = tmp_path / "other"
            other.write_bytes(blob.read_bytes())
            os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
            other.replace(blob)
        else:
            with blob.open("r+b") as stream:
                stream.seek(-1, os.SEEK_END)
                stream.write(b"?")
        if how == "at the same time":
            os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert blob.stat().st_size == before.st_size
        assert verified.known_sha256(blob) is None
