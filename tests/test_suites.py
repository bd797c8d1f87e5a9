"""Suites of checkpoints: their steps, on a hub and in a folder, and what is made of one of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from convert_sources import make_tensors, write_checkpoint
from local_hub import LocalHub

import pythia_rt
from pythia_rt import CheckpointError, Model, checkpoints
from pythia_rt.cli import main
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.source import fetch, file_digests, read_ranges
from pythia_rt.convert.source.checkpoint import Checkpoint as SourceCheckpoint
from pythia_rt.convert.source.settings import own_cache
from pythia_rt.convert.source.steps import revision_of, step_of
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.suites import known_steps, model_names

NAME = "someone/tiny"
STEPS = (0, 1, 4, 1000, 3000)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A folder of steps, safetensors and pickles; the first two are the same."""
    for number, step in enumerate(STEPS):
        kind = "bin" if step == 1000 else "safetensors"
        tensors = make_tensors(seed=max(number, 1))
        write_checkpoint(tmp_path / "suite" / f"step{step}", tensors, kind=kind)
    return tmp_path / "suite"


@pytest.fixture
def hub(local_hub: LocalHub, suite: Path) -> LocalHub:
    """A hub that has the suite, and an empty main."""
    for step in STEPS:
        local_hub.add(NAME, f"step{step}", suite / f"step{step}")
    local_hub.add_empty(NAME)
    return local_hub


def weights_of(folder: Path) -> bytes:
    [path] = [p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")]
    return path.read_bytes()


def test_a_hubs_steps(hub: LocalHub, suite: Path) -> None:
    found = checkpoints(NAME)
    assert [c.step for c in found] == sorted(STEPS)
    assert len(hub.requests) == 1 + len(STEPS)
    for checkpoint in found:
        folder = suite / checkpoint.revision
        assert checkpoint.commit == hub.commit(NAME, checkpoint.revision)
        assert checkpoint.files is not None
        assert set(checkpoint.files) == {path.name for path in folder.iterdir()}
        assert checkpoint.bytes == sum(path.stat().st_size for path in folder.iterdir())
    assert checkpoints(NAME) == found
    assert len(hub.requests) == 2 + len(STEPS)  # what a commit holds is known by now
    bare = checkpoints(NAME, files=False)
    assert [(c.step, c.commit, c.files, c.bytes) for c in bare] == [
        (c.step, c.commit, None, None) for c in found
    ]


def test_a_commit_is_asked_about_once(hub: LocalHub) -> None:
    commit = hub.commit(NAME, "step4")
    fetch(NAME, step=4)
    asked = len(hub.requests)
    assert fetch(NAME, commit).name == commit and file_digests(NAME, commit)
    assert len(hub.requests) == asked
    [kept] = (own_cache() / "listings").rglob("*.json")
    for damaged in ("[", "3", '[["a", 1, "../x"]]', '[["a"]]', "{}x"):
        kept.write_text(damaged)
        assert "config.json" in file_digests(NAME, commit)


def test_a_whole_suite_costs_a_request_for_each_step(local_hub: LocalHub) -> None:
    steps = known_steps("EleutherAI/pythia-14m")
    assert steps is not None
    for step in steps:
        files = {"config.json": b"{}", "model.safetensors": str(step).encode()}
        local_hub.add("EleutherAI/pythia-14m", f"step{step}", files)
    found = checkpoints("EleutherAI/pythia-14m")
    assert [c.step for c in found] == steps and len(local_hub.requests) == 155
    assert checkpoints("EleutherAI/pythia-14m") == found and len(local_hub.requests) == 156


def test_a_folders_steps(suite: Path) -> None:
    (suite / "step007").mkdir()
    (suite / "step5").write_text("no folder")
    found = checkpoints(suite)
    assert [(c.step, c.commit) for c in found] == [(step, "") for step in sorted(STEPS)]
    assert found[0].bytes == sum(p.stat().st_size for p in (suite / "step0").iterdir())
    with pytest.raises(ValueError, match="has no folders step0, step1"):
        checkpoints(suite / "step0")


def test_known_schedules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = checkpoints("EleutherAI/pythia-70m-deduped", offline=True, cache_dir=tmp_path)
    assert len(found) == 154
    assert [c.step for c in found][:12] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
    assert (found[-1].step, found[-1].revision, found[-1].commit) == (143000, "step143000", None)
    assert len(known_steps("EleutherAI/pythia-12b-v0") or ()) == 143
    assert len(known_steps("pythia-410m-seed9") or ()) == 154
    assert known_steps("EleutherAI/pythia-intervention-70m-deduped") is None
    assert known_steps("someone/pythia-70m") is None
    names = model_names()
    assert len(names) == len(set(names)) and "EleutherAI/pythia-14m-deduped" in names
    refs = tmp_path / "models--some--body" / "refs"
    refs.mkdir(parents=True)
    (refs / "step8").write_text("a" * 40)
    (refs / "main").write_text("b" * 40)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [one] = checkpoints("some/body", cache_dir=tmp_path)
    assert (one.step, one.commit) == (8, "a" * 40)
    with pytest.raises(FileNotFoundError, match="are not known here: ask the hub once"):
        checkpoints("no/body", cache_dir=tmp_path)


def test_what_cannot_be_listed(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder here nor a model"):
        checkpoints("no/body")
    with pytest.raises(FileNotFoundError, match="no folder and no hub id"):
        checkpoints("no/such/folder")
    hub.add("some/body", "main", {"config.json": b"{}"})
    with pytest.raises(FileNotFoundError, match="has no branches step0"):
        checkpoints("some/body")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="check the network, or pass offline=True"):
        checkpoints(NAME)


def test_steps_and_revisions() -> None:
    assert [step_of(r) for r in ("step0", "step143000", "step01", "main", "step", "step-1")] == [
        0, 143000, None, None, None, None,
    ]  # fmt: skip
    assert revision_of(0) == "step0" and revision_of(np.int64(8)) == "step8"  # type: ignore[arg-type]
    for bad in (-1, True, 1.0, "1"):
        with pytest.raises(ValueError, match="step must be a whole number from 0"):
            revision_of(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 1000, 3000])
def test_either_file_format_of_a_step(hub: LocalHub, suite: Path, out: Path, step: int) -> None:
    remote = FlatFile(convert(NAME, out / "remote", step=step))
    local = FlatFile(convert(suite, out / "local", step=step))
    assert remote.metadata["data_sha256"] == local.metadata["data_sha256"]
    assert remote.metadata["revision"] == hub.commit(NAME, f"step{step}")
    assert (local.metadata["source"], local.metadata["revision"]) == ("suite", f"step{step}")


def test_an_empty_main_means_the_last_step(hub: LocalHub, suite: Path, out: Path) -> None:
    with pytest.warns(UserWarning, match="main of someone/tiny holds no weights: taking step 3000"):
        folder = fetch(NAME)
    assert folder.name == hub.commit(NAME, "step3000")
    with pytest.warns(UserWarning, match="suite holds steps and no checkpoint itself"):
        path = convert(suite, out / "flat")
    assert FlatFile(path).metadata["revision"] == "step3000"
    hub.add_empty("some/body")
    with pytest.raises(CheckpointError, match="has no weights that can be read"):
        fetch("some/body")


@pytest.mark.parametrize(
    ("step", "near"),
    [(2, "the nearest are 1 and 4"), (9999, "the nearest is 3000"), (3001, "the nearest is 3000")],
)
def test_steps_that_do_not_exist(
    hub: LocalHub, suite: Path, out: Path, step: int, near: str
) -> None:
    for source in (NAME, suite):
        with pytest.raises(FileNotFoundError, match=f"has no step {step}: {near}"):
            convert(source, out / "flat", step=step)


def test_options_that_contradict(hub: LocalHub, suite: Path, out: Path) -> None:
    with pytest.raises(ValueError, match="step and revision both name a revision"):
        convert(NAME, out / "flat", step=1, revision="step1")
    with pytest.raises(ValueError, match="is a folder without steps: leave step out"):
        convert(suite / "step0", out / "flat", step=1)
    with pytest.raises(ValueError, match="step must be a whole number"):
        Model.from_pretrained(NAME, step=-1)
    with pytest.raises(ValueError, match="is yours, only what was downloaded is dropped"):
        convert(suite, out / "flat", step=1, keep_source=False)
    with pytest.raises(ValueError, match="is yours, only what was downloaded is dropped"):
        Model.from_pretrained(suite, step=1, keep_source=False)
    assert not list(out.iterdir()) and weights_of(suite / "step1")
    runner = CliRunner()
    for arguments, says in (
        (["convert", str(suite / "step0"), str(out / "x"), "--step", "1"], "leave --step out"),
        (["convert", str(suite / "step0"), str(out / "x"), "--drop-source"], "--drop-source out"),
        (["generate", "x", "--step", "1"], "--step is for hub models and folders of steps"),
    ):
        result = runner.invoke(main, arguments)
        assert result.exit_code and says in result.stderr, result.stderr


def test_a_step_from_the_command_line(hub: LocalHub, suite: Path, out: Path) -> None:
    for step in STEPS[2:]:
        shutil.rmtree(suite / f"step{step}")
    (suite / "step5").symlink_to(DEMO_FOLDER)
    hub.add("some/demo", "step5", DEMO_FOLDER)
    runner = CliRunner()
    texts = set()
    for model in (str(suite), "some/demo"):
        options = ["--step", "5", "--max-new-tokens", "4", "--temperature", "0", "--quiet"]
        result = runner.invoke(main, ["generate", "The", "--model", model, *options])
        assert result.exit_code == 0, result.stderr
        texts.add(result.stdout)
    assert len(texts) == 1
    book = out / "book.txt"
    book.write_text("The kernel reads the page. " * 5)
    flat = convert("some/demo", out / "flat", step=5, format="f32")
    command = ["evaluate", str(flat), "--text", str(book), "--reference", "some/demo"]
    result = runner.invoke(main, [*command, "--step", "5", "--json", "--quiet"])
    assert result.exit_code == 0, result.stderr


def test_the_command_that_lists(hub: LocalHub, suite: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(main, ["checkpoints", NAME])
    lines = shown.stdout.splitlines()
    assert len(lines) == len(STEPS)
    assert lines[3].split()[:2] == ["1000", hub.commit(NAME, "step1000")[:12]]
    assert "pytorch_model.bin" in lines[3] and "model.safetensors" in lines[4]
    found = json.loads(runner.invoke(main, ["checkpoints", str(suite), "--json"]).stdout)
    assert [c["step"] for c in found] == sorted(STEPS)
    assert found[0].keys() == {"step", "revision", "commit", "files", "bytes"}
    known = runner.invoke(main, ["checkpoints", "EleutherAI/pythia-1b", "--offline"])
    assert len(known.stdout.splitlines()) == 154


def cached_weights(tmp_path: Path) -> list[str]:
    blobs = tmp_path / "hub" / "models--someone--tiny" / "blobs"
    return sorted(path.name for path in blobs.iterdir() if len(path.name) == 64)


def test_a_source_is_dropped_when_it_is_converted(hub: LocalHub, tmp_path: Path, out: Path) -> None:
    convert(NAME, out / "3000", step=3000, keep_source=False)
    assert not cached_weights(tmp_path)
    # Steps 0 and 1 are one content: it stays as long as another snapshot has it.
    fetch(NAME, step=1)
    convert(NAME, out / "0", step=0, keep_source=False)
    assert len(cached_weights(tmp_path)) == 1
    convert(NAME, out / "1", step=1, keep_source=False)
    assert not cached_weights(tmp_path)
    with pytest.raises(FileExistsError):
        convert(NAME, out / "3000", step=3000, keep_source=False)


def test_a_source_is_dropped_under_another_reader(hub: LocalHub, tmp_path: Path, out: Path) -> None:
    """Another conversion has the files open, and reads on."""
    with SourceCheckpoint(fetch(NAME, step=4)) as reading:
        convert(NAME, out / "4", step=4, keep_source=False)
        assert not cached_weights(tmp_path)
        for tensor in reading.tensors.values():
            if tensor.shape:
                tensor.read_rows(0, tensor.shape[0], memoryview(bytearray(tensor.nbytes)))
    convert(NAME, out / "4 again", step=4)
    assert (out / "4 again").read_bytes() == (out / "4").read_bytes()


def test_a_dropped_source_is_not_fetched_again(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, "step7", DEMO_FOLDER)
    model = Model.from_pretrained(NAME, step=7, keep_source=False, progress=False)
    assert not cached_weights(tmp_path)
    sent = hub.sent("*model.safetensors")
    again = Model.from_pretrained(NAME, step=7, progress=False)
    assert again.file.path == model.file.path and hub.sent("*model.safetensors") == sent
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://127.0.0.1:9")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            found = Model.from_pretrained(NAME, step=7, progress=False)
            assert found.file.path == model.file.path
    # Another format needs the source again, and leaves it if it is not told otherwise.
    Model.from_pretrained(NAME, step=7, format="q8", progress=False)
    assert hub.sent("*model.safetensors") == 2 * sent and len(cached_weights(tmp_path)) == 1
    Model.from_pretrained(NAME, step=7, format="q8", keep_source=False, progress=False)
    assert not cached_weights(tmp_path)
    # Where the flat file is gone, or the note of it, the source is fetched as at first.
    for path in (tmp_path / "flat-cache" / "flat").glob("*.safetensors"):
        path.unlink()
    Model.from_pretrained(NAME, step=7, keep_source=False, progress=False)
    [note] = (tmp_path / "flat-cache" / "dropped").rglob("*.json")
    note.write_text("[")
    Model.from_pretrained(NAME, step=7, progress=False)
    assert hub.sent("*model.safetensors") == 4 * sent


def test_a_dropped_source_may_be_another_step(hub: LocalHub) -> None:
    hub.add(NAME, "step7", DEMO_FOLDER)
    hub.add(NAME, "step8", DEMO_FOLDER)
    Model.from_pretrained(NAME, step=7, keep_source=False, progress=False)
    file = Model.from_pretrained(NAME, step=8, progress=False).file
    assert file.metadata["revision"] == hub.commit(NAME, "step8")


def test_digests_cost_one_request(hub: LocalHub) -> None:
    first, second = file_digests(NAME, "step0"), file_digests(NAME, "step1")
    assert len(hub.requests) == 2
    name = "model.safetensors"
    assert first[name] == second[name] and first[name].sha256 == first[name].digest
    assert first["config.json"].sha256 is None
    assert file_digests(NAME, "step3000")[name] != first[name]


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_of_files(hub: LocalHub, suite: Path, ranges: bool) -> None:
    hub.ranges = ranges
    data = weights_of(suite / "step3000")
    wanted = [(0, 8), (len(data) - 5, len(data)), (100, 100), (4, 90000), (90010, 90020)]
    found = read_ranges(NAME, "step3000", "model.safetensors", wanted)
    assert found == [data[begin:end] for begin, end in wanted]
    assert hub.count("resolve") == (2 if len(data) - 90020 > 1 << 16 else 1)
    hub.fail("*model.safetensors", 503, times=2)
    hub.cut("*model.safetensors", 3)
    assert read_ranges(NAME, "step3000", "model.safetensors", [(5, 50)]) == [data[5:50]]
    for bad in ((0, len(data) + 1), (len(data) + 5, len(data) + 9)):
        with pytest.raises(CheckpointError, match=r"shorter, or not there|ends before byte"):
            read_ranges(NAME, "step3000", "model.safetensors", [bad])
    with pytest.raises(CheckpointError, match="shorter, or not there"):
        read_ranges(NAME, "step3000", "none", [(0, 1)])
    with pytest.raises(ValueError, match="is no range"):
        read_ranges(NAME, "step3000", "model.safetensors", [(2, 1)])


def test_the_names_are_public() -> None:
    assert pythia_rt.Checkpoint(3, "step3").bytes is None
