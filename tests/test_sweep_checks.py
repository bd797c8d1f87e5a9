"""What sweeps refuse before anything is fetched, converted or started."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pickle
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from sweeps import TEXT, contents, lines, save, sweep, write_suite

from pythia_rt import Model, sweeps
from pythia_rt.cli import main


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("models") / "suite", (0, 1))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_folders_that_cannot_be_had_are_refused_first(
    suite: Path, text: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    for out, sentence in [
        (text, r"text\.txt is a file: choose another folder"),
        (text / "a" / "b", r"cannot write in .*b \(Not a directory\): choose another folder"),
    ]:
        with pytest.raises(OSError, match=sentence):
            sweep("nobody/asks-the-hub", out, f"perplexity:{text}")
    assert contents(tmp_path) == before


def test_an_executor_may_be_made_when_all_is_checked(
    suite: Path, text: Path, tmp_path: Path
) -> None:
    made: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(1))
        return made[-1]

    found = sweep(suite, tmp_path / "out", f"perplexity:{text}", steps="0", executor=make)
    assert (found.measured, found.failures) == (1, [])
    with pytest.raises(RuntimeError, match="after shutdown"):
        made[0].submit(int)
    with pytest.raises(ValueError, match="workers has no effect with an executor"):
        sweep(suite, tmp_path / "other", f"perplexity:{text}", executor=make, workers=2)
    assert len(made) == 1


def test_the_command_starts_no_cluster_for_what_is_refused(
    suite: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []

    def cluster(*given: Any, **options: Any) -> ThreadPoolExecutor:
        started.append((given, options))
        return ThreadPoolExecutor(1)

    monkeypatch.setattr("pythia_rt.sweeps.RayCluster", cluster)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    command = ["sweep", str(suite), "--ray", "local", "--steps", "0", "--quiet"]
    for more, sentence in [
        (["--metric", f"perplexity:{text},window=4,stride=8", "--out", "out"], "stride must be"),
        (["--metric", f"perplexity:{text}", "--out", str(text)], "text.txt is a file"),
        (["--metric", f"divergence:{text},to_step=3", "--out", "out"], "has no step 3"),
    ]:
        done = CliRunner().invoke(main, [*command, *more])
        assert done.exit_code == 1 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not started
    more = ["--metric", f"perplexity:{text}", "--out", str(tmp_path / "out"), "--threads", "2"]
    assert CliRunner().invoke(main, [*command, *more]).exit_code == 0
    assert started == [(("local",), {"threads": 2})]


@pytest.mark.parametrize(
    "metric",
    [
        sweeps.Memorisation(save(np.ones((3, 20), int))),
        sweeps.Continuations(lines({"context": "a", "continuations": " b"})),
        sweeps.Continuations(lines({"context": "a", "continuations": [" b"], "answer": 1})),
        sweeps.LastWords(lines({"text": "alone"})),
        sweeps.TokenStats(sweeps.Given("x.npy", b"\x93NUMPY nothing")),
        sweeps.Ngram("a b", save(np.array([{"a": 1}], object))),
        sweeps.Divergence(sweeps.Given("x.txt", b"\xff\xfe\xfd"), to_step=1),
        sweeps.Perplexity(save(np.array([1.5]))),
        sweeps.HeadScores(low=7, high=7),
    ],
)
def test_what_no_model_can_measure_is_told_without_one(
    suite: Path, metric: sweeps.Metric, tmp_path: Path
) -> None:
    with pytest.raises(ValueError):
        metric.check()
    model = Model.from_pretrained(suite / "step0", format="f32", cache_dir=tmp_path)
    with pytest.raises(ValueError):
        metric.measure(model, model)


def test_a_missing_harness_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pythia_rt.lm_eval", None)
    with pytest.raises(ImportError):  # of another module than the harness: not hidden
        sweeps.Harness("sciq")
    monkeypatch.delitem(sys.modules, "pythia_rt.lm_eval")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "lm_eval" else found(name, *a)
    )
    with pytest.raises(ValueError, match="not installed: install it with pip install 'pythia_rt"):
        sweeps.read_metrics("harness:sciq")


def test_numbers_are_what_they_can_be() -> None:
    for options, sentence in [
        ({"length": 1}, "length of head_scores must be 2 or more, not 1"),
        ({"seed": -1}, "seed of head_scores must be 0 or more, not -1"),
        ({"high": 0}, "high of head_scores must be 1 or more, not 0"),
        ({"rows": None}, "rows of head_scores must be 1 or more, not None"),
        ({"rows": True}, "rows of head_scores must be 1 or more, not True"),
        ({"rows": 1.5}, "rows of head_scores must be 1 or more, not 1.5"),
    ]:
        with pytest.raises(ValueError) as caught:
            sweeps.HeadScores(**options)
        assert str(caught.value) == sentence
    with pytest.raises(ValueError, match=r"must be 1 \(single tokens\) or 2 \(pairs\), not 3"):
        sweeps.Ngram("a b", "a b", order=3)
    with pytest.raises(ValueError, match="prompt of memorisation must be 1 or more, not 0"):
        sweeps.Memorisation("a b", prompt=0)
    with pytest.raises(ValueError, match="to_step of divergence must be 0 or more, not -1"):
        sweeps.Divergence("a b", to_step=-1)
    # A seed and a lowest id may be 0, what is optional may be None; numpy's become Python's own.
    found = sweeps.HeadScores(rows=np.int64(3), length=np.uint8(4))  # type: ignore[arg-type]
    assert json.dumps(found.options()) == (
        '{"rows": 3, "length": 4, "seed": 0, "low": 0, "high": null}'
    )
    assert found == sweeps.HeadScores(3, 4) == dataclasses.replace(sweeps.HeadScores(3), length=4)
    with pytest.raises(ValueError, match="rows of head_scores"):
        dataclasses.replace(found, rows=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.rows = 5  # type: ignore[misc]


def test_a_metric_of_ones_own_says_what_may_be_0() -> None:
    def measure(self: sweeps.Metric, model: Model, reference: Model | None) -> sweeps.Measured:
        return sweeps.Measured([])

    def kind(**fields: Any) -> type[sweeps.Metric]:
        types = {"layer": "int", "width": "int | None", "flag": "bool", "share": "float"}
        body = {"__annotations__": types, "measure": measure, "name": "own", **fields}
        return sweeps.metric(type("Own", (sweeps.Metric,), {"flag": False, "share": 0.0, **body}))

    with pytest.raises(ValueError, match="layer of own must be 1 or more, not 0"):
        kind(layer=0, width=None)
    own = kind(layer=sweeps.whole(0, 11, default=0), width=None)
    assert own().options() == {"layer": 0, "width": None, "flag": False, "share": 0.0}
    for options in ({"layer": 12}, {"layer": None}, {"width": 0}):
        with pytest.raises(ValueError, match=r"of own must be (from 0 to 11|1 or more), not"):
            own(**options)
    assert pickle.loads(pickle.dumps(sweeps.Perplexity("A text.", stride=3))).stride == 3
