"""The benchmarks of many texts, reuse and drafts run; no figure decides."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_bench_speed import run

from bench import shapes
from bench.peers.isolated import Local
from bench.peers.ours import PythiaRt
from bench.serving import constructed, mixed
from bench.serving.__main__ import KINDS
from bench.serving.drafts import drafts
from bench.serving.figures import Setting, Sizes
from pythia_rt import Model
from pythia_rt.convert import convert

SMALL = Sizes(
    prompts=3,
    lengths=(2, 9),
    new=3,
    arriving=40,
    written=4,
    rows=2,
    seen=130,
    prompt=150,
    samples=2,
    sampled=140,
    context=20,
    continuations=2,
)


@pytest.fixture(scope="module")
def flat(demo_file: Callable[[str], Path]) -> Path:
    return demo_file("q4")


@pytest.fixture(scope="module")
def setting(flat: Path) -> Setting:
    return Setting(flat, Model.load(flat, threads=2), 2, 1, SMALL)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "drafts"])
def test_kinds(kind: str, setting: Setting) -> None:
    figures = list(KINDS[kind](setting))
    assert len(figures) > 1
    assert all(figure.kind == kind and figure.values for figure in figures)
    assert len({figure.runner for figure in figures}) == len(figures)
    if kind == "samples":  # of 143 positions the second page is each one's own
        assert figures[-1].values[-1] == 1 + 2


def test_drafts(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    tiny = shapes.Shape(1, 64, 2, 500)
    monkeypatch.setitem(shapes.PYTHIA, "1.4b", tiny)
    monkeypatch.setitem(shapes.PYTHIA, "70m", tiny)
    sizes = dataclasses.replace(SMALL, new=60)
    figures = {f.runner: f for f in drafts(dataclasses.replace(setting, sizes=sizes))}
    assert figures["70m, never agrees: accepted"].median == 0
    # Of the first four guesses, which are always made, three are right; of how many more, times
    # decide.
    assert 0 < figures["70m, agrees in 70%: accepted"].median < 100
    assert figures["lookup, the text repeats: accepted"].median == 100


def test_maps_of_constructed_models() -> None:
    after = constructed.next_tokens(300)
    assert sorted(after) == list(range(300))
    assert after[0] == 0
    other = constructed.agreeing(after, 0.7)
    assert (other == after).sum() == pytest.approx(210, abs=2)
    assert (constructed.agreeing(after, 0) == after).sum() == 1  # the token that ends texts


def test_a_constructed_model_writes_its_map(tmp_path: Path) -> None:
    after = constructed.next_tokens(500)
    config = shapes.config("14m") | {"vocab_size": 500, "num_hidden_layers": 1}
    source = constructed.write(tmp_path / "source", config, after)
    with pytest.warns(UserWarning, match="no tokenizer"):
        model = Model.load(convert(source, tmp_path / "flat", format="q4"))
    ids = np.arange(1, 500)
    assert model.logits(ids.tolist()).argmax(1).tolist() == after[ids].tolist()


def test_what_peers_are_asked_for(flat: Path, setting: Setting) -> None:
    """Any runner can do it, so ours stands in for them."""
    work = mixed.MixedWork(1, SMALL.new, 1, 1, 1, 2, tuple(mixed.lengths(SMALL)))
    measure = Local(PythiaRt(flat, 1, work.room), work).measurement("mixed", 4096)
    assert measure is not None
    assert measure() > 0
    assert mixed.start_peers(setting, flat.parent) == {}


def test_the_command(flat: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    options = ("--samples", 2, "--sampled", 20, "--new", 2, "--threads", 1, "--repetitions", 1)
    found = run("serving", flat, "samples", "pairs", *options, "--context", 9, "--json", lines)
    assert "as many prompts" in found
    machine, *records = map(json.loads, lines.read_text().splitlines())
    assert machine["benchmark"] == "machine"
    assert {record["kind"] for record in records} == {"samples", "pairs"}
    assert all(record["median"] > 0 and record["values"] for record in records)
