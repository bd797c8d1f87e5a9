"""Which test files are meant: `python scripts/names.py NAME...` prints one path a line.

A name is that of a file below tests/, with or without "tests/", "test_" and ".py", or
"conformance", which stands for itself. For any other name it fails with one sentence that lists
names like it.
"""

import difflib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFORMANCE = "conformance"


def known() -> dict[str, str]:
    """From each name, without "test_", to what is printed for it."""
    files = sorted((ROOT / "tests").glob("test_*.py"))
    found = {path.stem.removeprefix("test_"): f"tests/{path.name}" for path in files}
    return {**found, CONFORMANCE: CONFORMANCE}


def find(name: str) -> str:
    """Raises LookupError with one sentence if there is no such file."""
    names = known()
    short = Path(name).name.removesuffix(".py").removeprefix("test_")
    if short in names:
        return names[short]
    near = [other for other in names if short and (short in other or other in short)]
    near += difflib.get_close_matches(short, names, n=5, cutoff=0.6)
    listed = ", ".join(dict.fromkeys(near))
    hint = f"near it are {listed}" if listed else "ls tests lists those that there are"
    raise LookupError(f"there is no test file '{name}'; {hint}")


if __name__ == "__main__":
    try:
        print("\n".join([find(name) for name in sys.argv[1:]]))
    except LookupError as error:
        sys.exit(f"error: {error.args[0]}")
