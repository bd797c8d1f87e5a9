"""The benchmarks of speed run, write what they say, and skip peers that are not there."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from bench import compare, fresh, generate, kinds, limits, measure, testing_extension
from bench.peers import registry
from bench.peers.isolated import Isolated, Local
from bench.peers.likelihood import log_likelihoods
from bench.peers.ours import PythiaRt
from bench.peers.protocol import Reads, Room, Runner, Scorer, Source, Stepper, Tokens, Writer
from bench.records import measured
from pythia_rt import Model, _core
from pythia_rt.convert import convert

DEMO = ROOT / "pythia_rt" / "demo"
SMALL = ("--prefill", 12, "--decode", 3, "--context", 20, "--sequences", 2, "--threads", 1)
WORK = kinds.Work(prefill=12, decode=3, context=20, sequences=2, texts=2, text_length=9)
FIELDS = {
    *("benchmark", "model", "parameters", "runner", "kind", "tokens", "context", "sequences"),
    *("threads", "isa", "median", "values", "unit", "bytes_per_token", "gigabytes_per_s"),
    "fraction",
}


def run(module: str, *arguments: object) -> str:
    command = [sys.executable, "-m", f"bench.{module}", *map(str, arguments)]
    environment = {name: text for name, text in os.environ.items() if name != "OPTIMUM_PYTHON"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def read_lines(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    machine, *lines = map(json.loads, path.read_text().splitlines())
    return machine, lines


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(DEMO, tmp_path_factory.mktemp("flat") / "demo.q8", format="q8")


def test_generate(flat: Path, tmp_path: Path) -> None:
    run("generate", flat, *SMALL, "--repetitions", 2, "--json", tmp_path / "lines")
    machine, lines = read_lines(tmp_path / "lines")
    assert machine["benchmark"] == "machine"
    assert machine["cores"] >= 1
    assert {"pythia_rt", "numpy"} <= set(machine["versions"])
    assert all(set(line) == FIELDS for line in lines)
    assert {line["kind"] for line in lines} == set(generate.KINDS)
    found = {(line["kind"], line["runner"]): line for line in lines}
    assert found["decode", "pythia_rt q8"]["bytes_per_token"] > 1e6
    assert len(found["decode", "pythia_rt q8"]["values"]) == 2
    assert found["batch", "pythia_rt q8"]["sequences"] == 2
    assert found["long", "pythia_rt q8"]["context"] == 20
    assert found["load", "pythia_rt q8, mapping"]["unit"] == "s"
    assert ("first_token", "pythia_rt q8, command line") in found
    memory = {line["runner"]: line["median"] for line in lines if line["kind"] == "memory"}
    assert memory["pythia_rt q8"] > memory["pythia_rt q8, before loading"] > 1
    assert memory["pythia_rt q8, file"] == flat.stat().st_size / 1e6


def test_generate_measures_only_what_is_asked_for(flat: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    run("generate", flat, *SMALL, "--repetitions", 1, "--kinds", "prefill", "--json", lines)
    assert [line["kind"] for line in read_lines(lines)[1]] == ["prefill"]


def test_compare(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    options = (*SMALL, "--texts", 2, 9, "--repetitions", 1, "--json", lines)
    run("compare", DEMO, *options, "--formats", "q8", "--peers", "transformers:float32")
    machine, found = read_lines(lines)
    assert machine["benchmark"] == "machine"
    assert all(set(line) == FIELDS for line in found)
    assert [(line["kind"], line["runner"]) for line in found] == [
        (kind, runner)
        for kind in kinds.KINDS
        for runner in ("pythia_rt q8", "transformers float32")
    ]


@pytest.mark.parametrize("module", ["compare", "generate"])
def test_work_longer_than_the_context_is_refused(module: str, flat: Path) -> None:
    source = DEMO if module == "compare" else flat
    command = [sys.executable, "-m", f"bench.{module}", str(source), "--context", "1000000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "long needs 1000064 tokens" in done.stderr


class Stepping:
    """A runner that can do one sequence, and counts."""

    vocab_size = 10
    reads = Reads(None, None)

    def __init__(self) -> None:
        self.steps = 0

    def start(self, *prompts: Tokens) -> None:
        if len(prompts) > 1:
            raise NotImplementedError("one sequence at a time")

    def step(self) -> None:
        self.steps += 1


class Writing:
    """A runner with a loop of its own."""

    vocab_size = 10
    reads = Reads(None, None)

    def start(self, *prompts: Tokens) -> None:
        pass

    def write_seconds(self, prompts: list[Tokens], count: int) -> float:
        return 0.5


def test_runners_are_told_apart_by_what_they_can_do(flat: Path) -> None:
    ours = PythiaRt(flat, 1, WORK.room)
    assert isinstance(ours, Stepper)
    assert isinstance(ours, Scorer)
    assert not isinstance(ours, Writer)
    assert isinstance(Writing(), Writer)
    assert not isinstance(Writing(), Stepper)
    assert WORK.measurement("score", Writing(), 10) is None
    rate = WORK.measurement("batch", Writing(), 10)
    assert rate is not None
    assert rate() == 2 * 3 / 0.5
    stepping = Stepping()
    rate = WORK.measurement("decode", stepping, 10)
    assert rate is not None
    assert rate() > 0
    assert stepping.steps == 3


def test_a_failing_runner_is_left_out_of_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(repetitions=2)
    about = compare.About("model", 5, 1, "scalar")
    subjects = {"a peer": Local(Stepping(), WORK), "another": Local(Writing(), WORK)}
    found = compare._measure("batch", subjects, WORK, options, about)
    assert found["a peer"] is None
    assert "a peer cannot do batch: one sequence at a time" in capsys.readouterr().out
    assert found["another"] is not None
    assert found["another"].values == [12.0, 12.0]
    compare._report("batch", found, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["batch", "a", "peer", "-"]
    assert "12.0" in second


def broken() -> Runner:
    raise RuntimeError("no luck\nand more lines")


def crashing() -> Runner:
    os._exit(3)


def test_a_peer_that_does_not_load_is_skipped_with_its_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    loads: dict[str, compare.Load] = {"a peer": broken, "a bad one": crashing, "another": Writing}
    subjects = compare._start(loads, WORK)
    assert subjects.keys() == {"another"}
    assert capsys.readouterr().out == (
        "a peer is skipped: no luck\na bad one is skipped: its process ended with 3\n"
    )
    with pytest.raises(RuntimeError, match="no luck"):
        compare._start({"pythia_rt q4": broken}, WORK)
    subjects["another"].close()


def test_an_isolated_runner_does_what_a_local_one_does() -> None:
    isolated = Isolated(Writing, WORK)
    assert (isolated.vocab_size, isolated.reads) == (10, Reads(None, None))
    assert isolated.measurement("score", 10) is None
    rate = isolated.measurement("batch", 10)
    assert rate is not None
    assert rate() == 2 * 3 / 0.5
    isolated.close()
    stepping = Isolated(Stepping, WORK)
    rate = stepping.measurement("batch", 10)
    assert rate is not None
    with pytest.raises(RuntimeError, match="one sequence at a time"):
        rate()
    rate = stepping.measurement("decode", 10)
    assert rate is not None
    assert rate() > 0
    stepping.close()


def test_a_peer_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind = registry.PEERS["ctranslate2"]._replace(modules=("no_such_module",))
    monkeypatch.setitem(registry.PEERS, "ctranslate2", kind)
    with pytest.raises(ImportError, match="not installed: no_such_module"):
        registry.load("ctranslate2", "int8", Source(DEMO, tmp_path, 1, Room(1, 1, 1)))


def test_peers_are_chosen_by_name() -> None:
    assert registry.chosen("openvino") == [("openvino", "int8"), ("openvino", "int4")]
    assert registry.chosen("llama.cpp:Q8_0") == [("llama.cpp", "Q8_0")]
    for wrong in ("llama", "llama.cpp:int8", ""):
        with pytest.raises(ValueError, match="there is no peer"):
            registry.chosen(wrong)


def test_decoding_has_its_part_of_the_bandwidth() -> None:
    texts = {"benchmark": "compare", "model": "m", "runner": "r", "isa": "scalar"}
    counts = {"parameters": 1, "tokens": 4, "context": 10, "sequences": 1, "threads": 1}
    facts: dict[str, Any] = {**texts, **counts}
    rates = measure.Rates([90.0, 100.0, 120.0])
    record = measured.of_rates(
        rates, kind="decode", reads=Reads(10**8, 10**6), bandwidth=20.0, **facts
    )
    assert (record.median, record.gigabytes_per_s, record.fraction) == (100.0, 10.0, 0.5)
    assert " ".join(record.line().split()) == (
        "100.0 ± 15% tokens/s, 10.0 GB/s read, 50% of the memory's"
    )
    unknown = measured.of_rates(rates, kind="decode", reads=Reads(None, 1), bandwidth=1.0, **facts)
    assert (unknown.gigabytes_per_s, unknown.fraction) == (None, None)
    after = measured.of_rates(
        rates, kind="long", reads=Reads(10**8, 10**7), bandwidth=20.0, **facts
    )
    assert (after.bytes_per_token, after.gigabytes_per_s) == (10**8 + 12 * 10**7, 22.0)
    unknown = measured.of_rates(rates, kind="long", reads=Reads(10, None), bandwidth=1.0, **facts)
    assert (unknown.bytes_per_token, unknown.fraction) == (None, None)
    batch = measured.of_rates(rates, kind="batch", reads=Reads(10, 1), bandwidth=1.0, **facts)
    assert (batch.gigabytes_per_s, batch.fraction) == (None, None)


def test_the_first_run_does_not_count() -> None:
    calls: list[str] = []

    def noted(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    rates = measure.alternate({"a": lambda: noted("a"), "b": lambda: noted("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert rates["a"].values == [3.0, 5.0]


def test_bandwidth_is_unknown_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise ImportError("there is none")

    monkeypatch.setattr(testing_extension, "load", absent)
    assert limits.bandwidth(2) is None
    rates, bandwidth = limits.alternate({"a": lambda: 4.0}, 2, 2)
    assert (rates["a"].values, bandwidth) == ([4.0, 4.0], None)


def test_bandwidth_is_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    class Work:
        bytes = 35.0e9

        def time(self, pool: object, seconds: float) -> float:
            seen.append(("time", pool))
            return 2.0

    class Extension:
        @staticmethod
        def PageBuffer(size: int, kind: str) -> str:  # noqa: N802
            seen.append((size, kind))
            return "pages"

        @staticmethod
        def ThreadPool(threads: int) -> str:  # noqa: N802
            return f"pool of {threads}"

        @staticmethod
        def read_workload(isa: str, pages: str) -> Work:
            assert (isa, pages) == (_core.isa_names()[0], "pages")
            return Work()

    monkeypatch.setattr(testing_extension, "load", lambda: Extension)
    rates, bandwidth = limits.alternate({"a": lambda: 4.0}, 2, 2)
    assert (rates.keys(), bandwidth) == ({"a"}, 17.5)
    assert seen == [(1 << 30, "huge"), *[("time", "pool of 2")] * 3]


@pytest.mark.skipif(
    not os.environ.get(testing_extension.VARIABLE),
    reason="PYTHIA_RT_TESTING_DIR does not name a build of _testing",
)
def test_the_extension_has_what_the_bandwidth_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BYTES", 1 << 21)
    read = limits.bandwidth(1)
    assert read is not None
    assert read() > 0


def test_ways_to_load(flat: Path) -> None:
    assert generate.LOAD_WAYS == {"mapping": False, "copying": True}
    for copy in generate.LOAD_WAYS.values():
        assert Model.load(flat, copy=copy).spec


def test_likelihoods_are_those_of_the_softmax() -> None:
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((7, 11)).astype(np.float32)
    tokens = generator.integers(0, 11, 7, np.int32)
    weights = np.exp(logits.astype(np.float64))
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.log(weights[np.arange(6), tokens[1:]])
    for threads in (1, 3):
        np.testing.assert_allclose(log_likelihoods(logits, tokens, threads), expected, atol=1e-5)


def test_sequences_together_write_what_each_writes_alone(flat: Path) -> None:
    runner = PythiaRt(flat, 1, Room(40, 40, 3))
    prompts = kinds.several(3, 8, runner.vocab_size)
    alone = []
    for prompt in prompts:
        runner.start(prompt)
        runner.step()
        alone += [int(token[0]) for token in runner._following]
    runner.start(*prompts)
    runner.step()
    assert [int(token[0]) for token in runner._following] == alone


@pytest.mark.parametrize(
    ("kv_format", "expected"), [("f32", 4 * 2 * 64), ("f16", 2 * 2 * 64), ("q8", 2 * 64 + 4 * 4)]
)
def test_size_of_the_cache(kv_format: str, expected: int) -> None:
    spec = {"head_dim": 64, "n_layers": 3, "n_kv_heads": 2}
    assert fresh.kv_bytes(spec, kv_format, 17) == 3 * 2 * expected * 128


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast One\nmodel name\t: Fast One\n")
    assert measured.processor(cpuinfo) == "Fast One"
    assert measured.processor(tmp_path / "none")


def test_pairs_are_measured_beside_whole_texts(flat: Path) -> None:
    options = ("--context", 20, "--lengths", 1, 3, "--repetitions", 1, "--threads", 1)
    _, *lines = run("pairs", flat, *options).splitlines()
    assert [line.split(" ms")[0].rsplit(" ", 1)[0] for line in lines] == [
        f"4 continuations of {length} tokens after 20: whole texts" for length in (1, 3)
    ]
