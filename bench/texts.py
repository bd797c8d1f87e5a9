"""Gathers English technical text from this machine into a file: python -m bench.texts FILE.

From the documentation of the installed packages, Python's own docstrings and the licences' common
texts; no changelogs and no copyright notices, which repeat themselves, and nothing from the kinds
of packages that the demo model's training text was cut from. (Whether a published model has read
it, nobody knows.) The same machine gives the same text, another one a different text. The documents
come in the order of a hash of their content, so that the start of the file is a sample of it all.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from pythia_rt.convert.files.atomic import write_file
from pythia_rt.convert.files.destination import find_place

LEAST = 200_000  # bytes; less is not a text to measure on
LONGEST = 20_000  # characters of one document and
MOST = 4  # documents of one package, so that none dominates
SHORTEST = 500
DOCUMENTS = ("README", "NEWS", "TODO", "FAQ", "HACKING", "CONTRIBUTING", "THANKS")
ENDINGS = (".txt", ".md", ".rst", ".txt.gz", ".md.gz", ".rst.gz")

# The demo model was trained on other parts of their documentation.
KNOWN = ("dict", "fortune", "git", "linux", "man", "perl", "postgresql", "python")


def gather(size: int) -> str:
    """Return about `size` characters, or all there are."""
    found: dict[str, str] = {}
    for text in (*_package_documents(), *_docstrings(), *_licences()):
        if len(text) >= SHORTEST and _is_prose(text):
            found[hashlib.sha256(text.encode()).hexdigest()] = text[:LONGEST]
    chosen, length = [], 0
    for _, text in sorted(found.items()):
        if length >= size:
            break
        chosen.append(text.strip())
        length += len(text)
    return "\n\n".join(chosen)[:size] + "\n"


def _package_documents() -> Iterator[str]:
    for package in sorted(Path("/usr/share/doc").glob("*")):
        if package.is_symlink() or package.name.startswith(KNOWN):
            continue
        named = [
            path
            for path in _files(package)
            if path.name.startswith(DOCUMENTS) or path.name.endswith(ENDINGS)
        ]
        for path in named[:MOST]:
            yield from _read(path)


def _docstrings() -> Iterator[str]:
    """Of each module of the standard library: all its docstrings."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for source in _read(path):
            nodes = ast.walk(ast.parse(source))
            documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            strings = (ast.get_docstring(node) for node in nodes if isinstance(node, documented))
            yield "\n\n".join(string for string in strings if string)


def _licences() -> Iterator[str]:
    for path in _files(Path("/usr/share/common-licenses")):
        yield from _read(path)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _read(path: Path) -> Iterator[str]:
    """The text, if it is one."""
    try:
        content = path.read_bytes()
        yield (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return


def _is_prose(text: str) -> bool:
    """Mostly letters and spaces: no tables of numbers, no pictures of characters."""
    letters = sum(character.isalpha() or character == " " for character in text)
    return letters > 0.75 * len(text) and "\0" not in text


def main() -> None:
    """Parse the command line, gather, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="where to write the text")
    parser.add_argument("--size", type=int, default=500_000, help="characters, about")
    options = parser.parse_args()
    try:
        find_place(options.file, force=True)
    except OSError as error:
        parser.error(str(error))
    content = gather(options.size).encode()
    if len(content) < LEAST:
        raise SystemExit(f"error: this machine has only {len(content)} bytes of such text")
    write_file(options.file, content)
    print(f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
