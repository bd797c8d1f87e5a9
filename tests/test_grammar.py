"""Grammars: which tokens they let come, over tokenizers of every kind, and what is refused."""

from __future__ import annotations

import functools
import json
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray
from test_foreign_tokenizers import KINDS, sentencepiece
from test_tokenizer_sources import MODELS, model_folder
from tokenizer_folders import ours

from pythia_rt.detokenizer import Detokenizer
from pythia_rt.grammar import Constraint, Follower
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.tokenizer import Tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{1,4}$"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "n": {"type": "integer", "minimum": -5, "maximum": 20},
    },
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def demo() -> Tokenizer:
    return Tokenizer((DEMO_FOLDER / "tokenizer.json").read_bytes())


@functools.cache
def size_of(tokenizer: Tokenizer) -> int:
    return max(i for i in range(60_000) if tokenizer.name(i)) + 1


def started(
    tokenizer: Tokenizer,
    end_ids: tuple[int, ...] = (0,),
    padding: int = 3,
    stop_ids: tuple[int, ...] = (),
    **constraint: Any,
) -> Follower:
    """Of a model with ids of no token at the end of its vocabulary."""
    n_tokens = size_of(tokenizer) + padding
    made = Constraint(**constraint).compiled(tokenizer, n_tokens=n_tokens, end_ids=end_ids)
    return made.start(stop_ids)


def made(name: str, folder: Path, demo: Tokenizer) -> Tokenizer:
    """A tokenizer of a name: the demo's, or one of sentencepiece's."""
    if name == "demo":
        return demo
    if name == "bytes":
        return Tokenizer(sentencepiece().to_str().encode())
    kind = "mistral"  # each of them is read as of this one
    return ours(model_folder(folder / "f", MODELS[name], kind))


def ids(mask: NDArray[np.uint32]) -> list[int]:
    assert mask.dtype == np.uint32
    return [
        32 * i + bit for i, word in enumerate(mask.tolist()) for bit in range(32) if word >> bit & 1
    ]


def written(
    tokenizer: Tokenizer,
    follower: Follower,
    seed: int,
    ends: tuple[int, ...] = (0,),
    most: int = 400,
) -> tuple[str, list[int]]:
    """A text of tokens drawn from those that are allowed, as it is shown, and the tokens."""
    choose = random.Random(seed)
    tokens: list[int] = []
    detokenizer, text = Detokenizer(tokenizer), ""
    while len(tokens) < most:
        allowed = ids(follower.allowed())
        token = choose.choice(allowed)
        follower.accept(token)
        if token in ends:
            break
        tokens.append(token)
        text += detokenizer.feed(token)
    return text + detokenizer.flush(), tokens


LETTERS_ONLY = r"(?:[ab]+|the|rose)(?:,? ?(?:is|on|er)){0,3}\."


@pytest.mark.parametrize("name", ["demo", "bytes", *MODELS])
def test_texts_as_they_are_shown_match(name: str, tmp_path: Path, demo: Tokenizer) -> None:
    """Of tokenizers that take a space away at the start, too."""
    tokenizer = made(name, tmp_path, demo)
    end = size_of(tokenizer)  # of ids beyond its own
    texts = set()
    first = started(tokenizer, (end,), regex=LETTERS_ONLY)
    for seed in range(20):
        text, tokens = written(tokenizer, first.copy(), seed, (end,), most=150)
        if len(tokens) < 150:
            assert re.fullmatch(LETTERS_ONLY, text), (text, tokens)
            texts.add(text)
    assert len(texts) > 5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_tokens_that_are_no_bytes_are_refused(kind: Callable[[], tokenizers.Tokenizer]) -> None:
    tokenizer = Tokenizer(kind().to_str().encode())
    if tokenizer.byte_map is None:
        with pytest.raises(ValueError, match="a grammar needs a tokenizer of"):
            started(tokenizer, regex="a")
    else:
        assert kind is sentencepiece


@pytest.mark.parametrize("name", ["demo", *MODELS])
def test_masks_are_all_tokens_that_words_take(name: str, tmp_path: Path, demo: Tokenizer) -> None:
    """Against a list of words, by their beginnings."""
    words = [
        "the rose",
        "the",
        "thermal  noise",
        "\u00e9t\u00e9",
        "\U0001f600",
        "<|endoftext|>",
        "a\n",
    ]
    tokenizer = made(name, tmp_path, demo)
    n_tokens = size_of(tokenizer) + 40
    known = [tokenizer.token_bytes(i) for i in range(n_tokens)]
    special = tokenizer.special_ids
    leading = tokenizer.byte_map.leading_spaces if tokenizer.byte_map else 0
    end = n_tokens - 1
    constraint = Constraint(regex="|".join(map(re.escape, words)).replace(r"\ ", " "))
    compiled = constraint.compiled(tokenizer, n_tokens=n_tokens, end_ids=[end])
    choose = random.Random(4)
    whole = [word.encode() for word in words]
    for _ in range(30):
        follower, shown, is_start = compiled.start(), b"", True
        for _ in range(40):
            expected = [end] if shown in whole else []
            assert follower.is_complete == (shown in whole)
            pieces = {}
            for i, piece in enumerate(known):
                if not piece or i in special:
                    continue
                if is_start and leading and piece.startswith(b" "):
                    piece = piece[1:]
                pieces[i] = piece
                if any(word.startswith(shown + piece) for word in whole):
                    expected.append(i)
            assert ids(follower.allowed()) == sorted(expected)
            assert [i for i in range(n_tokens) if follower.validate([i])] == sorted(expected)
            token = choose.choice(expected)
            follower.accept(token)
            if token == end:
                break
            shown += pieces[token]
            is_start = False
        else:
            raise AssertionError("it does not end")


def test_bytes_are_those_of_the_text(neox_tokenizer: Path, demo: Tokenizer) -> None:
    """Of every token that is text, as llguidance has it, beside what a text gets by it."""
    neox = Tokenizer(neox_tokenizer.read_bytes())
    for tokenizer in (demo, neox, Tokenizer(sentencepiece().to_str().encode())):
        n_tokens = size_of(tokenizer)
        compiled = Constraint(regex=".").compiled(tokenizer, n_tokens=n_tokens, end_ids=[0])
        library = compiled._vocabulary.tokenizer
        for token in set(range(n_tokens)) - tokenizer.special_ids - {0}:
            content = tokenizer.token_bytes(token)
            if b"\xff" not in content:  # which no text has
                assert library.decode_bytes([token]) == content
            assert not library.is_special_token(token)


def test_special_tokens_are_no_text(demo: Tokenizer) -> None:
    follower = started(demo, regex=r"<\|endoftext\|>|<\|padding\|>")
    text, tokens = written(demo, follower, 1)
    assert text in ("<|endoftext|>", "<|padding|>") and not {0, 1} & {*tokens}
    follower = started(demo, grammar='start: "a" <|padding|> "b"')
    (letter,) = ids(follower.allowed())
    follower.accept(letter)
    assert ids(follower.allowed()) == [1]


@pytest.mark.parametrize("seed", range(12))
def test_json_is_valid(demo: Tokenizer, seed: int) -> None:
    text, tokens = written(demo, started(demo, json_schema=SCHEMA), seed)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert "  " not in text and "\n" not in text
    assert len(tokens) < 400


def test_white_space_is_what_the_schema_asks_for(demo: Tokenizer) -> None:
    def taken(text: str, **guidance: Any) -> bool:
        schema = {"type": "array", "items": {"type": "integer"}}
        follower = started(
            demo, json_schema=schema | ({"x-guidance": guidance} if guidance else {})
        )
        tokens = [*demo.encode(text), 0]
        return follower.validate(tokens) == len(tokens)

    assert taken("[1,2]") and taken("[1, 2]") and taken("[ 1 , 2 ]")
    assert not taken("[1,  2]") and not taken("[1,\n2]") and not taken(" [1]") and not taken("[1] ")
    assert taken("[\n  1,\n  2\n]", whitespace_pattern=r"\n {0,8}")
    assert taken("[1,     2]", whitespace_flexible=True)
    assert not taken("[1, 2]", whitespace_flexible=False)


GBNF = """
root ::= item ("," item)*
item ::= [a-c] | "<" root ">"
"""
LARK = """
start: item ("," item)*
item: /[a-c]/ | "<" start ">"
"""


def test_the_two_languages_of_grammars_are_one(demo: Tokenizer) -> None:
    for seed in range(10):
        texts = [written(demo, started(demo, grammar=g), seed, most=60) for g in (GBNF, LARK)]
        assert texts[0] == texts[1]


def test_end_tokens_come_where_the_text_is_whole(demo: Tokenizer) -> None:
    a, b = demo.encode("a")[0], demo.encode("b")[0]
    follower = started(demo, (0, 7), regex="ab?")
    assert ids(follower.allowed())[0] != 0 and not follower.is_complete
    follower.accept(a)
    assert follower.is_complete and ids(follower.allowed()) == [0, 7, b]
    assert [follower.validate(t) for t in ([b, 0], [0, b], [7], [a], [b, b], [-1], [])] == [
        2, 1, 1, 0, 1, 0, 0,
    ]  # fmt: skip
    other = follower.copy()
    follower.accept(b)
    assert ids(follower.allowed()) == [0, 7]
    assert ids(other.allowed()) == [0, 7, b]
    other.accept(7)
    with pytest.raises(RuntimeError, match=f"does not take token {a}"):
        started(demo, regex="ba").accept(a)


def test_stop_ids_come_where_end_tokens_may(demo: Tokenizer) -> None:
    """Even where the grammar has their text: they end it."""
    a, b = demo.encode("a")[0], demo.encode("b")[0]
    follower = started(demo, stop_ids=(b, 0), regex="[ab]{2}")
    assert b not in ids(follower.allowed())
    assert follower.validate([a, b]) == 1
    follower.accept(a)
    assert b not in ids(follower.allowed())
    follower.accept(a)
    assert ids(follower.allowed()) == [0, b]
    follower.accept(b)


def test_a_model_without_an_end_token(demo: Tokenizer) -> None:
    a = demo.encode("a")[0]
    follower = started(demo, (), regex="a")
    follower.accept(ids(follower.allowed())[0])
    with pytest.raises(RuntimeError, match="complete, and the model has no token that ends a text"):
        follower.allowed()
    follower = started(demo, (), stop_ids=(5,), regex="a")
    follower.accept(a)
    assert ids(follower.allowed()) == [5]


def test_a_space_at_the_start_is_no_text() -> None:
    """ "_" alone, as LLaMA's tokenizer puts it before digits, is nothing that a grammar sees."""
    tokenizer = Tokenizer(sentencepiece().to_str().encode())
    names = ("\u2581", "\u2581t", "t", "<0x74>", "<0x20>")
    space, t, letter, byte, blank = (tokenizer.token_id(name) or 0 for name in names)
    follower = started(tokenizer, (2,), regex="t.*")
    assert ids(follower.allowed()) == sorted([space, t, letter, byte, blank])
    assert follower.validate([space, letter, 2]) == 3
    follower.accept(space)
    assert ids(follower.allowed()) == sorted([letter, byte])
    other = started(tokenizer, (2,), regex="t.*")
    other.accept(t)
    assert t in ids(other.allowed()) and other.is_complete


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, "one of grammar, json_schema and regex, not none"),
    ({"regex": "a", "grammar": "start: /a/"}, "not grammar and regex"),
    ({"regex": 3}, "regex must be a str, not 3"),
    ({"grammar": b"start"}, "grammar must be a str"),
    ({"regex": "\ud800"}, "regex holds a lone surrogate"),
    ({"json_schema": 7}, "json_schema must be a mapping or JSON text, not 7"),
    ({"json_schema": "{"}, "json_schema is not a JSON schema: "),
    ({"json_schema": "[]"}, "json_schema is not a JSON schema: a schema is an object"),
    ({"json_schema": {"enum": [float("nan")]}}, "json_schema is not a JSON schema: "),
    ({"json_schema": {"enum": [{1, 2}]}}, "json_schema is not a JSON schema: "),
    (
        {"json_schema": {"$ref": "https://example.com/s"}},
        "'https://example.com/s', which is not in",
    ),
    ({"json_schema": {"$ref": "file:///etc/passwd"}}, "nothing is ever fetched"),
    ({"json_schema": {"$ref": "#/$defs/a"}}, "json_schema cannot be used: Pointer"),
    ({"json_schema": {"type": "strange"}}, "json_schema cannot be used: Invalid type: strange$"),
    ({"json_schema": {"not": {}}}, "Unimplemented keys"),
    ({"json_schema": "false"}, "schema is false$"),
    ({"json_schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "Unsatisfiable"),
    ({"json_schema": {"x-guidance": 3}}, '"x-guidance" is not an object'),
    ({"json_schema": {"x-guidance": {"whitespace_pattern": "("}}}, "error: unclosed group$"),
    ({"json_schema": "[" * 100_000}, "json_schema is nested too deeply"),
    ({"json_schema": '{"items":' * 500 + "{}" + "}" * 500}, "recursion limit"),
    ({"json_schema": {"enum": ["x" * (1 << 20)]}}, "characters, and may have 1048576"),
    ({"json_schema": {"allOf": [{"$ref": "#"}] * 2001}}, "2001 references, and may have 2000"),
    ({"grammar": "start: a"}, r"grammar cannot be used: at 1\(8\): unknown name: \"a\"$"),
    ({"grammar": ""}, "grammar cannot be used: "),
    ({"grammar": 'begin: "a"'}, "no start rule"),
    ({"grammar": "start: start"}, "grammar cannot be used: it takes no text"),
    ({"grammar": "start: " + "(" * 9999 + '"a"' + ")" * 9999}, "too deeply nested"),
    ({"grammar": 'top ::= "a"'}, "No 'root' rule found"),
    ({"grammar": "root ::= " + "(" * 9999 + '"a"' + ")" * 9999}, "nested too deeply"),
    ({"grammar": "start: r0\n" + "r:r\n" * 2000}, "2001 colons, and may have 2000"),
    ({"regex": "("}, "regex cannot be used: .* error: unclosed group$"),
    ({"regex": "(?=a)b"}, "look-around"),
    ({"regex": r"(a)\1"}, "backreferences are not supported"),
    ({"regex": r"[^\s\S]"}, "regex cannot be used: it takes no text"),
    ({"regex": ".*" * 3000}, "regex cannot be used: lexer precomputation failed"),
]


@pytest.mark.parametrize(("given", "words"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be_used_is_told_in_a_sentence(
    demo: Tokenizer, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        started(demo, **given)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 500


CHAINS = """
import json, sys
from pythia_rt.grammar import Constraint
from pythia_rt.model import DEMO_FOLDER
from pythia_rt.tokenizer import Tokenizer
tokenizer = Tokenizer((DEMO_FOLDER / "tokenizer.json").read_bytes())
n = 1990
refs = {f"a{i}": {"items": {"$ref": f"#/$defs/a{i+1}"}, "type": "array"} for i in range(n)}
rules = "".join(f'r{i}: "x" r{i+1} "y"\\n' for i in range(n)) + f'r{n}: "a"'
for given in (
    {"grammar": "start: r0\\n" + rules},
    {"grammar": ("start: r0\\n" + rules).replace("r", "R").replace("staRt", "start")},
    {"json_schema": {"$ref": "#/$defs/a0", "$defs": {**refs, f"a{n}": {"type": "null"}}}},
):
    made = Constraint(**given).compiled(tokenizer, n_tokens=4096, end_ids=[0])
    made.start().allowed()
print("whole")
"""


def test_long_chains_of_rules_do_not_crash() -> None:
    """llguidance goes along them in recursion; the longest that are let in have room for it."""
    ran = subprocess.run(
        [sys.executable, "-c", CHAINS], capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout) == (0, "whole\n"), ran.stderr[-2000:]


def test_it_is_compiled_once_and_shared_by_threads(demo: Tokenizer) -> None:
    constraint = Constraint(json_schema=SCHEMA)
    assert constraint == Constraint(json_schema=json.dumps(SCHEMA)) != Constraint(regex="a")
    assert len({constraint, Constraint(json_schema=SCHEMA)}) == 1 and "json_schema=" in repr(
        constraint
    )
    made = constraint.compiled(demo, n_tokens=4096, end_ids=[0])
    assert constraint.compiled(demo, n_tokens=4096, end_ids=[0]) is made
    assert constraint.compiled(demo, n_tokens=4096, end_ids=[0, 1]) is not made
    alone = [written(demo, made.start(), seed) for seed in range(8)]
    together: dict[int, Any] = {}
    size = threading.stack_size()

    def write(seed: int) -> None:
        fresh = Constraint(json_schema=SCHEMA).compiled(demo, n_tokens=4096, end_ids=[0])
        together[seed] = written(demo, made.start(), seed)
        assert written(demo, fresh.start(), seed) == together[seed]

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(8)] == alone
    assert threading.stack_size() == size


def test_without_the_library_the_sentence_names_the_command(
    demo: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(
        ImportError, match=r"needs llguidance .* pip install 'pythia_rt\[grammar\]'$"
    ):
        Constraint(regex="a").compiled(
            Tokenizer((DEMO_FOLDER / "tokenizer.json").read_bytes()), n_tokens=4096, end_ids=[0]
        )
