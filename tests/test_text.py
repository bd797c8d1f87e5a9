"""Text from files and pipes: the same tokens whatever system wrote it; other encodings refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pythia_rt import Model, evaluate
from pythia_rt.cli import main
from pythia_rt.convert import convert
from pythia_rt.convert.files.text import decode_prompt, decode_text
from pythia_rt.convert.quantise.calibration_text import read_calibration
from pythia_rt.evaluation import reporter
from pythia_rt.evaluation.text import read_text
from pythia_rt.model import DEMO_FOLDER

TEXT = "The kernel\nis free — é.\n\n  A line of its own\n"
BOM = b"\xef\xbb\xbf"
# The same text as editors of other systems save it.
SPELLINGS = {
    "plain": TEXT.encode(),
    "mark": BOM + TEXT.encode(),
    "windows": TEXT.replace("\n", "\r\n").encode(),
    "windows mark": BOM + TEXT.replace("\n", "\r\n").encode(),
}


@pytest.fixture(params=SPELLINGS)
def spelling(request: pytest.FixtureRequest) -> bytes:
    return SPELLINGS[request.param]


def test_every_spelling_is_the_same_text(spelling: bytes) -> None:
    assert decode_text(spelling, "it") == TEXT
    assert decode_prompt(spelling, "it") == TEXT[:-1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ""),
        (BOM, ""),
        (BOM + BOM + b"a", "\ufeffa"),  # only one, and only at the start
        (b"a" + BOM, "a\ufeff"),
        (b"a\rb\r\r\nc\n\r", "a\rb\r\nc\n\r"),
        (b"a\0b", "a\0b"),
        (b"\0\0\0\0", "\0\0\0\0"),
        (b"a\0", "a\0"),
    ],
)
def test_what_is_changed_and_what_is_not(content: bytes, text: str) -> None:
    assert decode_text(content, "it") == text


@given(st.text())
def test_other_text_is_kept(text: str) -> None:
    lines = text.replace("\r\n", "\n").removeprefix("\ufeff")
    interleaved = len(text) > 1 and "\0" in text
    if not interleaved:
        assert decode_text(text.encode(), "it") == lines


@pytest.mark.parametrize(("prompt", "expected"), [
    (b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"a\r\n\r\n", "a\n"), (b"a", "a"),
    (b"\n", ""), (b"a\r", "a\r"), (b"\na ", "\na "),
])  # fmt: skip
def test_one_newline_at_the_end_of_a_prompt(prompt: bytes, expected: str) -> None:
    assert decode_prompt(prompt, "it") == expected


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "latin-1"]
)
@pytest.mark.parametrize("by", ["file", "pipe", "evaluate", "calibrate", "report"])
def test_other_encodings_are_one_sentence(
    encoding: str, by: str, tmp_path: Path, model: Model
) -> None:
    content = ("The kernel is free. " * 20 + "é").encode(encoding)
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    out = tmp_path / "out"
    calls: dict[str, Callable[[], Any]] = {
        "file": lambda: decode_prompt(path.read_bytes(), str(path)),
        "pipe": lambda: decode_prompt(content, "the prompt"),
        "evaluate": lambda: evaluate(model, path),
        "calibrate": lambda: convert(DEMO_FOLDER, out, calibrate=path),
        "report": lambda: reporter(path),
    }
    with pytest.raises(ValueError, match="not UTF-8: ") as caught:
        calls[by]()
    assert "\n" not in str(caught.value)
    if encoding.startswith("utf-16"):
        assert str(caught.value).endswith("is UTF-16, not UTF-8: save it as UTF-8")
    assert not out.exists()


# Bytes to token ids, on every way in


def test_prompts(
    spelling: bytes, tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(cache))
    seen: list[list[int]] = []
    assert model.tokenizer is not None
    tokenizer = type(model.tokenizer)
    encode = tokenizer.encode

    def spy(self: Any, text: str) -> list[int]:
        seen.append(encode(self, text))
        return seen[-1]

    monkeypatch.setattr(tokenizer, "encode", spy)
    expected = encode(model.tokenizer, TEXT[:-1])
    path = tmp_path / "prompt.txt"
    path.write_bytes(spelling)
    for arguments in (["--prompt-file", str(path)], ["--prompt-file", "-"], ["-"], []):
        command = ["generate", *arguments, "--max-new-tokens", "1", "--quiet"]
        assert CliRunner().invoke(main, command, input=spelling).exit_code == 0
    assert seen == [expected] * 4


@pytest.mark.parametrize("max_tokens", [None, 1000, 9])
def test_texts_to_measure_on(
    spelling: bytes, max_tokens: int | None, tmp_path: Path, model: Model
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(spelling)
    found = evaluate(model, path, max_tokens=max_tokens)
    expected = evaluate(model, TEXT, max_tokens=max_tokens)
    assert found.tokens_sha256 == expected.tokens_sha256
    assert found.perplexity == expected.perplexity


def test_a_file_longer_than_what_is_read(tmp_path: Path, model: Model) -> None:
    """Its start is decoded before the rest of a CR LF, a character or a word may be there."""
    lines = "Some words — é — and more\n" * 4000
    path = tmp_path / "text.txt"
    path.write_bytes(BOM + lines.replace("\n", "\r\n").encode())
    for max_tokens in (2, 50, 3000):
        expected = evaluate(model, lines, max_tokens=max_tokens).tokens_sha256
        assert evaluate(model, path, max_tokens=max_tokens).tokens_sha256 == expected


def test_texts_to_calibrate_and_report_with(spelling: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(spelling)
    assert read_calibration(path, 8) == read_calibration(TEXT, 8)
    assert read_text(path) == TEXT


def test_strings_are_never_changed(model: Model) -> None:
    assert model.tokenizer is not None
    plain, other = model.tokenizer.encode("a\nb"), model.tokenizer.encode("\ufeffa\r\nb\n")
    assert other != plain
    assert model.generate("\ufeffa\r\nb\n", max_new_tokens=1).timing.prompt_tokens == len(other)
    np.testing.assert_array_equal(model.logits("\ufeffa\r\nb\n"), model.logits(other))
