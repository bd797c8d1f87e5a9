"""What only a process of its own can show: the time to a first token, and the peak of memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pythia_rt.convert import FlatFile

_FIRST = """
import sys
import pythia_rt
path, threads, vocabulary, length = sys.argv[1], *map(int, sys.argv[2:])
prompt = [i % vocabulary for i in range(length)]
model = pythia_rt.Model.load(path, threads=threads)
model.generate(prompt, max_new_tokens=1, temperature=0)
print("done", flush=True)
"""

# The system's own mark of this program: that of getrusage starts at the size of who started it.
_PEAK = """
import json, resource, sys
from pathlib import Path
from typing import Any
from pythia_rt import Model
path, kv_format = sys.argv[1:3]
threads, vocabulary, length, count = map(int, sys.argv[3:])
def peak():
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
imported = peak()
model = Model.load(path, threads=threads, kv_format=kv_format)
prompt = [i % vocabulary for i in range(length)]
model.generate(prompt, max_new_tokens=count, temperature=0)
print(json.dumps([peak(), imported]))
"""


def first_token_seconds(path: Path, threads: int, length: int) -> float:
    """From the start of a Python process to the first token after a prompt of `length` tokens."""
    vocabulary = FlatFile(path).spec["n_tokens"]
    return _first_output(
        [sys.executable, "-c", _FIRST, path.resolve(), threads, vocabulary, length]
    )


def first_text_seconds(path: Path, threads: int) -> float:
    """From the start of the command line to its first output. The file needs a tokenizer."""
    options = ["--model", path.resolve(), "--threads", threads, "--max-new-tokens", 1, "--quiet"]
    options += ["--seed", 0]
    return _first_output([sys.executable, "-m", "pythia_rt", "generate", "Once", *options])


def peak_bytes(
    path: Path, threads: int, kv_format: str, length: int, count: int
) -> tuple[int, int]:
    """The most that was resident while a process wrote `count` tokens after a prompt of `length`,
    and before it loaded the file.
    """
    vocabulary = FlatFile(path).spec["n_tokens"]
    arguments = [path.resolve(), kv_format, threads, vocabulary, length, count]
    with tempfile.TemporaryDirectory() as folder:  # not the checkout, which has no compiled core
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *map(str, arguments)],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    peak, imported = json.loads(done.stdout)
    return peak, imported


def kv_bytes(spec: Mapping[str, Any], kv_format: str, tokens: int) -> int:
    """Of the key-value cache of so many tokens, in pages of 128, of a model with this spec."""
    groups = -(-spec["head_dim"] // 16)
    code = {"f32": 4, "f16": 2, "q8": 1}[kv_format]
    scales = 4 * groups if kv_format == "q8" else 0
    head = code * (spec["head_dim"] + 16 * groups) + scales  # values fill their groups
    return int(spec["n_layers"] * spec["n_kv_heads"] * head * -(-tokens // 128) * 128)


def _first_output(command: list[object]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with subprocess.Popen(list(map(str, command)), cwd=folder, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            first = child.stdout.read(1)
            seconds = time.perf_counter() - start
            child.stdout.read()
    if child.returncode != 0 or not first:
        raise RuntimeError(f"{command[1]} {command[2]} failed: see above")
    return seconds
