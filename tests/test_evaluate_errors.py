"""What cannot be measured: one sentence each, and nothing is written."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt import FlatFileError, Model, evaluate
from pythia_rt.convert import convert
from pythia_rt.evaluation import text as text_module
from pythia_rt.evaluation.result import Evaluation
from pythia_rt.evaluation.text import read_tokens
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.tokenizer import Tokenizer

TEXT = "The kernel reads the configuration of the driver."


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("q4"))


@pytest.fixture(scope="module")
def tokenizer(model: Model) -> Tokenizer:
    assert model.tokenizer is not None
    return model.tokenizer


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def refuse(model: Any, text: Any, kind: type[Exception] = ValueError, **options: Any) -> str:
    with pytest.raises(kind) as error:
        evaluate(model, text, **options)
    sentence = str(error.value)
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window": 1}, "window must be from 2 to the context of 2048 tokens, not 1"),
        ({"window": 2049}, "window must be from 2 to the context of 2048 tokens, not 2049"),
        ({"window": 2.0}, "window must be a whole number of tokens, not 2.0"),
        ({"window": True}, "window must be a whole number"),
        ({"stride": 0}, "stride must be from 1 to the window of 512 tokens, not 0"),
        ({"window": 8, "stride": 9}, "stride must be from 1 to the window of 8 tokens, not 9"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, not 1"),
        ({"max_tokens": "9"}, "max_tokens must be a whole number"),
        ({"threads": 1}, "threads and kv_format are for a model given as a path"),
        ({"kv_format": "f32"}, "threads and kv_format are for a model given as a path"),
    ],
)
def test_bad_options(model: Model, options: dict[str, Any], sentence: str) -> None:
    assert sentence in refuse(model, TEXT, **options)


def test_texts_that_predict_nothing(model: Model, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert "is empty" in refuse(model, "")
    assert "the text has only one token" in refuse(model, "The")
    assert "has only one token" in refuse(model, [5])
    assert "token id 4096 is not in the vocabulary" in refuse(model, [5, 4096])
    path = tmp_path / "text"
    path.write_text("")
    for max_tokens in (None, 5):
        assert f"{path} is empty" in refuse(model, path, max_tokens=max_tokens)
    path.write_text("The")
    assert f"{path} has only one token" in refuse(model, path)


@pytest.mark.parametrize("max_tokens", [None, 5])
def test_texts_that_cannot_be_read(model: Model, tmp_path: Path, max_tokens: int | None) -> None:
    path = tmp_path / "text"
    missing = refuse(model, path, FileNotFoundError, max_tokens=max_tokens)
    assert f"{path} does not exist: give a text file" in missing
    assert "is a folder" in refuse(model, tmp_path, IsADirectoryError, max_tokens=max_tokens)
    path.write_bytes(b"abc \xff def" * 100)
    sentence = refuse(model, path, max_tokens=max_tokens)
    assert f"{path} is not UTF-8: byte 0xff at offset 4 is wrong" in sentence
    path.write_bytes(b"word \xc3")  # a character that never ends
    assert "is not UTF-8: byte 0xc3 at offset 5" in refuse(model, path, max_tokens=max_tokens)


def test_a_text_longer_than_memory(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text"
    path.write_text("word " * 100_000)
    monkeypatch.setattr(text_module, "available_memory", lambda: 50_000_000)
    sentence = refuse(model, path)
    assert "take its start with max_tokens" in sentence
    assert "50 MB are free" in sentence
    assert evaluate(model, path, max_tokens=100).tokens == 100
    assert "take its start with max_tokens" in refuse(model, path, max_tokens=80_000)


def test_a_file_larger_than_the_disk_is_read_only_at_its_start(
    model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    path.write_text("The kernel reads a file. " * 100)
    os.truncate(path, 1 << 40)  # a hole of a terabyte
    assert evaluate(model, path, max_tokens=50).tokens == 50
    assert "take its start with max_tokens" in refuse(model, path, max_tokens=1 << 60)
    assert "take its start with max_tokens" in refuse(model, path)


def test_more_tokens_than_there_are(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(TEXT)
    assert evaluate(model, path, max_tokens=1 << 60) == evaluate(model, TEXT)


def test_a_pipe(model: Model, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for max_tokens in (None, 1 << 60, 5):
        writer = threading.Thread(target=pipe.write_text, args=(TEXT,))
        writer.start()
        result = evaluate(model, pipe, max_tokens=max_tokens)
        assert result == evaluate(model, TEXT, max_tokens=max_tokens)
        writer.join()


def test_available_memory_is_plausible() -> None:
    assert 1 << 20 < text_module.available_memory() < 1 << 60


@settings(max_examples=examples(150), deadline=None)
@given(st.text("ab zé.\n 1", max_size=300), st.integers(2, 12))
def test_the_start_of_a_file_has_the_tokens_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, text: str, count: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "start.txt"
    path.write_bytes(text.encode())
    expected = tokenizer.encode(text)[:count]
    if len(expected) < 2:
        with pytest.raises(ValueError, match=r"empty|only one token"):
            read_tokens(path, tokenizer, 4096, count)
    else:
        assert read_tokens(path, tokenizer, 4096, count).tolist() == expected


# References


def test_a_reference_of_another_shape(model: Model, temporary: Path, tmp_path: Path) -> None:
    folder = checkpoints.write_checkpoint(tmp_path / "other", checkpoints.make_config())
    sentence = refuse(model, [1, 2, 3], reference=folder)
    assert "the reference is another model, its n_layers is 2 and not 6" in sentence
    assert not list(temporary.iterdir())


def test_a_reference_with_another_vocabulary(tmp_path: Path) -> None:
    models = []
    for size in (128, 160):
        config = checkpoints.make_config(vocab_size=size)
        folder = checkpoints.write_checkpoint(tmp_path / str(size), config)
        models.append(Model.load(convert(folder, tmp_path / f"{size}.safetensors")))
    sentence = refuse(models[0], [1, 2, 3], reference=models[1])
    assert "its vocab_size is 160 and not 128" in sentence
    assert evaluate(models[0], [1, 2, 3], reference=models[0]).compared == 3
    assert "no tokenizer: give" in refuse(models[0], "text")
    (tmp_path / "text").write_text("text")
    assert "no tokenizer: give" in refuse(models[0], tmp_path / "text")
    assert "longer than the reference's context" in refuse(
        models[0], [1, 2], window=512, reference=_shorter(tmp_path)
    )


def _shorter(tmp_path: Path) -> Path:
    config = checkpoints.make_config(max_position_embeddings=256)
    folder = checkpoints.write_checkpoint(tmp_path / "shorter", config)
    return convert(folder, tmp_path / "shorter.safetensors")


def test_a_reference_with_another_tokenizer(model: Model, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(DEMO_FOLDER, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))  # other bytes, the same tokenizer
    assert evaluate(model, TEXT, reference=folder, weights=False).comparison is not None
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    sentence = refuse(model, TEXT, reference=folder)
    assert "the reference has another tokenizer" in sentence
    path.unlink()
    assert evaluate(model, TEXT, reference=folder, weights=False).comparison is not None


def test_references_that_are_nothing(model: Model, temporary: Path, tmp_path: Path) -> None:
    assert "is no folder and no hub id" in refuse(
        model, TEXT, FileNotFoundError, reference="no such model!"
    )
    (tmp_path / "notes.txt").write_text("not a flat file")
    refuse(model, TEXT, FlatFileError, reference=tmp_path / "notes.txt")
    assert "holds no weights" in refuse(model, TEXT, reference=tmp_path)
    assert "reference_kv_format is for" in refuse(
        model, TEXT, reference=model, reference_kv_format="f32"
    )
    assert "kv_format must be" in refuse(
        model, TEXT, reference=DEMO_FOLDER, reference_kv_format="f8"
    )
    assert "is a folder: convert it first" in refuse(DEMO_FOLDER, TEXT, FlatFileError)
    assert not list(temporary.iterdir())


def test_an_interrupt_leaves_no_reference(
    model: Model, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        assert list(temporary.rglob("*.partial"))
        raise KeyboardInterrupt

    monkeypatch.setattr("pythia_rt.convert.conversion.pack_chunk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, TEXT, reference=DEMO_FOLDER)
    assert not list(temporary.iterdir())


def test_logits_that_are_not_finite(tmp_path: Path) -> None:
    """Weights just below the largest f16 overflow its cache: NaN is an answer nobody wants."""
    numpy = pytest.importorskip("safetensors.numpy")
    folder = checkpoints.write_checkpoint(tmp_path / "wild", checkpoints.make_config())
    path = folder / "model.safetensors"
    tensors = numpy.load_file(path)
    for name in tensors:
        if "query_key_value.weight" in name:
            tensors[name] = tensors[name] * 0 + 60000
        if "input_layernorm.bias" in name:
            tensors[name] = tensors[name] * 0 + 100
    numpy.save_file(tensors, path)
    wild = Model.load(convert(folder, tmp_path / "wild.safetensors", format="f32"), kv_format="f16")
    sentence = refuse(wild, [1, 2, 3, 4])
    assert "wild.safetensors) has logits that are not finite after token 0" in sentence


# Reports that somebody else wrote


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["tokens"], -1),
        (["tokens"], True),
        (["tokens"], 1e3),
        (["tokens_sha256"], "\x1b[2J"),
        (["tokens_sha256"], "\ud800"),
        (["tokens_sha256"], "a" * 1000),
        (["perplexity"], 3),
        (["perplexity", "value"], float("nan")),
        (["perplexity", "value"], float("inf")),
        (["perplexity", "error"], "0"),
        (["perplexity", "more"], 1),
        (["perplexity", "value"], 10**400),
        (["model"], []),
        (["model", "isa"], None),
        (["comparison"], {}),
        (["comparison", "weight_errors"], [1]),
        (["comparison", "weight_errors", "a\n"], 1),
        (["comparison", "weight_errors", "embed"], {}),
        (["unknown"], 1),
    ],
)
def test_reports_that_are_refused(model: Model, path: list[str], value: Any) -> None:
    facts = evaluate(model, TEXT, reference=model).to_dict()
    Evaluation.from_dict(facts)
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValueError) as error:
        Evaluation.from_dict(facts)
    assert str(error.value).isprintable()
