"""Sweeps of a small random suite: results, going on, executors, kills, and what goes wrong."""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import measured
import pytest
from click.testing import CliRunner
from sweeps import STEPS, TEXT, contents, sweep, write_suite

import pythia_rt
from pythia_rt.cli import main
from pythia_rt.sweeps import HeadScores, Perplexity, Processes
from pythia_rt.sweeps import results as results_module
from pythia_rt.sweeps.plan import EVALS

KILLS = int(os.environ.get("PYTHIA_RT_KILLS", "4"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_suite(tmp_path_factory.mktemp("models") / "suite")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def steps_of(found: pythia_rt.Sweep, metric: str) -> list[int]:
    return [row["step"] for row in found.rows if row["metric"] == metric]


def test_a_sweep_measures_each_step_and_drops_it(suite: Path, text: Path, tmp_path: Path) -> None:
    found = sweep(suite, tmp_path / "out", f"perplexity:{text}", steps="0,8,1000")
    assert (found.measured, found.skipped, found.failures) == (3, 0, [])
    assert steps_of(found, "perplexity") == [0, 8, 1000]
    for row in found.rows:
        assert {**row, "value": 0, "stderr": 0} == {
            "model": "suite", "step": row["step"], "commit": "", "digest": row["digest"],
            "format": "q8", "metric": row["metric"], "value": 0, "stderr": 0, "n": row["n"],
            "asked": "perplexity:text=text.txt", "arrays": None,
        }  # fmt: skip
    model = pythia_rt.Model.from_pretrained(suite / "step8", format="q8", cache_dir=tmp_path / "c")
    truth = model.perplexity(TEXT)
    mine = {row["metric"]: row["value"] for row in found.rows if row["step"] == 8}
    assert mine["nats_per_token"] == pytest.approx(truth.nats_per_token, rel=1e-12)
    assert mine["perplexity"] == pytest.approx(truth.perplexity, rel=1e-12)
    assert mine["bits_per_byte"] == pytest.approx(truth.bits_per_byte, rel=1e-12)
    # No flat file and no other file is left, and the tables say what the rows say.
    kept = contents(tmp_path / "out")
    assert {Path(name).suffix for name in kept} == {".json", ".jsonl", ".csv"}
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found.rows
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert [float(row["value"]) for row in csv.DictReader(file)] == [
            row["value"] for row in found.rows
        ]


def test_what_was_measured_is_not_measured_again(suite: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = sweep(suite, out, f"perplexity:{text}", steps=[1, 2])
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("step*.json")}
    more = sweep(suite, out, [f"perplexity:{text}", measured.slow], steps=[1, 2, 4])
    assert (first.measured, more.measured, more.skipped) == (2, 4, 2)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert steps_of(more, "slow") == steps_of(more, "perplexity") == [1, 2, 4]
    # Another text, another format and other options are other results.
    text.write_text(TEXT + "More of it.")
    assert sweep(suite, out, f"perplexity:{text}", steps=1).measured == 1
    assert sweep(suite, out, f"perplexity:{text}", steps=1, format="q4").measured == 1
    assert sweep(suite, out, f"perplexity:{text},window=64", steps=1).measured == 1
    assert sweep(suite, out, f"perplexity:{text},window=64", steps=1).measured == 0


def test_changed_weights_are_measured_anew(text: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite", (0, 1))
    before = sweep(suite, tmp_path / "out", f"perplexity:{text}")
    shutil.rmtree(suite / "step1")
    write_suite(suite, (1,), seed=7)
    after = sweep(suite, tmp_path / "out", f"perplexity:{text}")
    assert (before.measured, after.measured, after.skipped) == (2, 1, 1)
    digests = {row["digest"] for row in after.rows if row["step"] == 1}
    assert len(digests) == 2  # what was measured stays


def test_every_executor_gives_the_same_bytes(
    suite: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = [f"perplexity:{text}", f"divergence:{text},to_step=8,max_tokens=50", measured.slow]
    names = ["here", "threads", "processes"]
    sweep(suite, tmp_path / "here", metrics, steps="0,2,8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ThreadPoolExecutor(2) as executor:
        sweep(suite, tmp_path / "threads", metrics, steps="0,2,8", executor=executor)
    sweep(suite, tmp_path / "processes", metrics, steps="0,2,8", workers=2)
    found = [contents(tmp_path / name) for name in names]
    assert found[0] == found[1] == found[2]
    assert not list(Path(tempfile.gettempdir()).glob("pythia_rt-sweep-*/*"))
    assert sum(name.endswith(".npz") for name in found[0]) == 3


def test_a_dead_worker_s_checkpoint_is_tried_in_another(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "died"
    monkeypatch.setenv("SWEEP_DEADLY", str(marker))
    found = sweep(suite, tmp_path / "out", measured.deadly, steps="0,1", workers=2)
    assert marker.exists() and found.measured == 2 and not found.failures
    monkeypatch.setenv("SWEEP_DEADLY", "always")
    found = sweep(suite, tmp_path / "other", measured.deadly, steps="0", workers=2)
    assert found.measured == 0
    assert [failure["error"] for failure in found.failures] == ["BrokenProcessPool"]


def test_processes_are_an_executor() -> None:
    with Processes(1) as pool:
        futures = [pool.submit(divmod, 7, 2), pool.submit(divmod, 7, 0)]
        assert futures[0].result() == (3, 1)
        with pytest.raises(ZeroDivisionError):
            futures[1].result()


def test_a_killed_sweep_goes_on(suite: Path, text: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments: nothing is lost but what was in flight, nothing is there twice."""
    metrics = [f"perplexity:{text}", "measured:slow"]
    command = [sys.executable, "-m", "pythia_rt", "sweep", str(suite), "--quiet"]
    for metric in metrics:
        command += ["--metric", metric]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def start(out: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--out", out], cwd=tmp_path, env=environment)

    assert start("whole").wait() == 0
    whole = contents(tmp_path / "whole")
    assert len(whole) == 2 * len(STEPS) + 2
    results = tmp_path / "killed" / "results"
    chance = random.Random(17)
    kept: dict[Path, int] = {}
    for _ in range(KILLS):
        process = start("killed")
        # Some time after its first new result, wherever it is then.
        while process.poll() is None and len(list(results.glob("*/*.json"))) <= len(kept):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
        kept = {path: path.stat().st_mtime_ns for path in results.glob("*/*.json")}
    assert start("killed").wait() == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())
    assert contents(tmp_path / "killed") == whole


def test_what_raises_is_recorded_and_tried_again(
    suite: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    monkeypatch.setenv("SWEEP_BROKEN", str(broken))
    metrics = [measured.fragile, f"perplexity:{text}"]
    for workers in (1, 2):  # the exception comes back from another process too
        found = sweep(suite, tmp_path / f"out{workers}", metrics, steps="0,1", workers=workers)
        assert found.measured == 2
        assert found.failures == [
            {
                "model": "suite",
                "step": step,
                "commit": "",
                "metric": "measured:fragile",
                "error": "ZeroDivisionError",
                "message": "this function is broken",
            }
            for step in (0, 1)
        ]
    broken.unlink()
    found = sweep(suite, tmp_path / "out1", metrics, steps="0,1")
    assert (found.measured, found.skipped, found.failures) == (2, 2, [])
    assert [row["value"] for row in found.rows if row["metric"] == "layers"] == [2, 2]


def test_a_damaged_checkpoint_fails_alone(text: Path, tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "suite", (0, 1, 2))
    weights = suite / "step1" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    command = ["sweep", str(suite), "--metric", f"perplexity:{text}", "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert "suite at step 1: CheckpointError" in done.stderr
    assert "1 of the results could not be had" in done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == ["0"] * 4 + ["2"] * 4
    weights.write_bytes(whole)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0 and "1 results" in done.stderr and "2 were there" in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_stops_the_sweep_and_loses_nothing(
    suite: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    out = tmp_path / "out"
    write = results_module.write_file

    def full(path: Path, content: Any, **options: Any) -> None:
        if len(list(out.rglob("step*.json"))) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, content, **options)

    monkeypatch.setattr(results_module, "write_file", full)
    with pytest.raises(OSError) as caught:
        sweep(suite, out, f"perplexity:{text}", steps="0,1,2,4", workers=workers)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert not (out / "work").exists()
    found = sweep(suite, out, f"perplexity:{text}", steps="0,1,2,4")
    assert (found.measured, found.skipped) == (2, 2)


def test_schedules(tmp_path: Path) -> None:
    suite = tmp_path / "pythia"
    steps = [0, *(2**i for i in range(10)), *range(1000, 143001, 1000)]
    for step in steps:
        (suite / f"step{step}").mkdir(parents=True)
    (suite / "step01x").mkdir()
    from pythia_rt.sweeps.plan import suites_of

    def chosen(wanted: Any) -> list[int | None]:
        return [unit.step for unit in suites_of(suite, wanted)["pythia"].chosen]

    assert chosen("all") == steps and len(steps) == 154
    assert chosen("evals") == list(EVALS) and len(EVALS) == 27
    assert chosen("log")[:11] == [0, *(2**i for i in range(10))]
    assert chosen("log")[11:] == [2000, 4000, 8000, 16000, 32000, 64000, 128000, 143000]
    assert chosen("512,0,3000") == [0, 512, 3000] == chosen([3000, 0, 512])
    assert chosen(7000) == [7000]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": "0,3"}, "suite has no step 3: the nearest are 2 and 4"),
        ({"steps": "often"}, "steps must be all, log, evals, or whole numbers as 0,1,512"),
        ({"steps": [-1]}, "a step is a whole number from 0, not -1"),
        ({"steps": []}, "there are no steps to measure"),
        ({"metrics": "perplexty:x"}, "no metric 'perplexty', nor a module of that name: did you"),
        ({"metrics": "perplexty:x.y/z"}, "no metric 'perplexty': did you mean perplexity?"),
        ({"metrics": []}, "there is nothing to measure"),
        ({"metrics": "perplexity"}, "perplexity needs text: write perplexity:text=VALUE"),
        ({"metrics": "perplexity:text=a,widow=3"}, "no option 'widow': did you mean window?"),
        ({"metrics": "perplexity:a,window=x"}, "window of perplexity is a whole number"),
        (
            {"metrics": "perplexity:"},
            "text of perplexity has no value: write perplexity:text=VALUE",
        ),
        ({"metrics": "ngram:a,text=b"}, "ngram has text twice"),
        ({"metrics": ["perplexity:{text}", "perplexity:{text}"]}, "perplexity is asked twice"),
        ({"metrics": "head_scores:rows=0"}, "rows of head_scores must be 1 or more, not 0"),
        ({"metrics": "token_stats:{text},max_tokens=-3"}, "max_tokens of token_stats must be 1 or"),
        ({"metrics": "divergence:{text},to_step=0,window=0"}, "window of divergence must be 1 or"),
        ({"metrics": "perplexity:{text},window=4,stride=8"}, "stride must be from 1 to 4 tokens"),
        ({"metrics": "head_scores:low=9,high=9"}, "no ids from low 9 to below high 9"),
        ({"metrics": "continuations:{text}"}, "line 1 of text.txt is no JSON object"),
        ({"metrics": "last_words:{text}"}, "line 1 of text.txt is no JSON object with text"),
        ({"metrics": "token_stats:{tmp}"}, "is a folder: give a text file"),
        ({"metrics": "ngram:{text},counts={tmp}/none"}, "none does not exist: give a text file"),
        ({"metrics": "nowhere.to.find:it"}, "nowhere.to.find:it is no function that can be"),
        ({"metrics": "os:sep"}, "os:sep is str, not a function"),
        ({"metrics": 7}, "7 is no metric"),
        ({"metrics": Perplexity}, "Perplexity is a kind of metric: make one"),
        ({"metrics": "divergence:{text},to_step=5"}, "no step 5: the nearest are 4 and 8"),
        ({"format": "q44"}, "q44"),
        ({"workers": 0}, "workers must be from 1"),
        ({"models": []}, "there is no model to sweep"),
        ({"models": "{tmp}"}, "holds neither step folders, as step0, nor a checkpoint"),
        ({"models": ["{suite}", "{suite}"]}, "two models are called 'suite'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(
    suite: Path, text: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    def filled(value: Any) -> Any:
        if isinstance(value, list):
            return [filled(each) for each in value]
        if isinstance(value, str):
            return value.format(text=text, suite=suite, tmp=tmp_path)
        return value

    given: dict[str, Any] = {"models": suite, "metrics": f"perplexity:{text}", **options}
    given = {name: filled(value) for name, value in given.items()}

    def never() -> Executor:
        raise AssertionError("an executor was made")

    given.setdefault("executor", never)
    with pytest.raises((ValueError, OSError)) as caught:
        sweep(given.pop("models"), tmp_path / "out", given.pop("metrics"), **given)
    assert sentence in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_sweeps_do_not_share_a_folder(suite: Path, text: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(OSError, match="another sweep"):
        sweep(suite, tmp_path / "out", f"perplexity:{text}", steps="0")


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_without_a_tokenizer_are_told_once(
    workers: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path / "bare", (0, 1, 2))
    for folder in suite.iterdir():
        (folder / "tokenizer.json").unlink()
    metric = HeadScores(rows=1, length=4)
    with pytest.warns(UserWarning, match=r"bare at step \d has no tokenizer \(its folder") as told:
        found = pythia_rt.sweep(
            suite, out=tmp_path / "out", metrics=metric, workers=workers, progress=False
        )
    assert len(told) == 1 and told[0].filename == __file__
    assert (found.measured, found.failures) == (3, [])
    assert "tokenizer" not in capfd.readouterr().err  # of the processes


def test_a_module_beside_the_user_may_be_called_like_a_metric(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ngrams.py").write_text("def score(model):\n    return 1.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # as the command's is
    found = sweep(suite, tmp_path / "out", "ngrams:score", steps="0")
    assert [(row["metric"], row["value"]) for row in found.rows] == [("score", 1.5)]


def test_what_cannot_be_drawn_is_shown(suite: Path, text: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = ["sweep", str(suite / "step0"), "--metric", f"perplexity:{text}"]
    command += ["--out", str(tmp_path / "out"), "--plot", str(tmp_path / "a.png")]
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 1 and "nats_per_token" in found.stdout
    assert "there is nothing to draw" in found.stderr


def test_what_an_older_version_of_a_metric_measured_is_not_shown(
    suite: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(suite, tmp_path / "out", f"perplexity:{text}", steps="0")
    monkeypatch.setattr(Perplexity, "version", Perplexity.version + 1)
    found = sweep(suite, tmp_path / "out", f"perplexity:{text}", steps="0")
    assert found.measured == 1 and len(found.rows) == 4
