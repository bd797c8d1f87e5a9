"""Time and peak memory of a conversion: python -m bench.conversion CHECKPOINT.

Each conversion is a process of its own, so that its peak resident memory is its alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import measure

_CHILD = """
import sys
from pythia_rt.convert import convert
convert(sys.argv[1], sys.argv[2], format=sys.argv[3], threads=int(sys.argv[4]) or None)
"""


def convert_once(source: Path, target: Path, form: str, threads: int) -> tuple[float, int]:
    """Convert in a child process; return its seconds and its peak resident memory in bytes."""
    arguments = [str(source.resolve()), str(target.resolve()), form, str(threads)]
    start = time.perf_counter()
    # Away from the checkout, whose pythia_rt/ has no compiled core.
    child = subprocess.Popen([sys.executable, "-c", _CHILD, *arguments], cwd=target.parent)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"the conversion of {source} failed: see above")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a folder in Hugging Face layout")
    parser.add_argument("--format", default="q4")
    parser.add_argument("--threads", type=int, default=0, help="0: one per performance core")
    parser.add_argument("--folder", type=Path, help="where to write; default: the temporary one")
    measure.add_options(parser, repetitions=1)
    options = parser.parse_args()

    files = [*options.checkpoint.glob("*.safetensors"), *options.checkpoint.glob("*.bin")]
    size = sum(path.stat().st_size for path in files)
    for _ in range(options.repetitions):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            target = Path(folder) / "converted.safetensors"
            seconds, peak = convert_once(
                options.checkpoint, target, options.format, options.threads
            )
            written = target.stat().st_size
        rate = size / seconds / 1e6
        print(
            f"{options.checkpoint.name} to {options.format}: {size / 1e6:.0f} MB read, "
            f"{written / 1e6:.0f} MB written, {seconds:.1f} s, {rate:.0f} MB/s, "
            f"peak {peak / 1e6:.0f} MB resident",
            flush=True,
        )
        measure.append_line(
            options.json,
            {
                "benchmark": "conversion",
                "checkpoint": options.checkpoint.name,
                "format": options.format,
                "bytes_read": size,
                "bytes_written": written,
                "seconds": seconds,
                "peak_resident_bytes": peak,
            },
        )


if __name__ == "__main__":
    main()
