"""bench.report on records made by hand; its arithmetic and its sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from bench import report, roofline
from bench.records import plot_lines, recorded, table

Record = dict[str, Any]


def figures(*values: float, unit: str = "tokens/s") -> Record:
    return {"median": sorted(values)[len(values) // 2], "values": list(values), "unit": unit}


def limit(name: str, place: str, *values: float, threads: int = 1) -> Record:
    where = {"pages": place} if name == "read" else {"isa": place}
    unit = "GB/s" if name == "read" else "Gop/s"
    facts = {"benchmark": "kernels", "kind": "limit", "limit": name, "threads": threads}
    return {**facts, **where, **figures(*values, unit=unit)}


def kernel(name: str, form: str, tokens: int, seconds: float, **facts: Any) -> Record:
    return {
        "benchmark": "kernels", "kind": "kernel", "kernel": name, "format": form, "isa": "avx2",
        "shape": "64x64", "tokens": tokens, "threads": 1, "pages": "file", "bytes": 4096.0,
        "operations": 8192.0 * tokens, "read_limit": 20.0, "multiply_limit": 100.0, "fraction": 0.5,
        **figures(seconds, unit="s"), **facts,
    }  # fmt: skip


def generated(kind: str, runner: str, *values: float, **facts: Any) -> Record:
    return {
        "benchmark": "compare", "model": "tiny", "parameters": 70_000_000, "runner": runner,
        "kind": kind, "tokens": 64, "context": 0, "sequences": 1, "threads": 2, "isa": "avx2",
        "bytes_per_token": 10**8, "gigabytes_per_s": 20.0, "fraction": 0.75,
        **figures(*values), **facts,
    }  # fmt: skip


RECORDS: list[Record] = [
    limit("read", "small", 9.0, 10.0, 11.0),
    limit("read", "file", 19.0, 20.0, 21.0),
    limit("int8", "avx2", 100.0),
    limit("int8", "avx2", 190.0, threads=2),
    kernel("linear", "q8", 1, 4e-7),
    kernel("linear", "q8", 512, 2e-4),
    kernel("norm", "f32", 256, 1e-5, pages=None, read_limit=None),
    generated("decode", "pythia_rt q4", 99.0, 100.0, 103.0),
    generated("decode", "pythia_rt q4", 50.0, model="small", parameters=160_000_000),
    generated("decode", "other", 20.0),
    generated("prefill", "other", 200.0, tokens=512),
    generated("long", "other", 18.0, context=128),
    generated("long", "other", 9.0, context=1024),
    generated("load", "other", 0.25, unit="s", gigabytes_per_s=None, fraction=None),
    {"benchmark": "conversion", "seconds": 3},
]


def write(path: Path, found: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in found))
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.report", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_table() -> None:
    cells = [("name", "figure"), ("long name", "1"), ("b", "22")]
    assert list(table.lines(cells)) == [
        "| name      | figure |",
        "|-----------|-------:|",
        "| long name |      1 |",
        "| b         |     22 |",
    ]
    assert list(table.lines(cells, markdown=False))[2] == "b              22"


def test_a_fraction_is_of_the_limit_that_binds() -> None:
    # 10 bytes and 40 operations a pass; the machine halves its speed in the second repetition.
    roof = roofline.Roof([200.0, 100.0, 200.0], [1000.0, 500.0, 1000.0])
    read, multiply, whole = roofline.of_limits([10.0, 5.0, 10.0], 10, 40, roof)
    assert (read, multiply, whole) == (0.5, 0.4, 0.5)
    assert roofline.of_limits([10.0], 10, 40, roofline.Roof(None, [500.0])) == (None, 0.8, 0.8)
    assert roofline.of_limits([10.0], 10, 40, roofline.Roof([500.0], None)) == (0.2, None, 0.2)


def test_tables_hold_every_record(tmp_path: Path) -> None:
    lines = list(report.markdown(recorded.read(write(tmp_path / "lines", RECORDS))))
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert ["read", "file pages", "20.0 ±   5%", "", "GB/s"] in cells
    assert ["int8", "avx2", "100.0 ±   0%", "190.0 ±   0%", "Gop/s"] in cells
    assert "## Kernels: avx2, 1 thread, 64x64" in lines
    assert ["linear", "q8", "1", "0.4", "10.2", "20.0", "20.5", "100.0", "50%"] in cells
    assert ["norm", "f32", "256", "10.0", "0.4", "", "209.7", "100.0", "50%"] in cells
    place = ["64", "0", "1", "2", "avx2"]
    assert ["tiny", "70 M", "pythia_rt q4", "decode", *place, "100", "2%", "tokens/s", "20.0",
            "75%"] in cells  # fmt: skip
    assert ["tiny", "70 M", "other", "load", *place, "0.25", "0%", "s", "", ""] in cells
    assert not any("conversion" in line for line in lines)


def test_the_last_of_equal_measurements_counts(tmp_path: Path) -> None:
    twice = [generated("decode", "a", 1.0), generated("decode", "a", 2.0)]
    (found,) = recorded.read(write(tmp_path / "lines", twice))
    assert found["median"] == 2.0


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = run(write(tmp_path / "lines", RECORDS), "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    names = ["context-avx2-2.png", "roofline-avx2-1-64x64.png", "speed-avx2-2.png"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == names
    for name in names:
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(f"({name})" in text for name in names)
    assert done.stdout.splitlines()[0].endswith("report.md")


@given(st.lists(st.floats(0, 500), min_size=1, max_size=12).map(sorted))
def test_names_at_the_ends_of_lines_do_not_touch(wanted: list[float]) -> None:
    places = plot_lines.apart(wanted)
    assert all(b - a >= plot_lines.NAME_HEIGHT - 1e-6 for a, b in pairwise(places))
    if all(b - a >= plot_lines.NAME_HEIGHT for a, b in pairwise(wanted)):
        assert places == pytest.approx(wanted)
    assert sum(places) == pytest.approx(sum(wanted))  # as many up as down


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    (hidden / "matplotlib").mkdir(parents=True)
    (hidden / "matplotlib" / "__init__.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    lines = write(tmp_path / "lines", RECORDS)
    assert "## Models" in run(lines).stdout
    failed = run(lines, "--output", tmp_path / "out")
    assert failed.returncode == 2
    sentence = "error: plots need matplotlib: install it with pip install 'pythia_rt[plot]'"
    assert failed.stderr.splitlines()[-1].endswith(sentence)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no records of kernels, compare, generate"),
        ('{"benchmark": "conversion"}', "has no records of kernels, compare, generate"),
        ("[1]", "line 1: not a record of a benchmark"),
        ("\nnonsense", "line 2: not a record of a benchmark"),
        (
            '{"benchmark": "compare", "kind": "decode", "threads": 1}',
            "line 1: a record of compare without median, values",
        ),
        (
            '{"benchmark": "kernels", "kind": "limit", "threads": 1, "median": 1, "values": [1]}',
            "line 1: a record of kernels without limit, unit",
        ),
        (json.dumps(generated("decode", "a", 1.0) | {"values": ["x"]}), "values are not numbers"),
        (json.dumps(generated("decode", "a", 1.0) | {"values": []}), "there are no values"),
    ],
)
def test_bad_input_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(text)
    failed = run(path)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("report.py: error: ")
    assert sentence in failed.stderr.splitlines()[-1]


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    failed = run(tmp_path / "none")
    assert failed.returncode == 2
    assert "No such file" in failed.stderr.splitlines()[-1]
