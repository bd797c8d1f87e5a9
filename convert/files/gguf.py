"""What of GGUF files can be told without reading them: which files are, and which belong together.

Source: ggml-org/ggml, docs/gguf.md; llama.cpp, tools/gguf-split.
"""

from __future__ import annotations

import re
from pathlib import Path

MAGIC = b"GGUF"
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


def is_gguf(path: Path) -> bool:
    """Whether the file at `path` begins as a GGUF file does; False for what cannot be read."""
    try:
        # A named pipe would wait for its writer.
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def part_of(path: Path) -> tuple[int, int]:
    """Return which part of how many the name says that a file is; (1, 1) for a whole model."""
    match = _PART.fullmatch(path.name)
    return (int(match[2]), int(match[3])) if match else (1, 1)


def all_parts(path: Path) -> list[Path]:
    """Return the files of the model that `path` is the first part of, by their names."""
    match, count = _PART.fullmatch(path.name), part_of(path)[1]
    if match is None:
        return [path]
    names = (f"{match[1]}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))
    return [path.with_name(name) for name in names]
