"""The trace of a token: its regions are the backend's operations, and it changes nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from bench import kinds, testing_extension, trace
from pythia_rt import _core
from pythia_rt.convert import FlatFile

needs_extension = pytest.mark.skipif(
    not os.environ.get(testing_extension.VARIABLE),
    reason="PYTHIA_RT_TESTING_DIR does not name a build of _testing",
)
# Of backend.h, what prepares a model, moves pages of caches and tells of a pass.
NO_OPERATIONS = {"make_ready", "check_heads", "upload", "download", "copy", "pass", "each"}
AROUND = {trace.ENTERING, trace.BETWEEN, trace.SAMPLING, trace.PYTHON}


def operations() -> set[str]:
    declared = (ROOT / "csrc" / "backend" / "backend.h").read_text()
    return set(re.findall(r"virtual void (\w+)\(", declared)) - NO_OPERATIONS


def test_every_operation_is_traced() -> None:
    source = (ROOT / "tests" / "native" / "timing" / "trace.cc").read_text()
    arguments = r"(?:[^()]|\([^()]*\))*"
    pairs = re.findall(rf'void (\w+)\({arguments}\) override \{{\s*timed\("(\w+)"', source)
    assert all(name == traced for name, traced in pairs)
    assert {name for name, _ in pairs} == operations()


@needs_extension
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_trace(demo_file: Callable[[str], Path], threads: int, temperature: float) -> None:
    file = FlatFile(demo_file("q8"))
    traced = trace.Writer(file, threads, "f16", testing_extension.load().traced)
    plain = trace.Writer(file, threads, "f16", _core)
    prompt = kinds.random_tokens(kinds.SHORT, int(file.spec["n_tokens"]))
    clocked = traced.session(kinds.SHORT + 6)
    written = traced.write(clocked, prompt, 6, temperature)
    expected = plain.write(plain.session(kinds.SHORT + 6), prompt, 6, temperature)
    assert (written.tokens, written.logprobs) == (expected.tokens, expected.logprobs)
    assert (len(clocked.steps), len(clocked.tokens)) == (6, 4)

    layers, heads = int(file.spec["n_layers"]), int(file.spec["n_heads"])
    for token in clocked.tokens:
        calls = {name: region.calls for (name, kernel), region in token.items() if kernel is None}
        assert {name: calls[name] for name in calls if name not in AROUND} == {
            "embed": 1,
            "norm_pair": layers,
            "linear_pair": 2 * layers,
            "attention": layers,
            "norm": 1,
            "linear": 1,
            "read_rows": 1,
        }
        assert token["norm_pair", "norm"].calls == 2 * layers
        assert token["linear_pair", "quantise"].calls == 4 * layers
        if threads == 1:
            assert token["attention", "rotate"].calls == 2 * heads * layers
            assert token["linear_pair", "product"].calls == 4 * layers
            assert token["attention", "attend"].calls == heads * layers
        assert all(region.microseconds >= 0 for region in token.values())
        for (name, kernel), region in token.items():
            assert kernel is None or region.microseconds <= token[name, None].microseconds


def test_the_median_token() -> None:
    def token(all_of_it: float, product: float | None, python: float) -> trace.Token:
        found: trace.Token = {("linear", None): trace.Region(1, all_of_it)}
        if product is not None:  # else another thread had all of it
            found["linear", "product"] = trace.Region(4, product)
        return {**found, (trace.PYTHON, None): trace.Region(1, python)}

    found = trace.medians([token(9, 5, 1), token(10, None, 2), token(12, 11, 7)])
    assert found == {
        ("linear", None): trace.Region(1, 10),
        ("linear", "product"): trace.Region(4, 5),
        ("linear", trace.REST): trace.Region(1, 4),
        (trace.PYTHON, None): trace.Region(1, 2),
    }
    lines = list(trace.lines(found))
    assert lines[0].split() == ["region", "calls", "µs"]
    assert [line.split()[-1] for line in lines[1:]] == ["10.0", "5.0", "4.0", "2.0", "12.0", "7.0"]


@needs_extension
def test_generate_prints_it(demo_file: Callable[[str], Path]) -> None:
    options = ("--trace", "--decode", "4", "--repetitions", "1", "--threads", "1")
    command = [sys.executable, "-m", "bench.generate", str(demo_file("q8")), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +linear_pair +\d+ +\d+\.\d$", done.stdout, re.M)
    assert re.search(r"^ +without products +\d+\.\d$", done.stdout, re.M)
    assert re.search(r"a step of the core takes [\d.]+ µs traced and [\d.]+ untraced", done.stdout)


def test_a_trace_needs_the_extension(demo_file: Callable[[str], Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.generate", str(demo_file("q8")), "--trace"]
    environment = {**os.environ, testing_extension.VARIABLE: str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no test extension")
