"""The benchmark of sweeps runs; no figure decides."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT


def test_it_prints_its_table() -> None:
    options = ["--shape", "14m", "--steps", "2", "--tokens", "64"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.sweep", *options],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    heads, _, *rows = done.stdout.splitlines()
    assert heads.split("|")[1].strip() == "2 checkpoints"
    names = [row.split("|")[1].strip() for row in rows]
    assert names[:3] == ["fetched and converted", "measured", "swept"]
    assert names[3].startswith("both, by ") and len(names) == 4
