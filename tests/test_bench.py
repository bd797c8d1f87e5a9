"""The benchmarks run, and their random checkpoints are what they say."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_config
from conftest import ROOT
from numpy.typing import NDArray
from safetensors import safe_open

from bench import checkpoint, shapes


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


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_normal(dtype: str) -> None:
    tensor = checkpoint.Tensor("weight", (3000, 1001), 0.5, 0.25)
    pieces = list(checkpoint.values(tensor, 3, 7, dtype))
    assert {piece.itemsize for piece in pieces} == {checkpoint.DTYPES[dtype][1]}
    found = np.concatenate(pieces)
    if dtype == "bfloat16":
        found = (found.astype(np.uint32) << 16).view(np.float32)
    assert found.size == tensor.size
    found = (found.astype(np.float64) - 0.5) / 0.25
    for edge, share in ((-2, 0.02275), (-1, 0.15866), (0, 0.5), (1, 0.84134), (2, 0.97725)):
        assert abs((found < edge).mean() - share) < 0.004  # bfloat16 has steps of 2^-9 there
    assert 4 < np.abs(found).max() < 4.5
    rows = found[: 3000 * 1001].reshape(3000, 1001)
    assert np.abs(np.corrcoef(rows[::100]) - np.eye(30)).max() < 0.2  # none repeats another


def test_threads_change_nothing(tmp_path: Path) -> None:
    for threads in (1, 5):
        checkpoint.write(tmp_path / f"{threads}", make_config(), threads=threads, seed=3)
    one, five = (tmp_path / f"{n}" / "model.safetensors" for n in (1, 5))
    assert one.read_bytes() == five.read_bytes()


def test_a_full_disk_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, calls = os.pwrite, 0

    def full(descriptor: int, content: Any, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "out", make_config(), threads=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("14m", 14_067_712), ("70m", 70_426_624), ("410m", 405_334_016), ("1b", 1_011_781_632),
     ("1.4b", 1_414_647_808), ("2.8b", 2_775_208_960), ("6.9b", 6_857_302_016),
     ("12b", 11_846_072_320)],
)  # fmt: skip
def test_shapes_have_the_published_numbers_of_parameters(name: str, parameters: int) -> None:
    assert sum(tensor.size for tensor in checkpoint.tensors(shapes.config(name))) == parameters


def test_make_checkpoint_by_name(tmp_path: Path) -> None:
    run("make_checkpoint", "14m", tmp_path / "made")
    assert json.loads((tmp_path / "made" / "config.json").read_text()) == {
        **shapes.config("14m"),
        "torch_dtype": "float16",
    }
    (tmp_path / "list.json").write_text("[1]")
    command = [sys.executable, "-m", "bench.make_checkpoint"]
    for name in ("15m", "list.json", "gone/config.json"):
        done = subprocess.run(
            [*command, tmp_path / name, tmp_path / "new"], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert f"{name} is no config.json of GPT-NeoX or LLaMA" in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


def test_conversion(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    printed = run("conversion", folder, "--format", "q4", "--json", lines)
    record = json.loads(lines.read_text())
    assert record["bytes_read"] > record["bytes_written"] > 0
    assert 1e6 < record["peak_resident_bytes"] < 1e9
    assert "peak" in printed
