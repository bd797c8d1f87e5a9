"""from_pretrained converts once: what the key depends on, and what happens on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import pythia_rt.cache
from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.convert import FlatFile
from pythia_rt.convert.flatfile.layout import TEXT_FILES
from pythia_rt.model import DEMO_FOLDER

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "source"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats of all conversions made."""
    made: list[str] = []
    convert = pythia_rt.cache.convert

    def counting(*args: Any, **options: Any) -> Path:
        made.append(options["format"])
        return convert(*args, **options)

    monkeypatch.setattr(pythia_rt.cache, "convert", counting)
    return made


def load(source: str | Path, cache: Path, **options: Any) -> Model:
    return Model.from_pretrained(source, cache_dir=cache, progress=False, **options)


def flat_files(cache: Path) -> list[Path]:
    return sorted((cache / "flat").glob("*.safetensors"))


def hub_cache(root: Path) -> Path:
    """A filled cache of the hub's library, with one commit of someone/tiny; returns its blobs."""
    repository = root / "models--someone--tiny"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file in DEMO_FOLDER.iterdir():
        if file.name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copy(file, blobs / f"digest-of-{file.stem}")
            (snapshot / file.name).symlink_to(Path("../../blobs") / f"digest-of-{file.stem}")
    return blobs


def test_the_second_call_reads_no_weights(
    folder: Path, cache: Path, conversions: list[str]
) -> None:
    text = load(folder, cache).generate("The", temperature=0).text
    # Same name, size and time, other bytes: whoever read them would notice.
    weights = folder / "model.safetensors"
    before = weights.stat()
    weights.write_bytes(b"\0" * before.st_size)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load(folder, cache).generate("The", temperature=0).text == text
    assert conversions == ["q4"]
    assert len(flat_files(cache)) == 1


def test_what_makes_another_file(folder: Path, cache: Path, conversions: list[str]) -> None:
    load(folder, cache)
    load(folder, cache, format="q8")
    assert conversions == ["q4", "q8"]
    (folder / "README.md").write_text("of no account")
    load(folder, cache)
    assert len(conversions) == 2
    os.utime(folder / "model.safetensors", ns=(1, 1))
    load(folder, cache)
    assert len(conversions) == 3
    config = folder / "config.json"
    before = config.stat()
    config.write_text(config.read_text().replace('"gelu"', '"relu"').replace("relu", "gelu"))
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    load(folder, cache)
    assert len(conversions) == 3
    config.write_text(config.read_text().replace("1e-05", "2e-05"))
    os.utime(config, ns=(before.st_atime_ns, before.st_mtime_ns))
    load(folder, cache)
    assert len(conversions) == 4 == len(flat_files(cache))


@pytest.mark.parametrize("name", TEXT_FILES[1:])
def test_what_says_how_text_is_made_makes_another_file(
    folder: Path, cache: Path, conversions: list[str], name: str
) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    load(folder, cache)
    for content in ('{"x": 1}', '{"x": 2}'):  # of one size and, it may be, of one time
        path.write_text(content)
        os.utime(path, ns=(1, 1))
        load(folder, cache)
        load(folder, cache)
    assert len(conversions) == 3


def test_another_tokenizer_model_makes_another_file(
    folder: Path, cache: Path, conversions: list[str]
) -> None:
    (folder / "README.txt").write_text("read by nobody")
    load(folder, cache)
    (folder / "README.txt").write_text("me neither")
    load(folder, cache)
    assert len(conversions) == 1
    (folder / "tokenizer.model").write_bytes(b"not read beside a tokenizer.json")
    load(folder, cache)
    assert len(conversions) == 2


def test_another_version_of_the_package_converts_again(
    folder: Path, cache: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder, cache)
    monkeypatch.setattr(pythia_rt, "__version__", "9.9.9")
    load(folder, cache)
    assert len(conversions) == 2


def test_a_filled_hub_cache_serves_offline(cache: Path, conversions: list[str]) -> None:
    blobs = hub_cache(cache)
    for revision in (None, "main", COMMIT):
        load("someone/tiny", cache, revision=revision, local_files_only=True)
    assert conversions == ["q4"]
    [path] = flat_files(cache)
    assert path.name.startswith("someone--tiny-q4-")
    metadata = FlatFile(path).metadata
    assert (metadata["source"], metadata["revision"]) == ("someone/tiny", COMMIT)
    # In a snapshot the blob's name is its digest: times, which copying changes, do not count.
    os.utime(blobs / "digest-of-model", ns=(1, 1))
    load("someone/tiny", cache, local_files_only=True)
    assert conversions == ["q4"]


def test_a_revision_from_the_command_line(cache: Path) -> None:
    hub_cache(cache)
    command = ["generate", "The", "--model", "someone/tiny", "--cache-dir", str(cache)]
    command += ["--local-files-only", "--quiet", "--max-new-tokens", "3", "--revision"]
    found = CliRunner().invoke(main, [*command, "main"])
    assert (found.exit_code, found.stderr) == (0, "")
    missing = CliRunner().invoke(main, [*command, "step9"])
    assert missing.exit_code == 1
    assert "someone/tiny is not in the cache at revision step9" in missing.stderr


def test_progress_is_shown_when_wanted(
    folder: Path, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(folder, cache)
    assert capfd.readouterr() == ("", "")
    Model.from_pretrained(folder, cache_dir=cache, format="q8")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "converting" in shown.err


def test_what_is_not_in_the_cache_is_not_there_offline(cache: Path) -> None:
    with pytest.raises(FileNotFoundError, match="someone/missing is not in the cache"):
        load("someone/missing", cache, local_files_only=True)


def test_bad_arguments_are_found_before_anything_is_fetched(cache: Path) -> None:
    for bad in ({"format": "q3"}, {"threads": 0}, {"kv_format": "f8"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            load("someone/missing", cache, local_files_only=True, **bad)  # type: ignore[arg-type]


def test_a_revision_of_a_folder_is_refused(folder: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match="is a folder, which has no revisions"):
        load(folder, cache, revision="step1")


def test_a_damaged_cache_entry_is_replaced(
    folder: Path, cache: Path, conversions: list[str]
) -> None:
    load(folder, cache)
    [path] = flat_files(cache)
    os.truncate(path, 1000)
    assert load(folder, cache).generate("The", temperature=0).text
    assert len(conversions) == 2


def test_a_damaged_cache_entry_that_is_a_link_stays_one(
    folder: Path, cache: Path, tmp_path: Path, conversions: list[str]
) -> None:
    load(folder, cache)
    [path] = flat_files(cache)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    load(folder, cache)
    assert len(conversions) == 1
    os.truncate(tmp_path / "elsewhere", 1000)
    load(folder, cache)
    (tmp_path / "elsewhere").unlink()
    load(folder, cache)
    assert len(conversions) == 3
    assert path.is_symlink()
    FlatFile(tmp_path / "elsewhere").verify()


@pytest.mark.parametrize(("kind", "said"), [("pipe", "is a named pipe"), ("folder", "is a folder")])
def test_what_is_no_file_in_the_cache_stays(
    folder: Path, cache: Path, kind: str, said: str
) -> None:
    load(folder, cache)
    [path] = flat_files(cache)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(OSError, match=said):
        load(folder, cache)
    assert path.is_fifo() if kind == "pipe" else path.is_dir()


@pytest.mark.parametrize("name", ["x" * 255, "\u4e2d" * 85, os.fsdecode(b"\xff" * 200)])
def test_a_source_with_a_long_or_foreign_name(
    folder: Path, cache: Path, conversions: list[str], name: str
) -> None:
    moved = folder.rename(folder.with_name(name))
    text = load(moved, cache).generate("The", temperature=0).text
    assert load(moved, cache).generate("The", temperature=0).text == text
    assert conversions == ["q4"]


def test_two_processes_convert_once(folder: Path, cache: Path) -> None:
    script = (
        "import sys, pythia_rt.cache as c; from pythia_rt import Model; real = c.convert\n"
        "def convert(*a, **k): print('converting', flush=True); return real(*a, **k)\n"
        "c.convert = convert\n"
        "m = Model.from_pretrained(sys.argv[1], cache_dir=sys.argv[2], progress=False, threads=1)\n"
        "print(m.generate('The', temperature=0, max_new_tokens=5).tokens)"
    )
    command = [sys.executable, "-c", script, str(folder), str(cache)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=cache.parent)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=300)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len({output[-1] for output in outputs}) == 1
    assert sum("converting" in output for output in outputs) == 1
    left = [path.name for path in (cache / "flat").iterdir() if path.suffix != ".lock"]
    assert len(left) == 1


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PYTHIA_RT_CACHE", raising=False)
    Model.demo()
    assert flat_files(tmp_path / "home/.cache/pythia_rt")
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(tmp_path / "variable"))
    Model.demo()
    assert flat_files(tmp_path / "variable")
    Model.demo(cache_dir=tmp_path / "argument")
    assert flat_files(tmp_path / "argument")


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(OSError, match="file"):
        load(folder, blocked)
    with pytest.warns(UserWarning, match="the cache cannot be written") as caught:
        model = Model.demo(cache_dir=blocked)
    assert len(caught) == 1
    assert model.generate("The", temperature=0, max_new_tokens=4).tokens


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHIA_RT_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError()))
    with pytest.raises(OSError, match=r"this user has no home: set PYTHIA_RT_CACHE$"):
        pythia_rt.cache.cache_folder(None)


def test_a_cache_that_can_be_written_brings_no_warning(cache: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.demo(cache_dir=cache)
