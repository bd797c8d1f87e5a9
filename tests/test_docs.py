"""Every code block of README.md and docs/ runs; a page that is added is found by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import documents
import pytest
from conftest import ROOT

from pythia_rt.insides import names, weights

# Everything that is marked as not run: (page, language, why). What is not here fails the test.
NOT_RUN = [
    ("README.md", "python", "a CUDA device"),
    ("docs/auditing.md", "sh", "the hub"),
    ("docs/cuda.md", "python", "a CUDA device"),
    ("docs/cuda.md", "sh", "a CUDA device"),
    ("docs/scoring.md", "sh", "fetches data sets and a checkpoint from the hub"),
    ("docs/scoring.md", "python", "the harness and its data sets are not everywhere"),
    ("docs/sweeps.md", "sh", "fetches checkpoints from the hub"),
    ("docs/sweeps.md", "python", "starts a Ray cluster"),
]


def test_what_is_not_run_is_listed_here() -> None:
    assert list(documents.not_run()) == NOT_RUN


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page(page: Path, tmp_path: Path) -> None:
    if not any(not block.not_run for block in documents.blocks(page.read_text())):
        return
    environment = {**os.environ, **documents.prepare(tmp_path)}
    done = subprocess.run(
        [sys.executable, documents.__file__, page],
        cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if lacking := done.stdout.split():
        pytest.skip(f"what needs {', '.join(lacking)} was not run")


def test_the_tables_of_points_and_of_weights_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "interpretability.md").read_text()
    for table in (names.table(), weights.table()):
        assert page.count(f"\n\n{table}\n\n") == 1


# The machinery


def write(page: str) -> str:
    return textwrap.dedent(page).replace("'''", "```")


def run(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As test_a_page, of a page below the checkout's root as far as it knows."""
    script = (
        "import sys, documents, pathlib; documents.ROOT = pathlib.Path.cwd();"
        "print(documents.run(pathlib.Path.cwd() / 'page.md'))"
    )
    variables = documents.prepare(folder)
    (folder / "page.md").write_text(write(page))
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT / "tests")}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_blocks_run_in_order_in_one_namespace(tmp_path: Path) -> None:
    done = run(
        """
        '''python
        name = "x.safetensors"
        '''

        '''sh
        ./configure --which-is-not-run
        pythia-rt convert demo \\
          x.safetensors --format q8
        '''

        '''python
        print(pythia_rt.Model.load(name).spec["vocab_size"], model.spec["vocab_size"])
        '''

        '''text
        4096 4096
        '''

        <!-- needs: no_such_module -->
        '''python
        import no_such_module
        '''

        <!-- not run: it would fail -->

        '''python
        1 / 0
        '''
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (0, "['no_such_module']\n"), done.stderr
    assert (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ("python\n1 / 0", 'page.md", line 3, in <module>\n    1 / 0'),
        ("python\nprint('five')\n```\n```text\nfour", "page.md:3 prints\nfive\nand the page says"),
        ("sh\npythia-rt info nothing", "page.md:3: pythia-rt info nothing: status 1"),
        ("python\npythia_rt.Model.from_pretrained('a/b')", "a/b is not in the cache at revision"),
    ],
)
def test_what_goes_wrong_is_told_with_its_line(block: str, sentence: str, tmp_path: Path) -> None:
    done = run(f"\n```{block}\n```\n", tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr


@pytest.mark.parametrize(
    "page",
    [
        "<!-- not run -->\n'''python\n1\n'''",
        "<!-- not run: x -->\nsome text\n'''python\n1\n'''",
        "<!-- not run: x -->\n'''sh\nls\n'''",
    ],
)
def test_a_mark_that_marks_nothing_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"^line [0-9]+: a mark is "):
        documents.blocks(write(page))
