"""The benchmarks run, and their random checkpoints are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import make_config
from conftest import ROOT
from numpy.typing import NDArray
from safetensors import safe_open

from bench import checkpoint


def run(module: str, *arguments: object) -> str:
    """Run `python -m bench.MODULE` as a person would, and return what it prints."""
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_all(folder: Path) -> dict[str, NDArray[np.float32]]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            found.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint made by the command."""
    config = tmp_path_factory.mktemp("config") / "config.json"
    config.write_text(json.dumps(make_config()))
    run("make_checkpoint", config, config.parent / "tiny", "--shards", 4, "--dtype", "float32")
    return config.parent / "tiny"


def test_values_do_not_depend_on_the_shards(folder: Path, tmp_path: Path) -> None:
    whole = read_all(checkpoint.write(tmp_path / "one", make_config(), dtype="float32"))
    assert len(list(folder.glob("*.safetensors"))) == 4
    sharded = read_all(folder)
    assert set(sharded) == set(whole)
    for name, values in whole.items():
        np.testing.assert_array_equal(sharded[name], values)


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 28])
def test_shards_are_of_a_size(shards: int, tmp_path: Path) -> None:
    config = make_config(vocab_size=100)
    assert len(checkpoint.tensors(config)) == 28
    checkpoint.write(tmp_path / "out", config, shards=shards)
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) == shards
    if shards <= 3:
        sizes = [path.stat().st_size for path in files]
        assert max(sizes) < 1.6 * min(sizes)


def test_impossible_shards_are_refused(tmp_path: Path) -> None:
    for shards in (0, 29):
        with pytest.raises(ValueError, match=f"28 tensors cannot be cut into {shards} shards"):
            checkpoint.write(tmp_path / "out", make_config(), shards=shards)


def test_conversion(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    printed = run("conversion", folder, "--format", "q4", "--json", lines)
    record = json.loads(lines.read_text())
    assert record["bytes_read"] > record["bytes_written"] > 0
    assert 1e6 < record["peak_resident_bytes"] < 1e9
    assert "peak" in printed
