"""Where a system lacks what Linux and macOS have, files are read, written and measured as well."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from sweeps import TEXT, contents, sweep, write_suite

from pythia_rt import Model
from pythia_rt.convert import convert
from pythia_rt.convert.files import partial, system
from pythia_rt.convert.files.atomic import AtomicFile
from pythia_rt.convert.files.positional import PositionalFile
from pythia_rt.memory import usable_memory
from pythia_rt.sweeps import Processes

# What Python's documentation marks as not available on Windows.
LACKING = {
    os: {
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "geteuid", "getuid", "pread",
        "preadv", "pwrite", "sysconf", "uname",
    },
    mmap: {"MADV_HUGEPAGE", "MAP_ANONYMOUS", "MAP_PRIVATE"},
    signal: {"pthread_sigmask", "SIG_BLOCK"},
}  # fmt: skip


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that lacks all of it: for us alone, others' modules keep it."""
    import filelock  # noqa: F401, which warns where it finds no fcntl

    def without(module: ModuleType, names: set[str]) -> SimpleNamespace:
        assert names - {"MADV_HUGEPAGE"} <= vars(module).keys()
        return SimpleNamespace(**{k: v for k, v in vars(module).items() if k not in names})

    for module, names in LACKING.items():
        monkeypatch.setattr(system, module.__name__, without(module, names))
    monkeypatch.setitem(sys.modules, "fcntl", None)


def test_a_model_is_converted_and_loaded_to_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = write_suite(tmp_path / "suite", (0,)) / "step0"
    convert(source, tmp_path / "whole", format="q4")
    logits = Model.load(tmp_path / "whole").logits([1, 2, 3])
    request.getfixturevalue("bare")
    convert(source, tmp_path / "bare", format="q4")
    assert (tmp_path / "bare").read_bytes() == (tmp_path / "whole").read_bytes()
    for copy in (False, True):
        found = Model.load(tmp_path / "bare", copy=copy).logits([1, 2, 3])
        np.testing.assert_array_equal(found, logits)
    assert not list(tmp_path.glob(".pythia_rt-*"))


@pytest.mark.usefixtures("bare")
def test_a_sweep_goes_on_as_everywhere(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite", (0, 1))
    (tmp_path / "a.txt").write_text(TEXT)
    for name, workers in (("here", 1), ("there", 2)):
        found = sweep(suite, tmp_path / name, f"perplexity:{tmp_path / 'a.txt'}", workers=workers)
        assert (found.measured, found.failures) == (2, [])
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    with Processes(1) as pool:
        assert pool.submit(divmod, 7, 2).result() == (3, 1)


@pytest.mark.usefixtures("bare")
def test_files_are_read_at_places_from_many_threads(tmp_path: Path) -> None:
    content = np.arange(1 << 16, dtype=np.uint32).tobytes()
    (tmp_path / "file").write_bytes(content)
    file = PositionalFile(tmp_path / "file", ValueError)
    places = np.random.default_rng(0).integers(0, len(content) - 64, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: file.read(place, 64), places))
    assert found == [content[place : place + 64] for place in places]
    with pytest.raises(ValueError, match="ends too early"):
        file.read(len(content) - 1, 2)
    file.close()


@pytest.mark.usefixtures("bare")
def test_bytes_are_replaced_and_appended_after(tmp_path: Path) -> None:
    file = AtomicFile(tmp_path / "file", force=False)
    file.write(b"0123456789")
    file.write_at(2, b"ab")
    assert system.read_at(file.descriptor, 4, 1) == b"1ab4"
    file.write(b"xyz")
    file.publish()
    assert (tmp_path / "file").read_bytes() == b"01ab456789xyz"


@pytest.mark.usefixtures("bare")
def test_what_a_system_does_not_say() -> None:
    assert system.open_flags("O_NOFOLLOW", "O_CLOEXEC") == 0
    assert system.user_id() == 0 and system.total_memory() == sys.maxsize
    assert 0 < usable_memory() <= sys.maxsize
    memory = system.private_memory(1 << 20)
    assert memory[:] == bytes(1 << 20)
    memory[:3] = b"abc"
    assert memory[:4] == b"abc\0"


def test_nothing_is_taken_for_abandoned_without_locks(tmp_path: Path) -> None:
    path, descriptor = partial.create(tmp_path)
    os.close(descriptor)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(sys.modules, "fcntl", None)
        assert system.lock(0) is None
        partial.remove_abandoned(tmp_path)
        assert path.exists()
    partial.remove_abandoned(tmp_path)
    assert not path.exists()


def test_where_it_is_there_it_is_used(tmp_path: Path) -> None:
    assert system.open_flags("O_NOFOLLOW", "O_CLOEXEC") == os.O_NOFOLLOW | os.O_CLOEXEC
    assert system.user_id() == os.geteuid() and system.total_memory() < sys.maxsize
    with (tmp_path / "file").open("w+b") as file:
        assert system.lock(file.fileno())
    try:
        system.block_interrupts()
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with pytest.raises(OSError) as caught:
        system.read_at(-1, 1, 0)
    assert caught.value.errno == errno.EBADF
