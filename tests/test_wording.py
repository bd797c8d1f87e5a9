"""Errors speak Python's words in Python and the command line's on the command line."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from click.testing import CliRunner

from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.cli.wording import sentence, spell_options
from pythia_rt.convert import CheckpointError, convert
from pythia_rt.convert.errors import Sentence
from pythia_rt.model import DEMO_FOLDER

# What only somebody who writes Python can follow.
PYTHON = re.compile(r"\w=|\bNone\b|True|False|Model\.|\b[a-z]+_[a-z_]+\b(?!\.)|use generate\b")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat file without a tokenizer."""
    folder = write_checkpoint(tmp_path_factory.mktemp("bare") / "source", make_config())
    return convert(folder, folder.parent / "bare.safetensors", format="q8")


def run(*arguments: str | Path, input: str | bytes | None = None) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)
    assert result.exit_code in (1, 2), result.output
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def shown(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_sentence_holds_both() -> None:
    both = Sentence("in Python", "as typed")
    for kind in (ValueError, CheckpointError, RuntimeError, FileNotFoundError, MemoryError):
        for error in (kind(both), pickle.loads(pickle.dumps(kind(both)))):
            assert str(error) == "in Python"
            assert sentence(error, None) == "as typed"


@click.command()
@click.option("--kv-format")
@click.option("--seed")
@click.option("--stop-token-id", "stop_token_ids", multiple=True)
@click.option("--force", is_flag=True)
@click.option("--head")
def command() -> None:
    """Stand for any."""


@pytest.mark.parametrize(
    ("python", "typed"),
    [
        ("kv_format must be one of f16", "--kv-format must be one of f16"),
        ("seed must be whole", "--seed must be whole"),
        ("the seed must be whole", "the seed must be whole"),
        ("head is a word, seed another", "head is a word, seed another"),
        ("exists: pass force=True", "exists: pass --force"),
        ("take kv_format='f32', or else", "take --kv-format f32, or else"),
        ('take kv_format="f32"', "take --kv-format f32"),
        ("stop_token_ids names 5", "--stop-token-id names 5"),
        ("a head=True of mine", "a --head of mine"),
        # Not options, though they look like them.
        ("/data/kv_format/seed=3 is missing", "/data/kv_format/seed=3 is missing"),
        ("kv_format.safetensors is missing", "kv_format.safetensors is missing"),
        ("my_kv_format and kv_formats", "my_kv_format and kv_formats"),
        ("there is no tensor 'kv_format'", "there is no tensor 'kv_format'"),
        ("other_option must be", "other_option must be"),
    ],
)
def test_options_are_spelled_as_they_are_typed(python: str, typed: str) -> None:
    assert spell_options(python, command) == typed


def test_a_model_without_a_tokenizer(bare: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The kernel is free.")
    for arguments in (("generate", "The", "--model", bare), ("evaluate", bare, "--text", text)):
        said = run(*arguments, "--quiet")
        assert not PYTHON.search(said.replace("tokenizer.json", ""))
        assert "convert it again from a folder with a tokenizer.json" in said
        assert "pass --token-ids" in said
    stop = run("generate", "5 6", "--token-ids", "--model", bare, "--stop", "x")
    assert stop.endswith("use --stop-token-id")


def test_token_ids_in_and_out(bare: Path, tmp_path: Path) -> None:
    model = Model.load(bare)
    options: dict[str, Any] = {"temperature": 0, "max_new_tokens": 9}
    expected = model.generate([5, 6, 7], **options).tokens
    typed = ["--temperature", "0", "--max-new-tokens", "9", "--quiet", "--model", bare]
    for prompt in ("5 6 7", "5,6,7", " 5, 6\n7 "):
        assert shown("generate", prompt, "--token-ids", *typed).split() == [*map(str, expected)]
    stop = shown("generate", "5 6 7", "--token-ids", *typed, "--stop-token-id", str(expected[3]))
    assert stop.split() == [str(t) for t in expected[: expected.index(expected[3]) + 1]]
    for wrong in ("The kernel", "1 -2", "1.5", "٣"):
        assert "token ids are whole numbers in decimal" in run(
            "generate", "--token-ids", *typed, "--", wrong
        )
    vocabulary = model.spec["vocab_size"]
    assert f"token id {vocabulary} is not in" in run(
        "generate", str(vocabulary), "--token-ids", *typed
    )
    ids = tmp_path / "ids.txt"
    ids.write_text(" ".join(map(str, range(40))) + "\r\n")
    measured = shown("evaluate", bare, "--text", ids, "--token-ids", "--quiet", "--json")
    assert '"tokens": 40' in measured


def test_token_ids_of_a_model_that_has_a_tokenizer(model: Model, cache: Path) -> None:
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("The kernel")
    options = ["--temperature", "0", "--max-new-tokens", "5", "--quiet", "--cache-dir", cache]
    typed = " ".join(map(str, ids))
    written = shown("generate", typed, "--token-ids", *options)
    assert written.split() == [
        str(t) for t in model.generate(ids, temperature=0, max_new_tokens=5).tokens
    ]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["generate", "x", "--threads", "0"], "--threads must be a whole number"),
        (["generate", "x", "--seed=-1"], "--seed must be a whole number from 0"),
        (["generate", "x", "--max-new-tokens", "0"], "use pythia-rt evaluate"),
        (["generate", "x", "--model", "no/such", "--local-files-only"], "without --local-files-o"),
        (["generate", "x", "--gpu-layers", "2"], "--gpu-layers is for --device cuda or --device"),
        (["convert", DEMO_FOLDER, "{new}", "--calibrate-tokens", "9"], "without --calibrate: giv"),
        (["convert", DEMO_FOLDER, "{new}", "--revision", "main"], "leave --revision out"),
        (["convert", DEMO_FOLDER, "{old}"], "or pass --force"),
        (["convert", DEMO_FOLDER, "{new}", "--head", "q9"], "--head 'q9' is unknown: choose one"),
    ],
    ids=str,
)
def test_advice_can_be_followed(arguments: list[Any], advice: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.touch()
    names = {"{new}": tmp_path / "new", "{old}": old}
    said = run(*[names.get(argument, argument) for argument in arguments], "--quiet")
    assert advice in said
    for path in (tmp_path, DEMO_FOLDER):
        said = said.replace(str(path), "")
    assert not PYTHON.search(said)


def test_calibrating_without_a_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "source", make_config())
    text = tmp_path / "text.txt"
    text.write_text("The kernel is free.")
    assert run("convert", folder, tmp_path / "x", "--calibrate", text, "--quiet").endswith(
        "add it, or leave --calibrate out"
    )


def test_notes_are_worded_too(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    load = Model.demo

    def warned(*arguments: Any, **options: Any) -> Model:
        warnings.warn(Sentence("kv_format=x in Python", "kv_format is small"), stacklevel=2)  # type: ignore[arg-type]
        return load(*arguments, **options)

    monkeypatch.setattr(Model, "demo", warned)
    result = CliRunner().invoke(main, ["generate", "x", "--quiet", "--cache-dir", str(cache)])
    assert result.stderr == "Note: --kv-format is small\n"


def test_no_room_for_a_copy(
    model: Model, monkeypatch: pytest.MonkeyPatch, demo_file: Callable[[str], Path]
) -> None:
    from pythia_rt.convert.flatfile import memory

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(memory.mmap, "mmap", refuse)
    path = demo_file("q4")
    with pytest.raises(MemoryError, match="load it with copy=False"):
        Model.load(path, copy=True)
    assert run("generate", "x", "--model", path, "--copy").endswith("leave --copy out")


def test_python_is_told_pythons_words(bare: Path) -> None:
    model = Model.load(bare)
    for call in (model.generate, model.stream, model.logits):
        with pytest.raises(ValueError, match=r"no tokenizer: .*token ids") as caught:
            call("The")
        assert "--" not in str(caught.value)
    assert np.isfinite(model.logits([1])).all()
