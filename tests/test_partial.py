"""Hidden files: what a killed process leaves goes with the next one that writes in the folder."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from convert_sources import make_config

from bench import checkpoint
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.files import partial
from pythia_rt.convert.files.atomic import new_folder, write_file

CHILD = """
import os, signal, sys, time
source, destination, function, call, when, force = sys.argv[1:]
# A shell's background jobs inherit that interrupts are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import fcntl
import pythia_rt.convert.conversion as conversion
module = {"flock": fcntl, "pack_chunk": conversion}.get(function, os)
real, calls = getattr(module, function), 0
def stop():
    if when == "wait":
        print("waiting", flush=True)
        time.sleep(3600)
    else:
        os.kill(os.getpid(), signal.SIGKILL)
def hooked(*arguments, **options):
    global calls
    calls += 1
    if calls == int(call) and when != "after":
        stop()
    found = real(*arguments, **options)
    if calls == int(call) and when == "after":
        stop()
    return found
setattr(module, function, hooked)
conversion.convert(source, destination, force=force == "force")
"""


def start(
    source: Path, out: Path, function: str, call: int, when: str, force: str = ""
) -> subprocess.Popen[str]:
    """Start a conversion that stops before or after the given call of a function."""
    arguments = [str(source), str(out / "flat"), function, str(call), when, force]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=out,  # -c puts it first on the path, and no package may lie there
    )
    assert child.stdout is not None
    if when == "wait" and child.stdout.readline() != "waiting\n":
        raise AssertionError(child.communicate()[1])
    return child


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leave(out: Path, system: str | None = None, is_folder: bool = False) -> Path:
    """What a killed process left: nobody holds the lock."""
    path, descriptor = partial.create(out, is_folder=is_folder)
    os.close(descriptor)
    if system is not None:
        path = path.rename(out / re.sub("-[0-9a-f]{8}-", f"-{system}-", path.name))
    return path


# Kills

MOMENTS = [
    ("flock", 1, "before", "", 1),  # it has a name and no lock yet
    ("flock", 1, "after", "", 1),
    ("write", 1, "before", "", 1),
    ("write", 20, "after", "", 1),
    ("pwrite", 1, "after", "", 1),
    ("fsync", 1, "after", "", 1),
    ("link", 1, "before", "", 1),
    ("link", 1, "after", "", 2),  # the file has both its names
    ("fsync", 2, "before", "force", 1),  # published
]


@pytest.mark.parametrize(("function", "call", "when", "force", "left"), MOMENTS)
def test_a_kill_at_any_moment(
    source: Path, out: Path, function: str, call: int, when: str, force: str, left: int
) -> None:
    with start(source, out, function, call, when, force) as child:
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert len(names(out)) == left
    published = (out / "flat").exists()
    assert published == ((function, call, when) in (("link", 1, "after"), ("fsync", 2, "before")))
    if published:
        FlatFile(out / "flat").verify()
    # At once, and under another name: what was left goes, and it alone.
    convert(source, out / "other", format="q8")
    assert names(out) == (["flat", "other"] if published else ["other"])


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_kill_leaves_no_destination(source: Path, out: Path, kill: signal.Signals) -> None:
    with start(source, out, "pack_chunk", 3, "wait") as child:
        begun = names(out)
        child.send_signal(kill)
        child.communicate()
    assert len(begun) == 1  # it had begun, hidden
    assert begun[0].startswith(".pythia_rt-")
    assert names(out) == ([] if kill == signal.SIGINT else begun)
    write_file(out / "notes", b"any file that we write")
    assert names(out) == ["notes"]


def test_a_kill_keeps_what_force_would_replace(source: Path, out: Path) -> None:
    (out / "flat").write_text("precious")
    with start(source, out, "pack_chunk", 3, "now", "force") as child:
        child.communicate()
    assert (out / "flat").read_text() == "precious"
    convert(source, out / "flat", force=True)
    assert names(out) == ["flat"]


def test_a_link_s_leftovers_are_where_it_leads(source: Path, out: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "flat").symlink_to(elsewhere / "target")
    with start(source, out, "pack_chunk", 3, "now", "force") as child:
        child.communicate()
    assert names(out) == ["flat"]
    assert len(names(elsewhere)) == 1
    convert(source, out / "flat", force=True)
    assert (names(out), names(elsewhere)) == (["flat"], ["target"])


# Several at once


def test_two_conversions_at_once_do_not_disturb_each_other(source: Path, out: Path) -> None:
    with start(source, out, "pack_chunk", 3, "wait") as child:
        for name in ("flat", "other"):
            convert(source, out / name)
        # The other's file is locked, so it was not taken for abandoned.
        assert len(names(out)) == 3
        child.send_signal(signal.SIGINT)
        child.communicate()
    assert names(out) == ["flat", "other"]


def test_one_that_has_no_lock_yet_begins_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the file between its creation and its lock."""
    flock, removed = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not removed:
            [path] = out.iterdir()
            removed.append(path)
            partial.remove_abandoned(out)
            assert not path.exists()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    write_file(out / "it", b"content")
    assert removed
    assert (out / "it").read_bytes() == b"content"
    assert names(out) == ["it"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_one_that_is_just_being_removed_begins_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    """Another process has it locked in order to remove it."""
    flock, tried = fcntl.flock, []

    def busy(descriptor: int, operation: int) -> None:
        tried.append(descriptor)
        if len(tried) == 1:
            raise BlockingIOError
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", busy)
    path, descriptor = partial.create(out, is_folder=is_folder)
    os.close(descriptor)
    assert path.exists()
    assert len(tried) == 2


def test_many_at_once(out: Path) -> None:
    def write(number: int) -> None:
        leave(out)
        write_file(out / f"{number}", b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    partial.remove_abandoned(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        f"{n}": b"%d" % n for n in range(200)
    }


# What stays


def test_files_of_others_stay(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = leave(out).name
    others = [
        ".flat.123456789abc.partial",
        "download.partial",
        ours[1:],
        ours + "~",
        ours.replace("pythia_rt", "python_rt"),
        ours.replace("-", "_"),
        ours.removesuffix(".partial"),
        ours.replace(".partial", ".PARTIAL"),
    ]
    past = time.time() - 30 * 24 * 3600
    for name in others:
        (out / name).write_text("")
        os.utime(out / name, (past, past))
    os.mkfifo(out / ours.replace(ours[20:26], "000000"))  # a name of ours, and no file
    (out / ours.replace(ours[20:26], "111111")).symlink_to(out / "download.partial")
    others += [ours.replace(ours[20:26], "000000"), ours.replace(ours[20:26], "111111")]
    write_file(out / "it", b"content")
    assert names(out) == sorted([*others, "it"])
    ours = leave(out).name
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    write_file(out / "it", b"content")
    assert ours in names(out)


def test_a_file_system_without_locks(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One can write there, and nobody can know what is abandoned."""
    left = leave(out)

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_file(out / "it", b"content")
    assert names(out) == sorted([left.name, "it"])


def test_another_system_s_locks_are_not_seen(out: Path) -> None:
    """On a network's file system, or from before a restart: only age can tell."""
    young, old = leave(out, "00000000"), leave(out, "11111111")
    past = time.time() - 25 * 3600
    os.utime(old, (past, past))
    write_file(out / "it", b"content")
    assert names(out) == sorted([young.name, "it"])


def test_a_system_without_a_mark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(partial, "_BOOT_ID", tmp_path / "missing")
    assert re.fullmatch("[0-9a-f]{8}", partial._system.__wrapped__())


def test_a_folder_that_cannot_be_listed(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    write_file(out / "it", b"content")
    monkeypatch.undo()
    assert names(out) == ["it"]


# Folders


def test_a_folder_appears_complete(out: Path) -> None:
    with new_folder(out / "made") as hidden:
        (hidden / "file").write_text("content")
        assert names(out) == [hidden.name]
        write_file(out / "beside", b"")  # does not take it for abandoned
        assert hidden.exists()
    assert names(out) == ["beside", "made"]
    assert names(out / "made") == ["file"]


def test_a_folder_that_fails_leaves_nothing(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(out / "made") as hidden:
        (hidden / "file").write_text("content")
        raise KeyboardInterrupt
    assert names(out) == []


def test_a_folder_s_destination(out: Path) -> None:
    (out / "empty").mkdir()
    with new_folder(out / "empty") as hidden:
        (hidden / "file").write_text("content")
    assert names(out / "empty") == ["file"]
    (out / "regular").write_text("")
    os.mkfifo(out / "pipe")
    (out / "link").symlink_to(out / "nowhere")
    (out / "linked").symlink_to(out / "free")
    (out / "free").mkdir()
    for name in ("empty", "regular", "pipe", "link", "linked", "missing/made"):
        with pytest.raises(OSError), new_folder(out / name):
            raise AssertionError("it began")
    assert stat.S_ISFIFO((out / "pipe").lstat().st_mode)
    assert names(out) == ["empty", "free", "link", "linked", "pipe", "regular"]


def test_a_made_checkpoint_that_was_killed(out: Path) -> None:
    left = leave(out, is_folder=True)
    (left / "model.safetensors").write_text("half")
    checkpoint.write(out / "made", make_config())
    assert names(out) == ["made"]
    assert names(out / "made") == ["config.json", "model.safetensors"]
    with pytest.raises(OSError, match="exists: choose another folder, or delete it"):
        checkpoint.write(out / "made", make_config())
