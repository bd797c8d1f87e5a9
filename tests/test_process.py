"""What the process around a model may do: end, fork, and lose the file under the model's feet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pythia_rt import FlatFileError, Model

TOKENS = [510, 1295, 310, 253]

# Work that gives the interpreter's lock away, without an end. {file} is a flat file.
WORK = {
    "generate": "model.generate([1, 2, 3], max_new_tokens=50)",
    "one token": "model.generate([1, 2, 3], max_new_tokens=1)",
    "logits": "model.logits(range(400))",
    "score": "model.score([range(300), range(200)])",
    "load": "pythia_rt.Model.load(sys.argv[1])",
    "copy": "pythia_rt.Model.load(sys.argv[1], copy=True)",
    "pack": "_core.pack('q4', values, 'F32', 256, 256, 2)",
    "unpack": "_core.fit_scales('q4', numbers, None, 2)",
    "sample": "sampler.sample(numbers[0])",
}

SETUP = """
import os, signal, sys, threading, time, warnings
import numpy as np
import pythia_rt
from pythia_rt import _core

warnings.simplefilter("ignore")  # of Python, that forking with threads is dangerous
model = pythia_rt.Model.load(sys.argv[1])
numbers = np.linspace(-1, 1, 256 * 256, dtype=np.float32).reshape(256, 256)
values = numbers.tobytes()
sampler = _core.Sampler(n_tokens=256, temperature=1.0)
started = threading.Event()

def work():
    while True:
        {work}
        started.set()
"""

# Ends in the middle of the work, at another point of it each time.
END = """
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
started.wait(60)
time.sleep({seconds})
{end}
"""


def run(code: str, *arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | changes
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, env=environment)


@pytest.mark.parametrize("work", WORK)
def test_python_ends_while_daemon_threads_compute(
    work: str, demo_file: Callable[[str], Path]
) -> None:
    for seconds in (0.0, 0.013):
        code = SETUP.format(work=WORK[work]) + END.format(seconds=seconds, end="")
        done = run(code, demo_file("q4"))
        assert done.returncode == 0, done.stderr
        # A copy is read by threads, which Python refuses to start by then, with an exception.
        assert done.stderr == "" or work == "copy"


@pytest.mark.parametrize(
    ("end", "status"), [("sys.exit(7)", 7), ("raise ValueError('mine')", 1), ("os._exit(5)", 5)]
)
def test_every_way_to_end_keeps_its_status(
    end: str, status: int, demo_file: Callable[[str], Path]
) -> None:
    code = SETUP.format(work=WORK["generate"]) + END.format(seconds=0.01, end=end)
    done = run(code, demo_file("q4"))
    assert done.returncode == status
    assert ("mine" in done.stderr) == (status == 1)


# Work after Python has begun to end: what runs last may still compute, and needs its locks.
LATE = """
class Late:
    def __init__(self): self.model = model
    def __del__(self): print(len(self.model.generate([1, 2], max_new_tokens=3).tokens), flush=True)

import atexit
atexit.register(lambda: print(len(model.generate([1, 2], max_new_tokens=2).tokens), flush=True))
late = sys.modules["late"] = type(sys)("late")
late.late = Late()
del late
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
started.wait(60)
"""


def test_the_thread_that_ends_python_may_still_compute(demo_file: Callable[[str], Path]) -> None:
    done = run(SETUP.format(work=WORK["generate"]) + LATE, demo_file("q4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "3"]


# What is kept by a module that Python clears name by name at the end: there is no `os` by then.
CLEARED = """
from pythia_rt.convert.files import positional
positional.kept = model
sys.kept = positional
"""


def test_a_mapped_file_may_outlive_the_modules_that_it_uses(
    demo_file: Callable[[str], Path],
) -> None:
    code = SETUP.format(work=WORK["generate"]) + CLEARED
    done = run(code, demo_file("q4"))
    assert (done.returncode, done.stderr) == (0, "")


FORK = """
stream = model.stream([1, 2, 3], max_new_tokens=100000) if model.tokenizer else None
expected = model.logits(range(40))
session, busy = model.new_session(500), model.new_session(500)
shared = _core.Sampler(n_tokens=256, temperature=1.0)

def hold():  # a session and a sampler that are in use most of the time
    while True:
        busy.rewind(0)
        busy.prefill(np.arange(300, dtype=np.int32))

threads = [threading.Thread(target=task, daemon=True) for task in (work, work, hold)]
for thread in threads:
    thread.start()
started.wait(60)
for attempt in range(12):
    time.sleep(0.003 * attempt)
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # a hang ends the child, and is seen
        assert np.array_equal(model.logits(range(40)), expected)
        assert len(model.generate([1, 2], max_new_tokens=5).tokens) <= 5
        assert len(model.score([range(20), range(30)])) == 2
        assert session.logits(np.arange(40, dtype=np.int32)).shape == expected.shape
        try:
            busy.rewind(0)
        except RuntimeError as error:
            assert "forked" in str(error), error
        other = pythia_rt.Model.load(sys.argv[1], threads=2)
        assert np.array_equal(other.logits(range(40)), expected)
        sampler.sample(numbers[0])
        {again}
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, status
print("fine")
os._exit(0)
"""

# A child that works on several threads of its own, and has a child.
AGAIN = """
        both = [threading.Thread(target=model.logits, args=(range(40),)) for _ in range(3)]
        for thread in both: thread.start()
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(300)
            assert np.array_equal(model.logits(range(40)), expected)
            os._exit(0)
        for thread in both: thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("work", ["generate", "logits", "score", "load", "pack"])
def test_a_child_forked_while_others_compute_can_compute(
    work: str, demo_file: Callable[[str], Path]
) -> None:
    done = run(SETUP.format(work=WORK[work]) + FORK.format(again=AGAIN), demo_file("q4"))
    assert done.stdout.strip() == "fine", done.stderr


CUTS = {
    "to nothing": "os.truncate(path, 0)",
    "in the header": "os.truncate(path, 1000)",
    "in the weights": "os.truncate(path, 100000)",
    "by its last byte": "os.truncate(path, os.path.getsize(path) - 1)",
    "written again in place": "content = open(path, 'rb').read(); open(path, 'wb').write(content)",
    "one byte of it": "f = open(path, 'r+b'); f.seek(90000); f.write(b'x'); f.close()",
    "lengthened": "open(path, 'ab').write(b'x')",
}
CALLS = {
    "generate": "m.generate([1, 2, 3], max_new_tokens=4)",
    "stream": "list(m.stream('The kernel', max_new_tokens=4))",
    "logits": "m.logits([1, 2, 3])",
    "score": "m.score([[1, 2, 3]])",
}


def changed(cut: str, call: str) -> str:
    return f"""
import os, sys, pythia_rt
path = sys.argv[1]
m = pythia_rt.Model.load(path)
{cut}
try:
    {call}
except pythia_rt.FlatFileError as error:
    print(error)
"""


@pytest.mark.parametrize("cut", CUTS)
def test_a_file_that_changed_since_it_was_mapped_is_an_error(
    cut: str, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_file("q4"), path)
    done = run(changed(CUTS[cut], CALLS["generate"]), path)
    assert done.returncode == 0, done.stderr
    assert "in use: load it again" in done.stdout
    assert str(path) in done.stdout


@pytest.mark.parametrize("call", CALLS)
def test_every_call_looks_first(
    call: str, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_file("q4"), path)
    model = Model.load(path)
    os.truncate(path, 100000)
    with pytest.raises(FlatFileError, match="cut short while it was in use"):
        eval(CALLS[call], {"m": model})


# Cut short in the middle of the work, which no look before it can see.
MEANWHILE = """
import os, sys, threading, time, pythia_rt
path, call = sys.argv[1:]
m = pythia_rt.Model.load(path)
calls = {
    "generate": lambda: m.generate([[1, 2, 3]] * 32, max_new_tokens=2000, logit_bias={0: -1e9}),
    "score": lambda: m.score([range(500)] * 2000),
}
threading.Timer(0.1, os.truncate, (path, 100000)).start()
try:
    calls[call]()
    print("nothing happened")
except (RuntimeError, ValueError) as error:
    print(error)
try:
    calls[call]()
except (RuntimeError, ValueError) as error:
    print(error)
other = pythia_rt.Model.demo()
assert len(other.generate([1, 2], max_new_tokens=3).tokens) <= 3
"""


@pytest.mark.parametrize("call", ["generate", "score"])
def test_a_file_cut_short_while_it_is_read_is_an_error(
    call: str, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_file("q4"), path)
    done = run(MEANWHILE, path, call, PYTHIA_RT_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "cut short while it was in use" in first
    assert "in use: load it again" in second


@pytest.mark.parametrize("copy", [False, True])
def test_a_file_replaced_or_deleted_is_still_the_one_that_was_loaded(
    copy: bool, demo_file: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_file("q4"), path)
    model = Model.load(path, copy=copy)
    expected = model.logits(TOKENS)
    (tmp_path / "other").write_bytes(b"another file")
    (tmp_path / "other").replace(path)
    np.testing.assert_array_equal(model.logits(TOKENS), expected)
    path.unlink()
    np.testing.assert_array_equal(model.logits(TOKENS), expected)


def test_a_copy_is_safe(demo_file: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    shutil.copy(demo_file("q4"), path)
    model = Model.load(path, copy=True)
    expected = model.logits(TOKENS)
    os.truncate(path, 0)
    np.testing.assert_array_equal(model.logits(TOKENS), expected)


def test_reads_outside_of_models_still_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(bytes(100000))
    code = """
import mmap, os, sys
from pythia_rt import _core
ours = mmap.mmap(-1, 4096)
watch = _core.MappedRange(ours)
f = open(sys.argv[1], "r+b")
mine = mmap.mmap(f.fileno(), 0)
os.truncate(sys.argv[1], 0)
mine[50000]
"""
    assert run(code, tmp_path / "mine").returncode < 0


def test_each_range_is_damaged_alone(tmp_path: Path) -> None:
    code = """
import mmap, os, sys
from pythia_rt import _core
def mapped(name):
    path = os.path.join(sys.argv[1], name)
    open(path, "wb").write(b"a" * 100000)
    f = open(path, "rb")
    mapping = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    return path, mapping, _core.MappedRange(mapping)
one, two = mapped("one"), mapped("two")
os.truncate(one[0], 5000)
print(one[1][4999:5001], one[2].is_damaged)    # the rest of a page that is there: zeros
print(one[1][50000:50002], one[2].is_damaged)  # a page that is not
print(two[1][50000:50002], two[2].is_damaged)
del one
three = mapped("three")  # in the place of the first, most likely
print(three[1][50000:50002], three[2].is_damaged)
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        r"b'a\x00' False",
        r"b'\x00\x00' True",
        "b'aa' False",
        "b'aa' False",
    ]
