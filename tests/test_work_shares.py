"""Who does which part of a region's work: each unit is done once, whoever comes when."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import testing_extension

_testing = testing_extension.load()

LOADS = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 5000)), min_size=1, max_size=2)


@given(
    workers=st.integers(1, 9),
    loads=LOADS,
    grain=st.integers(1, 7),
    speeds=st.lists(st.floats(0.01, 100), min_size=9, max_size=9),
    data=st.data(),
)
def test_each_unit_is_taken_once_in_pieces_of_whole_grains(
    workers: int,
    loads: list[tuple[int, int]],
    grain: int,
    speeds: list[float],
    data: st.DataObject,
) -> None:
    shares = _testing.WorkShares(workers)
    for region in range(2):
        grains = shares.deal(loads, grain)
        assert grains == sum(-(-units // grain) for units, _ in loads)
        counts = [[0] * units for units, _ in loads]
        waiting = list(range(workers))
        while waiting:
            worker = data.draw(st.sampled_from(waiting), label=f"region {region}")
            taken = shares.take(worker)
            if taken is None:
                waiting.remove(worker)
                continue
            load, begin, end = taken
            units = loads[load][0]
            assert begin % grain == 0 and (end % grain == 0 or end == units)
            assert begin < end <= units
            for unit in range(begin, end):
                counts[load][unit] += 1
        assert all(count == 1 for units in counts for count in units)
        for worker in range(workers):
            shares.note(worker, 1000, 1000 / speeds[worker])
        shares.learn()
        assert sum(shares.share(worker) for worker in range(workers)) == pytest.approx(1)


def learnt(speeds: list[float | None]) -> list[float]:
    """The shares after 60 regions in which each worker was as fast as it is said to be."""
    shares = _testing.WorkShares(len(speeds))
    for _ in range(60):
        shares.deal([(1000, 1)], 1)
        for worker, speed in enumerate(speeds):
            if speed is not None:
                shares.note(worker, 1000, 1 / speed)
        shares.learn()
    return [shares.share(worker) for worker in range(len(speeds))]


def test_a_slow_worker_is_dealt_less() -> None:
    assert learnt([10, 5]) == pytest.approx([2 / 3, 1 / 3], rel=1e-2)
    assert learnt([10, 10, 10, 2]) == pytest.approx([10 / 32] * 3 + [2 / 32], rel=1e-2)


def test_who_was_not_there_keeps_its_share() -> None:
    assert learnt([10, None, 30]) == pytest.approx([1 / 6, 1 / 3, 1 / 2], rel=1e-2)


def test_one_bad_region_is_soon_forgotten() -> None:
    shares = _testing.WorkShares(2)
    for seconds in (1.0, *[1e-3] * 20):  # it lost its processor once
        shares.deal([(1000, 1)], 1)
        shares.note(0, 1000, 1e-3)
        shares.note(1, 1000, seconds)
        shares.learn()
    assert shares.share(1) == pytest.approx(0.5, abs=0.01)


def test_regions_too_short_to_tell_teach_nothing() -> None:
    assert learnt([1e6, 1e3]) == [0.5, 0.5]


def test_a_share_begins_where_the_one_before_ends_by_cost() -> None:
    """Half of the work is all of the first load, whose units are three times as long."""
    shares = _testing.WorkShares(2)
    shares.deal([(40, 3), (120, 1)], 1)
    assert shares.take(0)[:2] == (0, 0)
    assert shares.take(1)[:2] == (1, 0)


@given(
    threads=st.integers(1, 5),
    loads=LOADS,
    grain=st.integers(1, 7),
    regions=st.integers(1, 20),
)
def test_a_pool_does_each_unit_once(
    threads: int, loads: list[tuple[int, int]], grain: int, regions: int
) -> None:
    counts = _testing.share(threads, loads, grain, regions=regions)
    assert counts == [regions] * sum(units for units, _ in loads)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_a_unit_throws_arrives_and_the_pool_ends(threads: int) -> None:
    with pytest.raises(RuntimeError, match="unit 777 failed"):
        _testing.share(threads, [(1000, 1)], 4, failing=777)


def machine(folder: Path, siblings: list[str], capacities: list[int] | None = None) -> str:
    """A folder that describes processors as Linux does."""
    for cpu, line in enumerate(siblings):
        topology = folder / "system" / "cpu" / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{line}\n")
        if capacities is not None:
            (topology.parent / "cpu_capacity").write_text(f"{capacities[cpu]}\n")
    return str(folder)


def test_cores_are_counted_and_not_their_threads(tmp_path: Path) -> None:
    folder = machine(tmp_path, ["0-1", "0-1", "2-3", "2-3"])
    assert _testing.count_fast_cores(folder, {0, 1, 2, 3}) == 2
    assert _testing.count_fast_cores(folder, {1, 3}) == 2
    assert _testing.count_fast_cores(folder, {0, 1}) == 1
    assert _testing.count_fast_cores(str(tmp_path / "nothing"), {0, 1}) == 2


def test_performance_cores_alone_count_on_a_hybrid(tmp_path: Path) -> None:
    """Two performance cores of two threads each, then four efficient ones."""
    folder = machine(tmp_path, ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"])
    (tmp_path / "cpu_core").mkdir()
    (tmp_path / "cpu_core" / "cpus").write_text("0-1,2-3\n")
    assert _testing.count_fast_cores(folder, set(range(8))) == 2
    assert _testing.count_fast_cores(folder, {3, 4, 5, 6, 7}) == 1
    assert _testing.count_fast_cores(folder, {4, 5, 6, 7}) == 4  # there are no others


def test_big_cores_alone_count_where_capacities_differ(tmp_path: Path) -> None:
    folder = machine(tmp_path, [str(cpu) for cpu in range(8)], [325] * 4 + [870] * 3 + [1024])
    assert _testing.count_fast_cores(folder, set(range(8))) == 4
    assert _testing.count_fast_cores(folder, {0, 1, 2}) == 3
