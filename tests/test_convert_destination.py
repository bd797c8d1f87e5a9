"""Writing the flat file: whatever goes wrong, the destination is whole, as it was, or absent."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from convert_sources import (
    KINDS,
    make_tensors,
    write_checkpoint,
)

from pythia_rt.convert import CheckpointError, FlatFile, conversion, convert
from pythia_rt.convert.quantise import weights


def test_an_existing_destination_needs_force(source: Path, out: Path) -> None:
    (out / "flat").write_text("precious")
    with pytest.raises(FileExistsError, match="exists: choose another name or pass force=True"):
        convert(source, out / "flat")
    assert (out / "flat").read_text() == "precious"
    FlatFile(convert(source, out / "flat", force=True)).verify()
    assert os.listdir(out) == ["flat"]  # noqa: PTH208


def test_a_destination_that_appears_meanwhile_is_kept(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = weights.pack_chunk

    def slow(*arguments: Any) -> Any:
        (out / "flat").write_text("precious")
        return pack(*arguments)

    monkeypatch.setattr(conversion, "pack_chunk", slow)
    with pytest.raises(FileExistsError):
        convert(source, out / "flat")
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("flat", "precious")]


def test_a_failure_keeps_what_force_would_replace(tmp_path: Path, out: Path) -> None:
    tensors = make_tensors()
    tensors["embed_out.weight"][0] = float("nan")
    (out / "flat").write_text("precious")
    with pytest.raises(CheckpointError):
        convert(write_checkpoint(tmp_path / "s", tensors), out / "flat", force=True)
    assert [(p.name, p.read_text()) for p in out.iterdir()] == [("flat", "precious")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_source_is_never_overwritten(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "s", kind=kind)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for path in before:
        with pytest.raises(ValueError, match="is a file of the source"):
            convert(folder, path, force=True)
        for link in (Path.hardlink_to, Path.symlink_to):
            (tmp_path / "link").unlink(missing_ok=True)
            link(tmp_path / "link", path)
            with pytest.raises(ValueError, match="is a file of the source"):
                convert(folder, tmp_path / "link", force=True)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_new_file_in_the_source_s_folder(source: Path) -> None:
    before = {path: path.read_bytes() for path in source.iterdir()}
    flat = convert(source, source / "flat")
    FlatFile(flat).verify()
    assert {path: path.read_bytes() for path in source.iterdir() if path != flat} == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_an_unwritable_destination(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # Root may write anywhere, so the system's answer is imitated.
    def refuse_creation(path: Any, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(code, os.strerror(code), str(path))
        return open_file(path, flags, *mode)

    open_file = os.open
    monkeypatch.setattr(os, "open", refuse_creation)
    with pytest.raises(OSError, match=r"cannot write in .*: choose another folder") as error:
        convert(source, out / "flat")
    assert error.value.errno == code
    assert not str(error.value).startswith("[Errno")


# Full disks, interrupts; kills are in test_partial.py.


def test_a_disk_that_is_too_small_is_noticed_first(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"needs .* MB and its disk has 0 MB: free some") as error:
        convert(source, out / "flat")
    assert error.value.errno == errno.ENOSPC
    assert not list(out.iterdir())


@pytest.mark.parametrize("step", range(1, 40, 3))
def test_a_disk_that_fills_up_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    write, calls = os.write, 0

    def full(descriptor: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"cannot write .*flat .*: free some space") as error:
        convert(source, out / "flat")
    assert error.value.errno == errno.ENOSPC
    assert not list(out.iterdir())


@pytest.mark.parametrize("function", ["pwrite", "fsync"])
def test_a_failure_at_the_very_end_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fail(*_: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="Input/output error"):
        convert(source, out / "flat")
    assert not list(out.iterdir())


def test_short_writes_are_continued(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = convert(source, out / "whole").read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:1000]))
    assert convert(source, out / "pieces").read_bytes() == whole


@pytest.mark.parametrize(
    "where",
    ["conversion.pack_chunk", "conversion.FlatFileWriter.finish", "opening.resolve_text"],
)
def test_an_interrupt_leaves_nothing(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pythia_rt.convert.{where}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out / "flat")
    assert not list(out.iterdir())


LIMITED = """
import resource, sys
from pythia_rt.convert import convert
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    convert(sys.argv[1], sys.argv[2])
except OSError as error:
    print(error)
    sys.exit(1)
"""


def test_a_file_size_limit_leaves_nothing(source: Path, out: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(source), str(out / "flat")]
    child = subprocess.run(command, capture_output=True, text=True, cwd=out)
    assert child.returncode == 1, child.stderr
    assert "cannot write" in child.stdout
    assert "File too large" in child.stdout
    assert not list(out.iterdir())


def test_the_digest_thread_reports_and_ends(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    def fail(*_: Any) -> str:
        raise OSError(errno.EIO, "Input/output error")

    before = threading.active_count()
    monkeypatch.setattr("pythia_rt.convert.source.digests.sha256_of", fail)
    with pytest.raises(OSError, match="Input/output error"):
        convert(source, out / "flat")
    assert not list(out.iterdir())
    assert threading.active_count() == before
