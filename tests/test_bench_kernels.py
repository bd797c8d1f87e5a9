"""bench.kernels runs, and names what it measured. Needs the test extension, see test_kernels.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from bench import testing_extension
from bench.records import recorded
from bench.workloads import PAGES, Shape
from pythia_rt import _core

needs_extension = pytest.mark.skipif(
    not os.environ.get(testing_extension.VARIABLE),
    reason="PYTHIA_RT_TESTING_DIR does not name a build of _testing",
)
FEW = ("--memory", 2, "--repetitions", 1, "--seconds", 0.0001, "--threads", 1)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.kernels", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    return done.stderr.splitlines()[-1]


@needs_extension
def test_every_kernel_of_every_isa(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    done = run("--shape", "48x80", "--rows", 1, 3, "--context", 20, *FEW, "--json", lines)
    assert done.returncode == 0, done.stderr
    found = recorded.read(lines)
    limits = {
        (r["limit"], r.get("pages") or r["isa"]) for r in recorded.select(found, kind="limit")
    }
    isas = _core.isa_names()
    multiplies = {(kind, isa) for kind in ("q8", "q6", "q5", "q4", "fp32") for isa in isas}
    assert limits == {("read", pages) for pages in PAGES} | multiplies
    kernels = recorded.select(found, kind="kernel")
    assert {(r["kernel"], r["format"], r["tokens"], r["isa"]) for r in kernels} == {
        (*kernel, isa)
        for isa in isas
        for kernel in (
            *(("linear", form, rows) for form in _core.format_names() for rows in (1, 3)),
            *(("attention", form, rows) for form in _core.kv_format_names() for rows in (1, 20)),
            ("norm", "f32", 256),
            ("quantise", "f32", 256),
        )
    }
    assert all(len(r["values"]) == 1 and min(r["values"]) > 0 for r in found)
    assert all(r["fraction"] > 0 and r["shape"] == "48x80" for r in kernels)
    assert "bf16 multiply rate: skipped" in done.stdout


@needs_extension
def test_bytes_and_operations(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    options = ("--shape", "32x64", "--rows", 5, "--context", 32, "--isas", "scalar")
    done = run(*options, "--formats", "f16", "q8", *FEW, "--json", lines)
    assert done.returncode == 0, done.stderr
    kernels = recorded.select(recorded.read(lines), kind="kernel")

    def amounts(**wanted: Any) -> tuple[float, float]:
        (record,) = recorded.select(kernels, **wanted)
        return record["bytes"], record["operations"]

    assert amounts(kernel="linear", format="f16") == (32 * 64 * 2, 2 * 32 * 64 * 5)
    assert amounts(kernel="linear", format="q8") == (32 * 64 + 32 * 2, 2 * 32 * 64 * 5)
    # One head of 64: keys and values, each 32 x 64.
    assert amounts(kernel="attention", format="f32", tokens=1) == (2 * 32 * 64 * 4, 4 * 64 * 32)
    seen = 32 * 33 // 2  # each of 32 tokens sees itself and those before
    assert amounts(kernel="attention", format="f32", tokens=32)[1] == 4 * 64 * seen


@needs_extension
def test_a_matrix_larger_than_the_memory_is_one_sentence() -> None:
    sentence = "a matrix of 67108864 bytes does not fit a memory of 2097152"
    assert last_line(run("--shape", "4096x4096", "--formats", "f32", *FEW)).endswith(sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--formats", "q3"), "argument --formats: invalid choice: 'q3'"),
        (("--isas", "mmx"), "argument --isas: invalid choice: 'mmx'"),
        (("--pages", "tiny"), "argument --pages: invalid choice: 'tiny'"),
        (("--shape", "64"), "64 is no shape: write ROWSxCOLUMNS, like 4096x1024"),
        (("--threads", "0"), "argument --threads: must be at least 1"),
        (("--rows", "many"), "argument --rows: invalid"),
        (("--seconds", "-1"), "argument --seconds: must be more than 0"),
    ],
)
def test_unknown_names_are_one_sentence(options: tuple[str, ...], sentence: str) -> None:
    assert sentence in last_line(run(*options))


def test_without_the_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(testing_extension.VARIABLE, str(tmp_path))
    assert last_line(run()).endswith(
        f"there is no test extension _testing*.so in {tmp_path}: build it with ./scripts/test, "
        "or name its folder in PYTHIA_RT_TESTING_DIR"
    )


def test_records_are_json_lines_that_append(tmp_path: Path) -> None:
    from bench import measure

    for number in range(2):
        measure.append_line(tmp_path / "lines", {"number": number})
    read = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert read == [{"number": 0}, {"number": 1}]


def test_heads_are_those_of_a_model_of_the_width() -> None:
    wide, narrow, tiny = Shape(8192, 2048), Shape(4096, 1024), Shape(48, 32)
    assert (wide.heads, wide.head_dim) == (16, 128)
    assert (narrow.heads, narrow.head_dim) == (16, 64)
    assert (tiny.heads, tiny.head_dim) == (1, 32)
