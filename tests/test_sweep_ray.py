"""A sweep over a real Ray cluster of two nodes: a worker dies in the middle, then a whole node."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measured
import pytest
from sweeps import STEPS, TEXT, contents, write_suite

import pythia_rt
from pythia_rt.sweeps import RayCluster

ray = pytest.importorskip("ray", reason="ray cannot be installed here")
# Ray's own, of releases to come and of sockets that it leaves to the collector.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which each worker leaves its process id while it works."""
    folder = tmp_path / "pids"
    folder.mkdir()
    monkeypatch.setenv("SWEEP_PIDS", str(folder))
    monkeypatch.setenv("SWEEP_HOLD", str(tmp_path / "hold"))
    monkeypatch.setenv("SWEEP_SLEEP", "0")
    return folder


@pytest.fixture
def cluster(pids: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one processor each, as Ray's own tests have them: raylets of this machine."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "200")  # busy machines
    # Workers find what the tests measure.
    monkeypatch.setenv("PYTHONPATH", str(Path(measured.__file__).parent))
    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        found.add_node(**node)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()


def raylet_of(node: Any) -> int:
    """The process of a node whose children are its workers."""
    return int(node.all_processes["raylet"][0].process.pid)


def at_work(pids: Path, node: Any) -> list[int]:
    """The workers of a node that are measuring."""
    found = []
    for pid in (int(path.name) for path in pids.iterdir()):
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:  # it has died
            continue
        if int(status.rpartition(")")[2].split()[1]) == raylet_of(node):
            found.append(pid)
    return found


def test_dead_workers_and_nodes_change_no_byte(pids: Path, cluster: Any, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite")
    (tmp_path / "text.txt").write_text(TEXT)
    metrics = [
        f"perplexity:{tmp_path / 'text.txt'}",
        f"divergence:{tmp_path / 'text.txt'},to_step=8,max_tokens=50",
        measured.slow,
    ]
    head, [other] = cluster.head_node, cluster.worker_nodes
    hold = tmp_path / "hold"
    done: list[str] = []

    def wait_until_at_work(node: Any, but: tuple[int, ...] = ()) -> int:
        until = time.monotonic() + 200
        while not (found := set(at_work(pids, node)) - set(but)):
            assert time.monotonic() < until
            time.sleep(0.02)
        return found.pop()

    def disturb() -> None:
        """Kill a worker of one node, then the other node, when both are in the middle of it."""
        try:
            victim = wait_until_at_work(head)
            wait_until_at_work(other)
            os.kill(victim, signal.SIGKILL)
            wait_until_at_work(head, but=(victim,))
            done.append("worker")
            cluster.remove_node(other, allow_graceful=False)
            done.append("node")
        finally:
            hold.unlink()

    def sweep(out: str, **options: Any) -> pythia_rt.Sweep:
        return pythia_rt.sweep(
            suite, metrics=metrics, out=tmp_path / out, progress=False, **options
        )

    with RayCluster(cluster.address) as executor:
        assert sweep("ray", executor=executor, steps="0").measured == 3
        hold.touch()
        disturber = threading.Thread(target=disturb, daemon=True)
        disturber.start()
        found = sweep("ray", executor=executor)
        disturber.join()
    assert done == ["worker", "node"] and found.failures == []
    assert (found.measured, found.skipped) == (3 * (len(STEPS) - 1), 3)
    sweep("here")
    assert contents(tmp_path / "here") == contents(tmp_path / "ray")
