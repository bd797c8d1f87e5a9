"""convert --report: the measured quality is in the file, and info shows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
from click.testing import CliRunner
from convert_sources import write_checkpoint

import pythia_rt
from pythia_rt import evaluate
from pythia_rt.cli import main
from pythia_rt.convert import CheckpointError, FlatFile, FlatFileError, convert
from pythia_rt.evaluation import reporter
from pythia_rt.evaluation.reporter import SAMPLE, stored_report
from pythia_rt.evaluation.table import lines
from pythia_rt.info import describe
from pythia_rt.model import DEMO_FOLDER

TEXT = "The kernel reads the configuration of the driver, and a process waits for it. " * 4


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reported") / "demo.safetensors"
    return convert(DEMO_FOLDER, path, report=reporter(TEXT))


def change_report(source: Path, path: Path, change: Callable[[str], str]) -> Path:
    """A copy of the file with another text as its report."""
    raw = source.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"]["pythia_rt.report"] = change(header["__metadata__"]["pythia_rt.report"])
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])
    return path


def test_the_report_is_the_evaluation(reported: Path, demo_file: Callable[[str], Path]) -> None:
    file = FlatFile(reported)
    file.verify()
    stored = stored_report(file)
    assert stored is not None
    expected = evaluate(reported, TEXT, reference=DEMO_FOLDER)
    assert stored.model == expected.model
    assert stored.comparison is not None
    assert expected.comparison is not None
    assert stored.comparison.reference == expected.comparison.reference
    assert stored.tokens_sha256 == expected.tokens_sha256
    assert stored.perplexity.value == pytest.approx(expected.perplexity.value, rel=1e-5)
    divergence = expected.comparison.divergence.value
    assert stored.comparison.divergence.value == pytest.approx(divergence, rel=1e-5)
    assert stored.comparison.weight_errors == pytest.approx(
        expected.comparison.weight_errors, rel=1e-5
    )
    # Nothing but the header differs from a file without.
    plain = FlatFile(demo_file("q4"))
    assert plain.report is None
    assert file.metadata == plain.metadata
    assert {n: t.tobytes() for n, t in file.tensors.items()} == {
        n: t.tobytes() for n, t in plain.tensors.items()
    }
    with safetensors.safe_open(reported, "np") as opened:
        assert set(plain.tensors) <= set(opened.keys())


def test_info(reported: Path, demo_file: Callable[[str], Path]) -> None:
    def show(path: Path, *options: str) -> str:
        result = CliRunner().invoke(main, ["info", str(path), *options])
        assert result.exit_code == 0, result.output
        return result.stdout

    facts = json.loads(show(reported, "--json"))
    stored = stored_report(FlatFile(reported))
    assert stored is not None
    assert facts["report"] == stored.to_dict()
    shown = show(reported)
    for line in lines(stored):
        assert f"  {line}".rstrip() in shown.splitlines()
    plain = demo_file("q4")
    assert json.loads(show(plain, "--json"))["report"] is None
    assert "report" not in show(plain)


def test_the_command(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text(TEXT)
    for options, path in ((["--report-text", str(text)], "a"), (["--report"], "b")):
        arguments = ["convert", str(DEMO_FOLDER), str(tmp_path / path), "--quiet", *options]
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.output) == (0, "")
    own, bundled = (stored_report(FlatFile(tmp_path / path)) for path in "ab")
    assert own is not None
    assert bundled is not None
    assert own.tokens == evaluate(tmp_path / "a", TEXT).tokens
    assert bundled.tokens == evaluate(tmp_path / "a", SAMPLE).tokens > 2000


def test_a_report_measures_the_formats_alone(tmp_path: Path) -> None:
    """The source is run with the activation that was asked for."""
    options: dict[str, Any] = {"format": "f16", "activation": "gelu_tanh"}
    path = convert(DEMO_FOLDER, tmp_path / "flat", report=reporter(TEXT), **options)
    stored = stored_report(FlatFile(path))
    assert stored is not None
    assert stored.comparison is not None
    assert set((stored.comparison.weight_errors or {}).values()) == {0.0}
    assert stored.comparison.divergence_max < 1e-5  # of the cache's format
    other = evaluate(path, TEXT, reference=DEMO_FOLDER).comparison
    assert other is not None
    assert other.divergence_max > stored.comparison.divergence_max


@pytest.mark.parametrize("name", ["\n" * 200, "\u2028é" * 50, "é" * 120, "\x1b[2J"])
def test_strange_names(tmp_path: Path, name: str) -> None:
    shutil.copytree(DEMO_FOLDER, tmp_path / name)
    path = convert(tmp_path / name, tmp_path / "flat", report=reporter(TEXT))
    stored = stored_report(FlatFile(path))
    assert stored is not None
    assert all(line.isprintable() for line in lines(stored))


# Failures


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError("a sentence")])
def test_a_failure_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    seen: list[Path] = []

    def fail(*_: object) -> None:
        seen.extend((tmp_path / "out").iterdir())
        raise error

    monkeypatch.setattr(pythia_rt.evaluation.evaluator, "_run_window", fail)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        convert(DEMO_FOLDER, tmp_path / "out" / "flat", report=reporter(TEXT))
    [hidden] = seen
    assert hidden.name.endswith(".partial")
    assert not list((tmp_path / "out").iterdir())
    assert not list((tmp_path / "temporary").iterdir())


def test_a_checkpoint_without_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_checkpoint(tmp_path / "source", tokenizer={})
    monkeypatch.setattr("pythia_rt.convert.conversion.pack_chunk", None)  # nothing is converted
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json, and a report is measured"):
        convert(folder, tmp_path / "flat", report=reporter())
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_bad_texts_are_found_before_the_conversion(tmp_path: Path, content: bytes | None) -> None:
    text = tmp_path / "text"
    if content is not None:
        text.write_bytes(content)
    arguments = ["convert", str(DEMO_FOLDER), str(tmp_path / "flat"), "--report-text", str(text)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {text} ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "flat").exists()


@pytest.mark.parametrize(
    "hostile", ["", "{", "[]", "3", "null", '"text"', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_reports_that_are_no_object(reported: Path, tmp_path: Path, hostile: str) -> None:
    path = change_report(reported, tmp_path / "changed", lambda _: hostile)
    with pytest.raises(FlatFileError, match="its report is not") as error:
        FlatFile(path)
    assert str(error.value).isprintable()


def test_a_report_of_megabytes(reported: Path, tmp_path: Path) -> None:
    path = change_report(reported, tmp_path / "changed", lambda text: text + " " * (1 << 20))
    with pytest.raises(FlatFileError, match="its report is longer than any real one"):
        FlatFile(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{}",
        lambda text: text.replace('"tokens":', '"tokenz":'),
        lambda text: text.replace('"demo"', '"\\u001b[2J"'),
        lambda text: text.replace('"demo"', '"\\ud800"'),
        lambda text: text.replace('"compared":', '"compared":-'),
        lambda text: text.replace('"top1_agreement":', '"top1_agreement":Infinity,"x":'),
        lambda text: text.replace('"data_sha256":"', '"data_sha256":"0'),
    ],
)
def test_reports_that_info_refuses(
    reported: Path, tmp_path: Path, change: Callable[[str], str]
) -> None:
    path = change_report(reported, tmp_path / "changed", change)
    FlatFile(path)  # it runs: the report says nothing about the weights
    with pytest.raises(FlatFileError, match="has a report that is invalid") as error:
        describe(path)
    assert str(error.value).isprintable()
