"""Destinations, for every command that writes a file: only a regular one is ever replaced."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import measure
from pythia_rt.convert import FlatFile, convert
from pythia_rt.convert.files.atomic import write_file
from pythia_rt.evaluation import Evaluation, evaluate
from pythia_rt.evaluation.plot import write_plot
from pythia_rt.model import DEMO_FOLDER

Write = Callable[[Path], object]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    flat = convert(DEMO_FOLDER, tmp_path_factory.mktemp("flat") / "flat", format="q8")
    text = flat.with_name("text")
    text.write_text("The kernel reads the file. " * 30)
    return evaluate(flat, text, window=32, max_tokens=128)


def convert_to(path: Path) -> object:
    return convert(DEMO_FOLDER, path, force=True)


# With force. The plot's destination must end in .png, so all of them do.
WRITERS = ["convert", "plot", "content", "lines"]


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Write:
    """Each way in which a command writes a file that may exist."""
    if request.param == "plot":
        pytest.importorskip("matplotlib")
        result = request.getfixturevalue("evaluation")
        return lambda path: write_plot(result, path)
    if request.param == "content":
        return lambda path: write_file(path, b"content")
    if request.param == "lines":
        return lambda path: measure.append_line(path, {"number": 1})
    return convert_to


@pytest.fixture(autouse=True)
def nothing_else_is_left(out: Path) -> Iterator[None]:
    """Whatever happens, no hidden file stays."""
    yield
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Of everything in a folder: what it is, and what it holds or where it leads."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(folder.iterdir()):
        mode = path.lstat().st_mode
        content: bytes | str = b""
        if stat.S_ISREG(mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(mode):
            content = os.readlink(path)  # noqa: PTH115
        found[path.name] = (stat.S_IFMT(mode), content)
    return found


def make(kind: str, path: Path) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.with_name("loop.png"))
        path.with_name("loop.png").symlink_to(path)
    else:
        assert kind == "itself"
        path.symlink_to(path)


REFUSED = {
    "pipe": "is a named pipe, and only a regular file is ever replaced",
    "socket": "is a socket, and only a regular file is ever replaced",
    "folder": "is a folder: name a file in it",
    "loop": "Too many levels of symbolic links",
    "itself": "Too many levels of symbolic links",
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_never_replaced(out: Path, write: Write, kind: str, linked: bool) -> None:
    target, named = out / "it.png", out / ("link.png" if linked else "it.png")
    make(kind, target)
    if linked:
        named.symlink_to(target)
    before = snapshot(out)
    with pytest.raises(OSError, match=REFUSED[kind]) as caught:
        write(named)
    assert snapshot(out) == before
    assert str(named) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_without_force_the_sentence_is_the_same(out: Path, kind: str) -> None:
    make(kind, out / "it")
    before = snapshot(out)
    for force in (False, True):
        with pytest.raises(OSError, match=REFUSED[kind]):  # before the source is looked for
            convert("no/such/source", out / "it", force=force)
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("mode", "what"),
    [
        (stat.S_IFCHR, "a character device"),
        (stat.S_IFBLK, "a block device"),
        (0o130000, "a special file"),  # no kind that is known
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_devices_are_never_replaced(
    out: Path, write: Write, monkeypatch: pytest.MonkeyPatch, mode: int, what: str, linked: bool
) -> None:
    """No device is touched here: the system's answer about a regular file is changed."""
    device, named = out / "device.png", out / ("link.png" if linked else "device.png")
    device.write_text("a device")
    if linked:
        named.symlink_to(device)
    inode = device.stat().st_ino

    def asking(function: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def ask(*arguments: object, **options: object) -> os.stat_result:
            found = function(*arguments, **options)
            if found.st_ino != inode:
                return found
            return os.stat_result((mode | 0o666, *found[1:10]))

        return ask

    monkeypatch.setattr(os, "stat", asking(os.stat))
    with pytest.raises(OSError, match=f"is {what}, and only a regular file is ever replaced"):
        write(named)
    monkeypatch.undo()
    assert device.read_text() == "a device"


def test_what_a_name_of_standard_output_leads_to(out: Path, write: Write) -> None:
    """As /dev/stdout leads to a pipe, by a link that names nothing."""
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError, match="is a named pipe, and only a regular file"):
            convert_to(Path(f"/proc/self/fd/{writing}"))
        (out / "stdout.png").symlink_to(f"/proc/self/fd/{writing}")
        with pytest.raises(OSError, match="is a named pipe, and only a regular file"):
            write(out / "stdout.png")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_file_that_has_lost_its_name(out: Path) -> None:
    with (out / "gone").open("w") as file:
        (out / "gone").unlink()
        with pytest.raises(OSError, match="links to a file without a name"):
            convert_to(Path(f"/proc/self/fd/{file.fileno()}"))
    assert not list(out.iterdir())


# Links


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_link_stays_and_its_target_is_written(
    out: Path, tmp_path: Path, write: Write, steps: int, relative: bool, exists: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = elsewhere / "target.png"
    if exists:
        target.write_text("old\n")
    before = Path("../elsewhere/target.png") if relative else target
    for step in range(steps):
        link = out / f"{step}.png"
        link.symlink_to(before)
        before = Path(link.name) if relative else link
    links = snapshot(out)
    write(link)
    assert snapshot(out) == links
    assert [path.name for path in elsewhere.iterdir()] == ["target.png"]
    assert target.stat().st_size > 4


def test_without_force_a_link_counts_as_existing(out: Path) -> None:
    (out / "dangling").symlink_to(out / "nowhere")
    (out / "link").symlink_to(out / "file")
    (out / "file").write_text("precious")
    before = snapshot(out)
    for name, target in (("dangling", "nowhere"), ("link", "file")):
        with pytest.raises(FileExistsError, match=rf"\(a link to .*{target}\) .* force=True"):
            convert(DEMO_FOLDER, out / name)
    assert snapshot(out) == before


def test_a_link_into_a_folder_that_is_missing(out: Path, write: Write) -> None:
    (out / "link.png").symlink_to(out / "missing" / "target.png")
    with pytest.raises(FileNotFoundError, match=r"missing is not a folder: create it first"):
        write(out / "link.png")
    assert list(snapshot(out)) == ["link.png"]


def test_a_link_to_a_folder_on_the_way(out: Path, tmp_path: Path, write: Write) -> None:
    (tmp_path / "folder").symlink_to(out)
    write(tmp_path / "folder" / "it.png")
    assert list(snapshot(out)) == ["it.png"]
    assert (tmp_path / "folder").is_symlink()


def test_a_link_that_changes_meanwhile(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "link").symlink_to(out / "one")
    fsync = os.fsync

    def change(descriptor: int) -> None:
        (out / "link").unlink()
        (out / "link").symlink_to(out / "two")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", change)
    with pytest.raises(OSError, match="was changed meanwhile: nothing is written"):
        write_file(out / "link", b"content")
    assert list(snapshot(out)) == ["link"]


def test_a_pipe_that_appears_meanwhile(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: os.mkfifo(out / "it"))
    with pytest.raises(OSError, match="is a named pipe"):
        write_file(out / "it", b"content")
    assert [kind for kind, _ in snapshot(out).values()] == [stat.S_IFIFO]


def test_without_force_nothing_is_replaced_at_the_last_moment(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even between the last look and the name."""
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_text("precious")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(FileExistsError, match="exists: choose another name"):
        write_file(out / "it", b"content", force=False)
    assert snapshot(out) == {"it": (stat.S_IFREG, b"precious")}


def test_a_file_system_without_hard_links(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    write_file(out / "it", b"content", force=False)
    assert snapshot(out) == {"it": (stat.S_IFREG, b"content")}


# Names and permissions


def test_a_file_that_is_read_only_is_replaced(out: Path) -> None:
    """The folder decides, as for mv: the file itself is never written."""
    (out / "it").write_text("old")
    (out / "it").chmod(0o444)
    twin = out / "twin"
    twin.hardlink_to(out / "it")
    convert_to(out / "it")
    FlatFile(out / "it").verify()
    assert twin.read_text() == "old"


@pytest.mark.parametrize("name", ["new/", "new/.", "new/..", ".", "..", "new//"])
def test_names_that_only_folders_have(out: Path, name: str) -> None:
    for force in (False, True):
        with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
            convert(DEMO_FOLDER, f"{out}/{name}", force=force)
    assert not list(out.iterdir())


def test_names_that_no_file_has() -> None:
    for name in ("", "a\0b"):
        with pytest.raises(ValueError, match="is no file name: choose another one"):
            convert(DEMO_FOLDER, name)


def test_the_longest_names(out: Path, write: Write) -> None:
    for name in ("x" * 251 + ".png", "ö" * 125 + "x.png"):
        assert len(name.encode()) == 255
        write(out / name)
    assert len(snapshot(out)) == 2
    with pytest.raises(OSError, match=r"File name too long\): choose another name"):
        write(out / ("x" * 252 + ".png"))
    with pytest.raises(OSError, match=r"File name too long\): choose another name"):
        write(out / ("ö" * 126 + ".png"))


def test_a_name_that_is_not_utf_8(out: Path, write: Write) -> None:
    name = os.fsdecode(b"\xff\xe9.png")
    write(out / name)
    assert list(snapshot(out)) == [name]


def test_the_command_line_says_a_name_that_is_not_utf_8(out: Path) -> None:
    program = [sys.executable, "-m", "pythia_rt", "convert", str(DEMO_FOLDER)]
    path = os.fsencode(out) + b"/\xff"
    done = subprocess.run([*program, path], capture_output=True, cwd=out)
    assert (done.returncode, b"wrote" in done.stderr) == (0, True), done.stderr
    again = subprocess.run([*program, path], capture_output=True, cwd=out)
    assert again.returncode == 1
    assert again.stderr.startswith(b"Error: ")
    assert b"exists: choose another name" in again.stderr
    slash = subprocess.run([*program, os.fsencode(out) + b"/new/"], capture_output=True, cwd=out)
    assert slash.returncode == 1
    assert b"new/ is a folder: name a file in it" in slash.stderr


def test_a_missing_folder(out: Path, write: Write) -> None:
    (out / "file").write_text("")
    for folder in ("gone", "file", "gone/deeper", "file/deeper"):
        with pytest.raises(FileNotFoundError, match="is not a folder: create it first"):
            write(out / folder / "it.png")


def test_a_folder_that_cannot_be_written(
    out: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the system's answer is imitated.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match=r"cannot write in .* \(Permission denied\): choose another"):
        write(out / "it.png")
    assert not list(out.iterdir())


def test_a_folder_that_cannot_be_searched(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*it \(Permission denied\): choose"):
        write_file(out / "it", b"content")


# Full disks


def test_a_full_disk_keeps_what_was_there(
    out: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses: no file of this process may grow beyond a limit."""
    import resource
    import signal

    old = b"an older file\n" * 50
    (out / "it.png").write_bytes(old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, before[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .* \(File too large\): free some space"):
            write(out / "it.png")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert snapshot(out) == {"it.png": (stat.S_IFREG, old)}


def test_a_disk_that_fills_up_within_a_line_keeps_the_lines_before(tmp_path: Path) -> None:
    import resource
    import signal

    lines = tmp_path / "lines"
    measure.append_line(lines, {"number": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (lines.stat().st_size + 5, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            measure.append_line(lines, {"number": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert lines.read_text() == '{"number": 1}\n'
