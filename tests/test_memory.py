"""The memory that a process may use, by what its control groups say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pythia_rt.memory import usable_memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
NONE = 9223372036854771712  # of version 1


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        (None, {}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/\n", {"memory.max": f"{MACHINE + 1}\n"}, MACHINE),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "7000"}, 7000),
        ("0::/a/b\n", {"a/b/memory.max": "5000", "a/memory.max": "7000"}, 5000),
        ("0::/../b\n", {"memory.max": "3000"}, 3000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000"}, 2000),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": f"{NONE}"}, MACHINE),
        ("2:cpu,cpuacct:/a\n", {"cpu,cpuacct/a/memory.limit_in_bytes": "2000"}, MACHINE),
        ("what\nis:this\n0::/\n", {"memory.max": "many"}, MACHINE),
    ],
)
def test_usable_memory(
    tmp_path: Path, groups: str | None, limits: dict[str, str], expected: int
) -> None:
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in limits.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert usable_memory(tmp_path) == expected


WITHOUT_ROOM = """
import gc, resource
import numpy as np
from pythia_rt import Model
model = Model.demo(cache_dir={cache!r})
model.run([1, 2], "layers.*.*")
model.generate([1, 2], max_new_tokens=3)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (30 << 20),) * 2)
texts = [[1] * 500] * 32
for call in (
    lambda: model.run(texts * 9, "layers.*.*", logits=None),
    lambda: model.generate(texts, max_new_tokens=1500, logit_bias={{0: -np.inf}}),
):
    try:
        call()
    except MemoryError as error:
        print(error)
gc.collect()
print(model.run([1, 2], "layers.*.*").logits.shape)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
def test_memory_that_cannot_be_had_is_an_error_and_no_end(tmp_path: Path) -> None:
    code = WITHOUT_ROOM.format(cache=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    captured, written, after = done.stdout.splitlines()
    for sentence in (captured, written):
        assert re.fullmatch(r"cannot get [0-9]+ bytes of memory", sentence)
    assert after == "(2, 4096)"


SAMPLERS = """
import resource
from pythia_rt import _core
def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = used()
kept = [_core.Sampler(n_tokens=1_000_000, temperature=0.8, top_p=0.95, seed=i) for i in range(100)]
for sampler in kept:
    sampler.accept_prompt([1, 2, 3])
print(used() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks for memory in Linux's unit")
def test_texts_that_wait_keep_nothing_of_the_vocabulary_that_no_step_reads() -> None:
    """An engine's queue may hold thousands. With counts of each token these are 400 MB."""
    done = subprocess.run([sys.executable, "-c", SAMPLERS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 40_000_000  # a mask, a bit for each token, are 12.5 MB


def test_here() -> None:
    assert 1 << 20 < usable_memory() <= MACHINE
