"""Ctrl-C or a kill ends all of a sweep, and the next one goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from local_hub import LocalHub
from sweeps import TEXT, contents, write_suite

from pythia_rt.convert import convert
from pythia_rt.convert.stopping import StoppedError, check_stop, obey
from pythia_rt.sweeps.pipeline import staged
from pythia_rt.sweeps.prepare import read_digest

MODEL = "someone/tiny"
FOREVER = 3600  # seconds, a whole number for the hub's library


def wait_until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_over(group: int) -> bool:
    """Whether no process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("workers", "block", "sent"),
    [("1", 1 << 16, signal.SIGINT), ("2", 1, signal.SIGINT), ("2", 1 << 16, signal.SIGKILL)],
    ids=["here-silent", "elsewhere-trickling", "killed"],
)
def test_a_sweep_ends_while_a_file_comes_that_never_does(
    local_hub: LocalHub, tmp_path: Path, workers: str, block: int, sent: signal.Signals
) -> None:
    suite = write_suite(tmp_path / "suite", (0, 1, 8))
    for place in suite.iterdir():
        local_hub.add(MODEL, place.name, place)
    (tmp_path / "text.txt").write_text(TEXT)
    command = [sys.executable, "-m", "pythia_rt", "sweep", MODEL, "--quiet", "--workers", workers]
    command += ["--metric", "perplexity:text.txt", "--out"]
    silence = {"HF_HUB_DOWNLOAD_TIMEOUT": str(FOREVER)}  # is borne
    environment = {**os.environ, **local_hub.environment(tmp_path / "hub"), **silence}

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, out], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    commit = local_hub.commit(MODEL, "step8")
    size = local_hub.files(MODEL, commit)["model.safetensors"].size
    name = f"/{commit}/model.safetensors"
    # The first half comes, then a byte a second at best.
    local_hub.cut(name, size // 2)
    local_hub.slow(name, 1.0 if block == 1 else FOREVER, block)
    local_hub.faults[-1].skip = 1
    out = tmp_path / "stopped"
    process = start("stopped")
    try:
        wait_until(lambda: local_hub.count("resolve", name) == 2)
        wait_until(lambda: len(list(out.glob("results/*/*.json"))) == 2)
        process.send_signal(sent)
        _, said = process.communicate(timeout=120)
        if sent == signal.SIGINT:
            assert (process.returncode, said) == (130, b"")
        wait_until(lambda: is_over(process.pid))
    finally:
        if not is_over(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    # What has come is a part, which nobody takes for the file; a result stays.
    [part] = [p for p in out.rglob("*") if p.is_file() and size // 2 <= p.stat().st_size < size]
    assert part.suffix == ".part"
    assert not list(out.glob(f"**/snapshots/{commit}/model.safetensors"))
    kept = {path: path.stat().st_mtime_ns for path in out.glob("results/*/*.json")}
    assert len(kept) == 2
    if sent == signal.SIGINT:
        assert (out / "results.jsonl").read_text().count('"perplexity"') == 2

    local_hub.faults.clear()
    for each in ("stopped", "whole"):
        with start(each) as process:
            assert process.wait(timeout=120) == 0
    third, _ = [r.range for r in local_hub.requests if r.path.endswith(name)][2:]
    assert third is not None and int(third.strip("bytes=-")) >= size // 2
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert contents(out) == contents(tmp_path / "whole")


def test_whoever_leaves_ends_what_comes_next() -> None:
    """Both threads would go on for ever, and staged waits for them."""
    begun = {"first": threading.Event(), "second": threading.Event()}

    def endless(name: str, item: int) -> int:
        if item > 0:
            begun[name].set()
            while True:
                check_stop()
                time.sleep(0.01)
        return item

    def first(item: int) -> int:
        return item if item == 1 else endless("first", item)

    def second(item: int) -> int:
        return endless("second", item)

    given = staged(range(4), first, second)
    item, future = next(given)
    assert (item, future.result()) == (0, 0)
    assert all(event.wait(120) for event in begun.values())
    given.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("fetch", "convert"))]


@pytest.mark.parametrize("work", ["convert", "digest"])
def test_work_that_nobody_wants_leaves_nothing(tmp_path: Path, work: str) -> None:
    folder = write_suite(tmp_path / "suite", (0,)) / "step0"
    stop = threading.Event()
    stop.set()
    with ThreadPoolExecutor(1, initializer=obey, initargs=(stop,)) as pool:
        (tmp_path / "out").mkdir()
        target = tmp_path / "out" / "model.safetensors"
        future = (
            pool.submit(convert, folder, target)
            if work == "convert"
            else pool.submit(read_digest, folder)
        )
        with pytest.raises(StoppedError):
            future.result()
    assert not list((tmp_path / "out").iterdir())
