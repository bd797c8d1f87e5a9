"""Pools of threads come and go, and a child made by fork() has none of its parent's threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pythia_rt import Model
from pythia_rt.convert import threads as processors

SCRIPT = """
import gc, os, signal, sys, warnings
import numpy as np
from pythia_rt import _core
from pythia_rt.convert import FlatFile

warnings.simplefilter("ignore")  # of Python, that forking with threads is dangerous
file = FlatFile(sys.argv[1])
tokens = np.arange(40, dtype=np.int32)

def load():
    return _core.Model(dict(file.spec), file.formats, file.tensors, threads=4)

def logits(model):
    return _core.Session(model, capacity=64).logits(tokens)

model = load()
expected = logits(model)
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(120)  # a hang ends the child, and is seen
        assert np.array_equal(logits(model), expected)
        new = load()  # may get the memory of lost threads
        del model
        gc.collect()
        assert np.array_equal(logits(new), expected)
        del new
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(logits(model), expected)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_models_work_in_a_child_and_can_be_dropped_there(demo_file: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(demo_file("q4"))],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_pools_come_and_go(
    demo_file: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "usable_processors", lambda: 16)
    tokens = list(range(30))
    expected = Model.load(demo_file("q4"), threads=1).logits(tokens)
    for threads in (2, 16, 3, 9, 5, 16, 2):
        models = [Model.load(demo_file("q4"), threads=threads) for _ in range(3)]
        for model in models:
            assert model.threads == threads
            np.testing.assert_array_equal(model.logits(tokens), expected)


PINNED_SCRIPT = """
import os, sys, time
import pythia_rt
import pythia_rt.convert.threads

pythia_rt.convert.threads.usable_processors = lambda: 16
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
seconds = []
for threads in (1, 16):
    model = pythia_rt.Model.load(sys.argv[1], threads=threads)
    best = 1e9
    for _ in range(6):
        start = time.process_time()
        model.generate([5, 7], max_new_tokens=20, temperature=0, logit_bias={0: -1e9})
        best = min(best, time.process_time() - start)
    seconds.append(best)
print(seconds[1] / seconds[0])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_nobody_waits_for_threads_without_a_processor(demo_file: Callable[[str], Path]) -> None:
    """16 threads on one processor: 5 times slower than one, and 46 when all had to take part.

    By the processor's time of all threads, which no other process takes part in.
    """
    done = subprocess.run(
        [sys.executable, "-c", PINNED_SCRIPT, str(demo_file("q4"))],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    assert float(done.stdout) < 20


BUSY_SCRIPT = """
import os, sys, time
import numpy as np
import pythia_rt
import pythia_rt.convert.threads

pythia_rt.convert.threads.usable_processors = lambda: 16

def masks():
    return [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]

model = pythia_rt.Model.load(sys.argv[1], threads=2)
expected = model.logits(list(range(30)))
for _ in range(150):
    np.testing.assert_array_equal(model.logits(list(range(30))), expected)
until = time.monotonic() + 300  # a thread that wakes late may be moving itself just now
while not all(mask == os.sched_getaffinity(0) for mask in masks()):
    assert time.monotonic() < until, masks()
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
def test_threads_that_lose_their_processors_change_nothing(
    demo_file: Callable[[str], Path],
) -> None:
    """With another process on every processor, and every thread may run where it might before."""
    busy = "import os, sys\nos.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", busy, str(processor)])
        for processor in sorted(os.sched_getaffinity(0))[:4]
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-c", BUSY_SCRIPT, str(demo_file("q4"))],
            capture_output=True,
            text=True,
            timeout=500,
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert done.stdout.strip() == "fine", done.stderr
