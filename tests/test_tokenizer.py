"""Tokenisation equals transformers' on the Pythia tokenizer, text to ids and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".cc", ".cu", ".h", ".inl", ".md", ".py", ".txt")


@pytest.fixture(scope="module")
def source(neox_tokenizer: Path) -> bytes:
    return neox_tokenizer.read_bytes()


@pytest.fixture(scope="module")
def ours(source: bytes) -> Tokenizer:
    return Tokenizer(source)


@pytest.fixture(scope="module")
def theirs(neox_tokenizer: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(neox_tokenizer))


def their_text(theirs: Any, ids: list[int]) -> str:
    return str(theirs.decode(ids, clean_up_tokenization_spaces=False))


TEXTS = {
    "empty": "",
    "plain": "The quick brown fox doesn't jump; it's 10:45, they'll say.",
    "composed accents": "caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "combining accents": "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "stacked marks": "a\u0301\u0323\u0302 q\u0307\u0323 \u1e69 s\u0323\u0307",
    "mark first": "\u0301abc",
    "hangul syllables": "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8",
    "hangul jamo": "\u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165",
    "compatibility": "\ufb01 \u212b \u2126 \uff21 \u00bd",
    "tabs": "a\tb\t\tc\t\t\t d \t e",
    "newlines": "a\nb\n\nc\r\nd\n \n  e\r\r\n",
    "emoji": "😀👍🏽👩\u200d👩\u200d👧\u200d👦🇩🇪 ❤\ufe0f",
    "digits": "0 00 007 1234567890 3.14159 1e-5 ٣٤ ²³ Ⅷ",
    "program": "def f(x):\n\treturn x ** 2  # two\n        if (x<=3): {}\n",
    "scripts": "Привет мир, 你好世界, こんにちは, שלום, مرحبا, नमस्ते",
    "unusual spaces": "a\u00a0b\u2003c\u3000d\u200be\ufefff",
    "control characters": "a\x00b\x01c\x7fd\x85e",
    "special tokens": "one<|endoftext|>two <|padding|> three<|endoftext|>",
    "not quite special": "<|endoftext| > <|endoftex|>",
    "beyond the BMP": "\U0001d518\U0001d52b\U0001d526 \U0010ffff",
    "replacement characters": b"ab\xff\xfecd \xe2\x82 \xf0\x9f\x98 \xc3".decode("utf-8", "replace"),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_encodes_and_decodes_as_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == their_text(theirs, ids)


@pytest.mark.parametrize("n", range(1, 61))
def test_runs_of_spaces(ours: Tokenizer, theirs: Any, n: int) -> None:
    run = " " * n
    for text in (run, f"a{run}b", f"{run}b", f"a{run}", f"\n{run}x\t{run}"):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert ours.decode(ids) == text


def test_a_megabyte_of_text(technical_text: str, ours: Tokenizer, theirs: Any) -> None:
    """Prose, tables and program text: all that this project has."""
    folders = ("bench", "convert", "csrc", "docs", "pythia_rt", "tests")
    files = sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES
    )
    text = technical_text + "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert len(text) > 1_000_000
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids) == their_text(theirs, ids)


@given(text=st.text())
@settings(deadline=None)
def test_any_text(ours: Tokenizer, theirs: Any, text: str) -> None:
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)


@given(ids=st.lists(st.integers(0, 50276), max_size=30))
@settings(deadline=None)
def test_any_ids(ours: Tokenizer, theirs: Any, ids: list[int]) -> None:
    # Random ids make bytes that are no UTF-8: both sides write U+FFFD in the same places.
    assert ours.decode(ids) == their_text(theirs, ids)


def test_padding_rows_of_the_vocabulary_have_no_text(ours: Tokenizer, theirs: Any) -> None:
    assert ours.decode([50277, 510, 50303]) == their_text(theirs, [50277, 510, 50303]) == "The"


def test_no_special_token_is_added(ours: Tokenizer) -> None:
    assert ours.encode("The") == [510]


def test_merges_as_strings_and_as_pairs(source: bytes, ours: Tokenizer) -> None:
    content = json.loads(source)
    assert isinstance(content["model"]["merges"][0], str)
    content["model"]["merges"] = [merge.split(" ") for merge in content["model"]["merges"]]
    pairs = Tokenizer(json.dumps(content).encode())
    for text in TEXTS.values():
        assert pairs.encode(text) == ours.encode(text)


def test_training_limits_in_the_file_are_ignored(source: bytes, ours: Tokenizer) -> None:
    content = json.loads(source)
    content["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "<|padding|>",
    }  # fmt: skip
    limited = Tokenizer(json.dumps(content).encode())
    for text in ("a", "one two three four five six seven"):
        assert limited.encode(text) == ours.encode(text)


@pytest.mark.parametrize("text", ["\ud800", "ab\udcffcd", "\udc00\ud800"])
def test_lone_surrogates_are_refused(ours: Tokenizer, text: str) -> None:
    with pytest.raises(ValueError, match=r"lone surrogate, U\+D[8C].*at character [02]:"):
        ours.encode(text)


@pytest.mark.parametrize("text", [b"bytes", None, 3, ["a"]])
def test_only_text_is_encoded(ours: Tokenizer, text: Any) -> None:
    with pytest.raises(ValueError, match="the text must be a str, not "):
        ours.encode(text)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1, 2]", b'{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the tokenizer\.json cannot be read: .+"):
        Tokenizer(content)


NO_TOKENS = (-1, -(1 << 40), 50277, 50303, 1 << 31, (1 << 32) - 1, 1 << 32, 10**12, 1 << 70)


@pytest.mark.parametrize("token", NO_TOKENS)
def test_ids_of_no_token_are_nothing(ours: Tokenizer, token: int) -> None:
    assert ours.token_bytes(token) == b""
    assert ours.decode([510, token, 510]) == "TheThe"


@pytest.mark.parametrize("token", [True, "510", 510.0, None, b"5", [510]])
def test_ids_are_whole_numbers(ours: Tokenizer, token: Any) -> None:
    for call in (ours.token_bytes, lambda token: ours.decode([token])):
        with pytest.raises(ValueError, match="token ids must be whole numbers, not "):
            call(token)


def test_ids_may_be_numpys(ours: Tokenizer) -> None:
    assert ours.token_bytes(np.int64(510)) == b"The"
    assert ours.decode(np.array([510, 510], np.uint16)) == "TheThe"


WORDS = [
    "se\u00f1or",
    "<|\u00e9t\u00e9|>",
    "il\u00d6veyou",
    "\u010d",
    "\u0120",
    "\u4e2d\u6587",
    "  \t",
]


@pytest.mark.parametrize("special", [True, False])
def test_an_added_token_is_its_content(source: bytes, special: bool) -> None:
    """Whatever letters of the alphabet of bytes it has."""
    tokenizer = tokenizers.Tokenizer.from_str(source.decode())
    added = [tokenizers.AddedToken(word, special=special, normalized=False) for word in WORDS]
    tokenizer.add_tokens(added)
    mine = Tokenizer(tokenizer.to_str().encode())
    for word in WORDS:
        ids = mine.encode(word)
        assert len(ids) == 1
        assert mine.decode(ids) == mine.token_bytes(ids[0]).decode() == word
