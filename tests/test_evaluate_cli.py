"""pythia-rt evaluate: the table, JSON and the picture."""

from __future__ import annotations

import dataclasses
import functools
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import numpy as np
import pytest

from pythia_rt import Evaluation, Model, evaluate
from pythia_rt.evaluation.plot import write_plot
from pythia_rt.evaluation.table import lines
from pythia_rt.model import DEMO_FOLDER

good = functools.partial(commands.good, "evaluate")
refused = functools.partial(commands.refused, "evaluate")
TEXT = "The kernel reads the configuration of the driver, and a process waits for it. " * 8


@pytest.fixture(scope="module")
def file(demo_file: Callable[[str], Path]) -> Path:
    return demo_file("q4")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


def test_json(file: Path, text: Path) -> None:
    arguments = [str(file), "--text", str(text), "--reference", str(DEMO_FOLDER)]
    arguments += ["--window=32", "--stride=20"]
    shown = good(*arguments, "--max-tokens=90", "--threads=1", "--json", "--quiet")
    assert shown.stderr == ""
    options: dict[str, Any] = {"window": 32, "stride": 20, "max_tokens": 90}
    expected = evaluate(file, TEXT, reference=DEMO_FOLDER, **options)
    assert json.loads(shown.stdout) == expected.to_dict()
    assert (expected.window, expected.stride, expected.tokens) == (32, 20, 90)
    bare = json.loads(good(*arguments, "--no-weights", "--json").stdout)
    assert bare["comparison"]["weight_errors"] is None


def test_the_table(file: Path, text: Path) -> None:
    shown = good(file, "--text", text, "--reference", DEMO_FOLDER, "--quiet").stdout
    facts = json.loads(good(file, "--text", text, "--reference", DEMO_FOLDER, "--json").stdout)
    compared = facts["comparison"]
    for number in (
        f"{facts['perplexity']['value']:.4f} ± {facts['perplexity']['error']:.4f}",
        f"{compared['perplexity']['value']:.4f}",
        f"{100 * compared['perplexity_change']['value']:+.3f}",
        f"{compared['divergence_max']:.6f}",
        f"{100 * compared['top1_agreement']:.3f}",
        f"{compared['logit_difference']:.4f}",
        *(f"{100 * error:.4f}" for error in compared["weight_errors"].values()),
    ):
        assert number in shown, number
    assert "demo in q4" in shown
    assert "demo in f16" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    numbers = [
        line for line in shown.splitlines() if line.startswith(("KL", "perplexity", "largest"))
    ]
    assert len({line.index(".") for line in numbers}) == 1  # one column of decimal points
    alone = good(file, "--text", text, "--quiet").stdout
    assert f"{facts['perplexity']['value']:.4f}" in alone
    assert "reference" not in alone


def test_tables_of_strange_results(file: Path) -> None:
    for result in (
        evaluate(file, [5, 6]),
        evaluate(file, [5, 6], reference=file, reference_kv_format="f16", weights=False),
    ):
        assert all(line.isprintable() for line in lines(result))


def test_progress_and_quiet(file: Path, text: Path) -> None:
    assert "evaluating" in good(file, "--text", text).stderr
    assert good(file, "--text", text, "--quiet").stderr == ""


def test_kv_formats(file: Path, text: Path) -> None:
    def divergence(*options: str) -> float:
        shown = good(file, "--text", text, "--reference", file, "--json", *options)
        value: float = json.loads(shown.stdout)["comparison"]["divergence"]["value"]
        return value

    assert divergence("--kv-format=f32") == 0
    assert divergence("--reference-kv-format=f16") == 0
    assert 0 < divergence() < 1e-3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--window=1"], "window must be from 2"),
        (["--stride=0"], "stride must be from 1"),
        (["--max-tokens=0"], "--max-tokens must be at least 2"),
        (["--kv-format=f8"], "--kv-format must be one of f16, f32, q8"),
        (["--threads=0"], "threads must be"),
        (["--reference=no such model!"], "is no folder and no hub id"),
        (["--plot=picture.pdf"], "choose one that ends in .png"),
        (["--plot=no/such/folder/picture.png"], "is not a folder: create it first"),
    ],
)
def test_bad_values(file: Path, text: Path, arguments: list[str], sentence: str) -> None:
    assert sentence in refused(file, "--text", text, *arguments)


@pytest.mark.parametrize(
    "option", ["--revision=main", "--cache-dir=x", "--reference-kv-format=f16"]
)
def test_options_that_would_be_ignored(file: Path, text: Path, option: str) -> None:
    name = option.partition("=")[0]
    assert f"{name} is for --reference" in refused(file, "--text", text, option, status=2)
    if "kv" not in name:
        arguments = ["--text", str(text), "--reference", str(DEMO_FOLDER), option]
        assert f"{name} is for hub models" in refused(file, *arguments, status=2)


# Pictures


def check_png(path: Path, *, wide: bool) -> None:
    """Every chunk of the PNG has the right checksum, and the picture is not of one colour."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    kinds, packed, place = [], b"", 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        content = data[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + content) == int.from_bytes(data[place + 8 + length :][:4], "big")
        kinds.append(kind)
        packed += content if kind == b"IDAT" else b""
        place += 12 + length
    assert (kinds[0], kinds[-1]) == (b"IHDR", b"IEND")
    width, height = struct.unpack(">II", data[16:24])
    assert (width > 1.5 * height) or not wide
    assert len(np.unique(np.frombuffer(zlib.decompress(packed), np.uint8))) > 50


@pytest.mark.parametrize("compared", [True, False])
def test_a_plot(file: Path, text: Path, tmp_path: Path, compared: bool) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.png"
    path.write_text("an older one")
    options = ["--reference", str(DEMO_FOLDER)] if compared else []
    good(file, "--text", text, "--plot", path, "--quiet", *options)
    check_png(path, wide=compared)
    assert list(tmp_path.iterdir()) == [path]


def large(result: Evaluation) -> Evaluation:
    """The result as a model of 24 layers could have it."""
    assert result.comparison is not None
    assert result.comparison.weight_errors is not None
    kinds = ("qkv", "attn_out", "mlp_up", "mlp_down")
    errors = {f"layers.{i}.{kind}": 0.08 for i in range(24) for kind in kinds}
    errors = {"embed": 0.005, **errors, "head": 0.005}
    return dataclasses.replace(
        result, comparison=dataclasses.replace(result.comparison, weight_errors=errors)
    )


def test_plots_of_every_shape(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = Model.load(file)
    compared = evaluate(model, TEXT, reference=DEMO_FOLDER)
    for number, result in enumerate(
        (
            large(compared),
            evaluate(model, TEXT, reference=DEMO_FOLDER, weights=False),
            evaluate(model, TEXT, reference=model),  # no divergence anywhere
            evaluate(model, [5, 6], reference=DEMO_FOLDER),
            evaluate(model, [5, 6]),
            Evaluation.from_dict(compared.to_dict()),  # without its arrays
        )
    ):
        path = tmp_path / f"{number}.PNG"
        write_plot(result, path)
        check_png(path, wide=False)


def test_a_plot_without_matplotlib(
    file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    sentence = refused(file, "--text", text, "--plot", tmp_path / "plot.png")
    assert "needs matplotlib: install it with pip install 'pythia_rt[plot]'" in sentence
    assert not list(tmp_path.iterdir())


def test_a_plot_that_fails_leaves_nothing(
    file: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")

    def fail(_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    plot = tmp_path / "plot.png"
    assert "no space left" in refused(file, "--text", text, "--quiet", "--plot", plot)
    assert not list(tmp_path.iterdir())
