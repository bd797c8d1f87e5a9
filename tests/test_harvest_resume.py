"""A harvest that was interrupted, by a kill or a full disk, goes on to the same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_harvest import POINTS, TEXTS, contents

from pythia_rt import Model
from pythia_rt.harvest import Harvest, harvest
from pythia_rt.harvest.shards import ShardWriter


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("f32"), threads=2)


KILLED = """
import sys, time
from pathlib import Path
from pythia_rt import Model
from pythia_rt.harvest import harvest
from pythia_rt.harvest.shards import ShardWriter
file, text, out = map(Path, sys.argv[1:4])
begin = ShardWriter._begin
def held(self, number, n_tokens):  # there it waits to be killed, if it gets so far
    if number == int(sys.argv[4]):
        time.sleep(3600)
    begin(self, number, n_tokens)
ShardWriter._begin = held
print("begins", flush=True)
harvest(Model.load(file, threads=1), [text], ["layers.1.resid_post", "embed"], out, context=32,
        shard_tokens=160, max_tokens=2560)
"""


def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bytes(
    demo_file: Callable[[str], Path], tmp_path: Path, technical_text: str
) -> None:
    """Whenever a process dies, the next one goes on, and loses at most a shard."""
    text = tmp_path / "book.txt"
    text.write_text(technical_text)
    command = [sys.executable, "-c", KILLED, str(demo_file("q4")), str(text)]
    subprocess.run([*command, str(tmp_path / "whole"), "-1"], check=True, capture_output=True)
    whole = contents(tmp_path / "whole")
    n_shards = len(Harvest(tmp_path / "whole").meta["shards"])
    out, draw = tmp_path / "out", random.Random(1)

    def n_written() -> int:
        return len(Harvest(out).meta["shards"]) if (out / "meta.json").exists() else 0

    for least in [0, *sorted(draw.sample(range(1, n_shards - 3), 4))]:
        before, most = n_written(), str(least + 3)
        with subprocess.Popen([*command, str(out), most], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"begins\n"
            while n_written() < least and process.poll() is None:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
        assert n_written() >= max(before, least)
    assert n_written() < n_shards
    subprocess.run([*command, str(out), "-1"], check=True, capture_output=True)
    assert contents(out) == whole


def test_points_in_another_order_go_on_alike(model: Model, tmp_path: Path) -> None:
    """Two of the same width, whose rows would fit into each other's files."""
    out = tmp_path / "out"
    options: dict[str, Any] = {"context": 8, "shard_tokens": 16}
    before = contents(harvest(model, TEXTS, POINTS, out, **options).folder)
    for point, number in ((POINTS[0], 0), (POINTS[1], 1)):
        (out / point / f"{number:05}.npy").unlink()
    harvest(model, TEXTS, POINTS[::-1], out, **options)
    assert contents(out) == before


@pytest.mark.parametrize("step", [1, 2, 5, 9, 14, 23])
def test_a_full_disk_is_a_sentence_and_what_was_written_stays(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    texts = [" ".join(TEXTS)] * 3
    options: dict[str, Any] = {"context": 8, "shard_tokens": 16}
    whole = harvest(model, texts, POINTS, tmp_path / "whole", **options)
    write, calls = os.write, 0

    def full(descriptor: int, data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"cannot write .*out.*No space left.*free some") as error:
            harvest(model, texts, POINTS, tmp_path / "out", **options)
    assert error.value.errno == errno.ENOSPC
    assert not [name for name in contents(tmp_path / "out") if name.startswith(".")]
    done = 0
    if step > 1:
        begun = Harvest(tmp_path / "out")
        done = sum(shard["tokens"] for shard in begun.meta["shards"])
        assert f"; {done} of {len(whole.tokens)} tokens are written and stay" in str(error.value)
        for shard in begun.shards(POINTS[0]):
            assert len(shard) <= 16
    assert not Harvest(tmp_path / "out").is_complete if step > 1 else done == 0
    harvest(model, texts, POINTS, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_nothing_follows_what_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the thread had to do already: a shard that lacks rows never gets its name."""
    meta: dict[str, Any] = {"points": {"embed": 2}, "dtype": "f32", "shards": []}
    write, rows = os.write, np.ones((3, 2), np.float32)

    def full_once(descriptor: int, data: Any) -> int:
        if len(data) == rows.nbytes:
            monkeypatch.setattr(os, "write", write)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full_once)
    with ShardWriter(tmp_path, meta, 1) as writer, pytest.raises(OSError, match="No space left"):
        for _ in range(2):
            writer.begin(0, 6)
            writer.add({"embed": rows})
            writer.add({"embed": rows})
            writer.end(0, 6)
        writer.finish()
    assert meta["shards"] == [] and contents(tmp_path) == {}


def test_nothing_is_computed_again(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"context": 8, "shard_tokens": 16}
    harvest(model, TEXTS, POINTS, tmp_path / "out", **options)
    whole = contents(tmp_path / "out")
    last = tmp_path / "out" / POINTS[1] / "00001.npy"
    last.write_bytes(last.read_bytes()[:-1])  # cut short by somebody else: that shard alone
    harvest(model, TEXTS, POINTS, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == whole
    monkeypatch.setattr(Model, "new_session", None)
    harvest(model, TEXTS, POINTS, tmp_path / "out", **options)
    assert contents(tmp_path / "out") == whole
