"""Byte-level tokenizers, whatever rules split a text into words: as the library has them.

The referees are `tokenizers` on the file, and transformers' AutoTokenizer on the folder.
"""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import make_folder, ours, template

from pythia_rt.detokenizer import Detokenizer
from pythia_rt.tokenizer import Tokenizer


def split(pattern: str, behavior: str = "Isolated") -> dict[str, Any]:
    part = {"type": "Split", "pattern": {"Regex": pattern}}
    return {**part, "behavior": behavior, "invert": False}


def to_bytes(**more: bool) -> dict[str, Any]:
    part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {**part, "use_regex": False, **more}


def digits(individual: bool) -> dict[str, Any]:
    return {"type": "Digits", "individual_digits": individual}


CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
# By family: config.json's model_type, the rules, the normalizer, whether whole words come first.
RULES: dict[str, tuple[str, list[dict[str, Any]], str | None, bool]] = {
    "Falcon": (
        "falcon",
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            to_bytes(use_regex=True),
            digits(individual=False),
            split("[0-9][0-9][0-9]"),
        ],
        None,
        False,
    ),
    "LLaMA 3": (
        "llama",
        [split(rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}{{1,3}}{REST}"), to_bytes()],
        None,
        True,
    ),
    "Qwen2": (
        "qwen2",
        [split(rf"{CONTRACTIONS}|{LETTERS}|\p{{N}}{REST}"), to_bytes()],
        "NFC",
        False,
    ),
    "BLOOM": (
        "bloom",
        [
            split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"),
            to_bytes(add_prefix_space=False),
        ],
        None,
        False,
    ),
    "SmolLM2": ("llama", [digits(individual=True), to_bytes(use_regex=True)], None, False),
    "DeepSeek": (
        "llama",
        [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), digits(True), to_bytes()],
        None,
        False,
    ),
    "no rule": ("stablelm", [to_bytes()], None, False),
}


@pytest.fixture(scope="module", params=RULES)
def trio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, auto: Any
) -> tuple[Tokenizer, tokenizers.Tokenizer, Any]:
    model_type, rules, normalizer, whole_words = RULES[request.param]

    def change(data: dict[str, Any]) -> None:
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": rules}
        data["normalizer"] = None if normalizer is None else {"type": normalizer}
        model = data["model"]
        model["ignore_merges"] = whole_words
        if whole_words:  # no merges lead to it
            model["vocab"]["\u0120xyzzy"] = len(model["vocab"])
        template("<|endoftext|> $A")(data)

    folder = make_folder(
        tmp_path_factory.mktemp("rules") / "f",
        tokenizer_config=lambda data: data.pop("tokenizer_class"),
        tokenizer=change,
        config=lambda data: data.update(model_type=model_type),
    )
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return ours(folder), library, auto.from_pretrained(folder)


def same(trio: tuple[Tokenizer, tokenizers.Tokenizer, Any], text: str) -> None:
    mine, library, theirs = trio
    ids = mine.encode(text)
    assert ids == library.encode(text).ids == theirs(text).input_ids
    assert mine.decode(ids) == theirs.decode(ids)
    detokenizer = Detokenizer(mine)
    assert "".join(map(detokenizer.feed, ids)) + detokenizer.flush() == mine.decode(ids)


TEXTS = (
    "", " ", "   ", "a  b   c", "It's 12345 o'clock, WE'LL see: 3.14!?", "x == y && (a|b) -> [0];",
    "def f(x):\n\treturn x ** 2\r\n\r\n        # two", "cafe\u0301 \u00e9 \ufb01 a\u030a",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u0928\u092e\u0938\u094d\u0924\u0947\u0964 \u060c\u06d4",
    "\U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469", "\x00a\x7f\x85b\u00a0c\u3000d",
    "\u0663\u0664 \u00b2 \u2167 007", " xyzzy xyzzy", "a<|endoftext|>b <|endoftext|>",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_texts(trio: tuple[Tokenizer, tokenizers.Tokenizer, Any], text: str) -> None:
    same(trio, text)


def test_a_whole_word_comes_first(trio: tuple[Tokenizer, tokenizers.Tokenizer, Any]) -> None:
    mine, library, _ = trio
    if library.token_to_id("\u0120xyzzy") is not None:
        assert mine.encode("a xyzzy", add_special_tokens=False)[1:] == [4096]


@given(text=st.text(st.sampled_from(" \n\t\r.,'(|0123ab\u00e9e\u0301\u4e2d\u3002\U0001f600sS")))
@settings(deadline=None, max_examples=examples(60))
def test_any_text(trio: tuple[Tokenizer, tokenizers.Tokenizer, Any], text: str) -> None:
    same(trio, text)
