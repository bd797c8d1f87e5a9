"""How much memory this process may use."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from pythia_rt.convert.files.system import total_memory


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of the machine's memory, or of what the process's control groups leave of it.

    `root` is where /proc and /sys are. In a container the mounted hierarchy begins at the process's
    own group, while /proc names a path outside: both are looked at, and all groups above.
    """
    memory = total_memory()
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return memory
    for line in groups:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2: one hierarchy for all
            hierarchy, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            hierarchy, name = root / "sys/fs/cgroup" / controllers, "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for each in (group, *group.parents):
            memory = min(memory, _limit(hierarchy / each / name, memory))
    return memory


def _limit(file: Path, unlimited: int) -> int:
    """The number of bytes that a control group's file says; or it says "max", or is not there."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return unlimited
