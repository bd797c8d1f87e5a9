"""A sweep over a real Ray cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import measured
import pytest
from sweeps import STEPS, TEXT, contents, write_suite

import pythia_rt
from pythia_rt.sweeps import RayCluster

ray = pytest.importorskip("ray", reason="ray cannot be installed here")
# Ray's own, of releases to come and of sockets that it leaves to the collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cluster of two workers; the folder in which each leaves its process id while it works."""
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("SWEEP_PIDS", str(folder))
    monkeypatch.setenv("SWEEP_SLEEP", "0.5")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # busy machines
    # Workers find what the tests measure.
    monkeypatch.setenv("PYTHONPATH", str(Path(measured.__file__).parent))
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=100 << 20,
    )
    try:
        yield folder
    finally:
        ray.shutdown()


def test_a_killed_worker_changes_no_byte(pids: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite")
    (tmp_path / "text.txt").write_text(TEXT)
    metrics = [
        f"perplexity:{tmp_path / 'text.txt'}",
        f"divergence:{tmp_path / 'text.txt'},to_step=8,max_tokens=50",
        measured.slow,
    ]
    out = tmp_path / "ray"
    killed = []

    def kill() -> None:
        """Whoever is at work when there is a result."""
        until = time.monotonic() + 100
        while time.monotonic() < until and not killed:
            if list(out.glob("results/*/*.json")) and (at_work := list(pids.iterdir())):
                os.kill(int(at_work[0].name), signal.SIGKILL)
                killed.append(at_work[0].name)
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with RayCluster() as executor:
        found = pythia_rt.sweep(suite, metrics=metrics, out=out, executor=executor, progress=False)
    assert ray.is_initialized()  # it was not the executor's
    assert killed and found.failures == []
    assert found.measured == 3 * len(STEPS)
    pythia_rt.sweep(suite, metrics=metrics, out=tmp_path / "here", progress=False)
    assert contents(tmp_path / "here") == contents(out)
