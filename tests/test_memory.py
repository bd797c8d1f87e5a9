"""The memory that a process may use, by what its control groups say."""

from __future__ import annotations

import os
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


def test_here() -> None:
    assert 1 << 20 < usable_memory() <= MACHINE
