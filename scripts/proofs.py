"""What ./scripts/test proofs has proved: `python scripts/proofs.py stale|record PART`.

tests/proved.json holds, for each part of the proofs, a digest over the files that the part is
about. The one who changes such a file runs the proofs and commits the new digest with it; where the
digest is still that of the tree, the proofs hold and need not run again.

    stale     prints the parts whose files are not those that were proved
    record    writes the digests of the parts that are named, as they are now
    digest    prints a digest over the files below the paths that are named
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROVED = ROOT / "tests" / "proved.json"

BUILD = ("CMakeLists.txt", "cmake", "csrc", "tests/native")
# THE list of the proofs' parts, and what each is about.
PARTS: dict[str, tuple[str, ...]] = {
    "cuda": (
        *BUILD,
        *("bench/cuda_occupancy.py", "bench/cuda_table.py", "bench/records/committed.py"),
        *("bench/results/cuda", "tests/cuda"),
        *("tests/backends.py", "tests/test_cuda_cases.py", "tests/test_cuda_compiled.py"),
        *("tests/test_cuda_module.py", "tests/test_cuda_mutations.py"),
    ),
    "sanitizers": (*BUILD, "tests/backends.py", "tests/cpp", "tests/cuda/emulator_checks.cc"),
    "examples": (*BUILD, "convert", "pythia_rt", "tests"),
}
# A digest over the file that holds it would never be right.
UNPROVED = PROVED.relative_to(ROOT).as_posix()


def digest(paths: tuple[str, ...] | list[str]) -> str:
    """Of the names and contents of all files below the paths that Git tracks or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *paths]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    total = hashlib.sha256()
    for name in sorted(set(listed.split("\0"))):
        path = ROOT / name
        if name and name != UNPROVED and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            total.update(f"{content} {name}\n".encode())
    return total.hexdigest()


def proved() -> dict[str, str]:
    """Each part's digest when it was proved."""
    if not PROVED.exists():
        return {}
    content: dict[str, str] = json.loads(PROVED.read_text(encoding="utf-8"))
    return content


def stale() -> list[str]:
    """The parts whose files have changed since."""
    known = proved()
    return [part for part, paths in PARTS.items() if known.get(part) != digest(paths)]


def record(parts: list[str]) -> None:
    """Note that the parts are proved for the files as they are."""
    known = {**proved(), **{part: digest(PARTS[part]) for part in parts}}
    content = {part: known[part] for part in PARTS if part in known}
    PROVED.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str]) -> int:
    command, names = arguments[:1], arguments[1:]
    if command == ["stale"] and not names:
        print("\n".join(stale()))
    elif command == ["record"] and names and set(names) <= set(PARTS):
        record(names)
    elif command == ["digest"] and names:
        print(digest(names))
    else:
        print(f"{__doc__}\nParts: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
