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

SCRIPT = """
import gc, os, signal, sys, warnings
import numpy as np
import pythia_rt

warnings.simplefilter("ignore")  # of Python, that forking with threads is dangerous
tokens = list(range(40))
model = pythia_rt.Model.load(sys.argv[1], threads=4)
expected = model.logits(tokens)
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # a hang ends the child, and is seen
        assert np.array_equal(model.logits(tokens), expected)
        new = pythia_rt.Model.load(sys.argv[1], threads=4)  # may get the memory of lost threads
        del model
        gc.collect()
        assert np.array_equal(new.logits(tokens), expected)
        del new
        gc.collect()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(model.logits(tokens), expected)
print("fine")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_models_work_in_a_child_and_can_be_dropped_there(demo_file: Callable[[str], Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(demo_file("q4"))],
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout.strip() == "fine", done.stderr


def test_pools_come_and_go(demo_file: Callable[[str], Path]) -> None:
    tokens = list(range(30))
    expected = Model.load(demo_file("q4"), threads=1).logits(tokens)
    for threads in (2, 16, 3, 9, 5, 16, 2):
        models = [Model.load(demo_file("q4"), threads=threads) for _ in range(3)]
        for model in models:
            assert model.threads == threads
            np.testing.assert_array_equal(model.logits(tokens), expected)
