"""What a conversion costs: `python -m bench.conversion FOLDER --format q4`.

Runs `pythia-rt convert` as a process of its own and prints a JSON line: seconds, MB/s of source,
and the process's peak resident memory as the operating system counted it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "form", default="q4", show_default=True)
@click.option("--threads", default=0, help="0 takes every physical core.", show_default=True)
def main(folder: Path, form: str, threads: int) -> None:
    source = sum(
        path.stat().st_size for path in folder.iterdir() if path.suffix in (".safetensors", ".bin")
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        target = Path(temporary) / "converted.safetensors"
        command = [sys.executable, "-m", "pythia_rt", "convert", str(folder.resolve()), target.name]
        command += ["--format", form] + (["--threads", str(threads)] if threads else [])
        started = time.perf_counter()
        child = subprocess.Popen(command, cwd=temporary)  # not the checkout, see bench/__init__.py
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise click.ClickException(f"the conversion ended with status {child.returncode}")
        result = {
            "source_megabytes": source / 1e6,
            "file_megabytes": target.stat().st_size / 1e6,
            "format": form,
            "seconds": seconds,
            "source_megabytes_per_second": source / 1e6 / seconds,
            "peak_resident_megabytes": usage.ru_maxrss * 1024 / 1e6,
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
