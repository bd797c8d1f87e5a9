"""Generates pythia_rt/_core.pyi from the installed module: `.venv/bin/python scripts/stub.py`."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMITTED = Path(__file__).resolve().parent.parent / "pythia_rt" / "_core.pyi"


def generate() -> str:
    """The stub of the module that is installed in this environment.

    Raises RuntimeError with the generator's words if a signature is not a valid annotation.
    """
    with tempfile.TemporaryDirectory() as folder:
        # From an empty folder: the checkout's pythia_rt has no compiled module beside it.
        command = [sys.executable, "-m", "pybind11_stubgen", "--exit-code", "-o", folder]
        done = subprocess.run(
            [*command, "pythia_rt._core"], cwd=folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeError(f"pybind11-stubgen failed:\n{done.stdout}{done.stderr}")
        stub = (Path(folder) / "pythia_rt" / "_core.pyi").read_text()
    # What pybind11 would convert besides is not what a caller should write. Its dict has no type
    # arguments: ours are JSON objects. numpy declares its arrays as buffers only for Python 3.12.
    stub = stub.replace("typing.SupportsInt | typing.SupportsIndex", "int")
    stub = stub.replace("typing.SupportsFloat | typing.SupportsIndex", "float")
    stub = re.sub(r"\bdict\b(?!\[)", "dict[str, typing.Any]", stub)
    stub = stub.replace(
        "typing_extensions.Buffer", "typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]"
    )
    ruff = [sys.executable, "-m", "ruff", "format", "--line-length", "100", "--stdin-filename"]
    formatted = subprocess.run(
        [*ruff, COMMITTED.name, "-"], input=stub, capture_output=True, text=True, check=True
    )
    return formatted.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=COMMITTED, help="where to write the stub")
    output: Path = parser.parse_args().output
    output.write_text(generate())


if __name__ == "__main__":
    main()
