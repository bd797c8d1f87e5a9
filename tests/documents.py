"""Runs the code of a page of the documents: python documents.py PAGE, in a folder of its own.

Blocks run in order, those of Python in one namespace, in which pythia_rt is imported and `model` is
the bundled model; of a `sh` block the lines that begin with pythia-rt. A `text` block right after
is what they print, to the letter. There is no network: the bundled checkpoint is in the hub's
cache under the names that pages use (see NAMES), and the folder has `demo`, the same checkpoint,
`suite`, a small model at some steps of its training, `book.txt`, a text, and `held-out.txt`, one
that the suite was not trained on. Comments before a block:

    <!-- not run: why -->       it is not run; tests/test_docs.py lists all of these
    <!-- needs: module -->      it is run where there is the module
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
# Models of the hub that pages name, and revisions; the bundled checkpoint stands for each.
NAMES = (
    "EleutherAI/pythia-70m-deduped",
    "EleutherAI/pythia-410m",
    "databricks/dolly-v2-3b",
    "lmsys/vicuna-7b-v1.5",
)
REVISIONS = ("main", "step3000")
BOOK_CHARACTERS = 12_000
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FENCE = re.compile(r"```(\w*)\s*")
MARK = re.compile(r"<!-- (not run|needs): (.+) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of its first line of code."""

    language: str
    line: int
    code: str
    not_run: str = ""  # why
    needs: str = ""  # a module
    prints: str | None = None  # what is expected, where the page says it

    @property
    def commands(self) -> list[str]:
        """The command lines of a `sh` block that begin with pythia-rt."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.startswith("pythia-rt ")]

    @property
    def has_code(self) -> bool:
        """Whether there is something to run."""
        return self.language == "python" or (self.language == "sh" and bool(self.commands))


def blocks(page: str) -> list[Block]:
    """Return the blocks with code of a page's text.

    Raises ValueError where a mark is spelt otherwise, or is before nothing that would run.
    """
    found: list[Block] = []
    lines = page.splitlines()
    number, marks, follows = 0, dict[str, str](), False
    while number < len(lines):
        line = lines[number]
        number += 1
        if fence := FENCE.fullmatch(line):
            end = lines.index("```", number)
            code = "\n".join(lines[number:end]) + "\n"
            if fence[1] == "text" and follows:
                found[-1] = Block(**{**vars(found[-1]), "prints": code})
            block = Block(
                fence[1], number + 1, code, marks.get("not run", ""), marks.get("needs", "")
            )
            follows = block.has_code
            if block.has_code:
                found.append(block)
            elif marks:
                raise ValueError(f"line {number}: a mark is before a block that is never run")
            number, marks = end + 1, {}
        elif mark := MARK.fullmatch(line):
            marks[mark[1]] = mark[2]
        elif re.match(r"<!--\s*(not run|needs)", line):
            raise ValueError(f"line {number}: a mark is <!-- not run: why --> on its own line")
        elif line:
            if marks:
                raise ValueError(f"line {number}: a mark is not right before a block")
            follows = False
    return found


def prepare(folder: Path) -> dict[str, str]:
    """Fill a folder with what pages use; return the environment variables of their commands."""
    from pythia_rt.model import DEMO_FOLDER

    (folder / "demo").symlink_to(DEMO_FOLDER)
    (folder / "suite").symlink_to(ROOT / "tests" / "data" / "suite")
    text = (ROOT / "tests" / "data" / "technical.txt").read_text()
    (folder / "book.txt").write_text(text[:BOOK_CHARACTERS])
    (folder / "held-out.txt").write_text(text[-BOOK_CHARACTERS // 2 :])
    for name in NAMES:
        model = folder / ".hub" / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = model / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        for file in DEMO_FOLDER.iterdir():
            (snapshot / file.name).symlink_to(file)
        (model / "refs").mkdir()
        for revision in REVISIONS:
            (model / "refs" / revision).write_text(COMMIT)
    (folder / "pythia-70m-deduped").mkdir()  # the cache_dir of the model's card
    (folder / "pythia-70m-deduped" / "step3000").symlink_to(folder / ".hub" / "hub")
    programs = folder / ".bin"
    programs.mkdir()
    (programs / "pythia-rt").write_text(f'#!/bin/sh\nexec {sys.executable} -m pythia_rt "$@"\n')
    (programs / "pythia-rt").chmod(0o755)
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "HF_HOME": str(folder / ".hub"),
        "HF_HUB_OFFLINE": "1",
        "PYTHIA_RT_CACHE": str(folder / ".cache"),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
    }


def run(page: Path) -> list[str]:
    """Run a page in this folder, which `prepare` has filled; return the modules that it lacks.

    Raises what its code raises, with the page's lines in the traceback, and AssertionError where it
    prints something else than the page says.
    """
    import pythia_rt

    namespace: dict[str, Any] = {"__name__": "__main__", "pythia_rt": pythia_rt}
    namespace["model"] = pythia_rt.Model.demo()
    lacking = []
    for block in blocks(page.read_text()):
        if block.not_run:
            continue
        if block.needs and find_spec(block.needs) is None:
            lacking.append(block.needs)
            continue
        where = f"{page.relative_to(ROOT)}:{block.line}"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if block.language == "python":
                # Empty lines before it: so tracebacks have the page's numbers.
                exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)
            else:
                for command in block.commands:
                    print(_output(command, where), end="")
        found = printed.getvalue()
        if block.prints is not None and found != block.prints:
            raise AssertionError(f"{where} prints\n{found}and the page says\n{block.prints}")
    return lacking


def _output(command: str, where: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise AssertionError(f"{where}: {command}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def not_run() -> Iterator[tuple[str, str, str]]:
    """(page, language, why) of each block that is not run, in order."""
    for page in PAGES:
        for block in blocks(page.read_text()):
            if block.not_run:
                yield str(page.relative_to(ROOT)), block.language, block.not_run


if __name__ == "__main__":
    print(*run(Path(sys.argv[1])))
