"""Options of `pythia-rt generate` that say which texts there may be, and what guesses tokens."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from pathlib import Path

import commands
import jsonschema
import pytest
from checkpoints import make_config, write_checkpoint
from test_grammar import SCHEMA
from test_hooks import EMAIL, PROMPT

from pythia_rt import Model
from pythia_rt.cli.model import speed
from pythia_rt.convert import convert
from pythia_rt.generation import Drafted

good = functools.partial(commands.good, "generate")
refused = functools.partial(commands.refused, "generate")
GREEDY = ("--temperature", "0", "--max-new-tokens", "30")


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(cache))


def test_each_constraint_is_the_one_of_python(model: Model, tmp_path: Path) -> None:
    schema, grammar = tmp_path / "schema.json", tmp_path / "sums.lark"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8-sig")
    rules = 'start: number ("+" number)*\nnumber: /[1-9][0-9]{0,2}/'
    grammar.write_text(rules)
    seed = ("--seed", "3")
    found = good(PROMPT, "--json-schema", schema, *seed).stdout
    jsonschema.validate(json.loads(found), SCHEMA)
    assert found == model.generate(PROMPT, json_schema=SCHEMA, seed=3).text + "\n"
    assert good(PROMPT, "--json-schema", " " + json.dumps(SCHEMA), *seed).stdout == found
    assert good(PROMPT, "--regex", EMAIL, *seed).stdout == (
        model.generate(PROMPT, regex=EMAIL, seed=3).text + "\n"
    )
    expected = model.generate(PROMPT, grammar=rules, seed=3, max_new_tokens=12)
    short = (*seed, "--max-new-tokens", "12")
    assert good(PROMPT, "--grammar", grammar, *short).stdout == expected.text + "\n"
    ids = " ".join(map(str, model._ids(PROMPT)))
    written = good(ids, "--token-ids", "--grammar", grammar, *short).stdout
    assert written == " ".join(map(str, expected.tokens)) + "\n"


def test_each_draft_changes_no_text_and_is_counted(model: Model, tmp_path: Path) -> None:
    expected = model.generate("The kernel", temperature=0, max_new_tokens=30)
    plain = good("The kernel", *GREEDY)
    assert plain.stdout == expected.text + "\n"
    assert "guesses" not in plain.stderr
    book = tmp_path / "book.txt"
    book.write_text(expected.text)
    for draft in (("--draft", "lookup"), ("--draft", model.file.path), ("--predicted", book)):
        result = good("The kernel", *GREEDY, *draft)
        assert result.stdout == plain.stdout
        assert re.search(r", \d+ of \d+ guesses right \(ended by length; ", result.stderr)
    counted = dataclasses.replace(expected, drafted=Drafted(proposed=10, accepted=7))
    assert ", 7 of 10 guesses right (ended by length; " in speed(counted, model)
    both = good(PROMPT, "--regex", EMAIL, "--draft", "lookup", "--seed", "3").stdout
    assert both == good(PROMPT, "--regex", EMAIL, "--seed", "3").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--grammar", "a", "--regex", "b"], "Give --grammar or --regex, not both."),
        (["--regex", "b", "--json-schema", "{}"], "Give --json-schema or --regex, not both."),
        (["--draft", "lookup", "--predicted", "a"], "Give --draft or --predicted, not both."),
    ],
)
def test_contradictions(arguments: list[str], sentence: str) -> None:
    assert refused("The", *arguments, status=2) == f"Error: {sentence}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--regex", "("], "--regex cannot be used: "),
        (["--regex", r"[^\s\S]"], "--regex cannot be used: it takes no text"),
        (["--json-schema", "{"], "--json-schema is not a JSON schema: "),
        (["--json-schema", '{"type": "strange"}'], "--json-schema cannot be used: Invalid type"),
        (["--json-schema", "missing.json"], "missing.json does not exist: give a text file"),
        (["--json-schema", "."], ". is a folder: give a text file"),
        (["--grammar", "missing"], "missing does not exist: give a text file"),
        (["--grammar", "broken"], "--grammar cannot be used: at 1(8): unknown name"),
        (["--grammar", "latin"], "latin is not UTF-8: byte 0xff at offset 0"),
        (["--predicted", "missing"], "missing does not exist: give a text file"),
        (["--predicted", "latin"], "latin is not UTF-8: byte 0xff at offset 0"),
        (["--draft", "missing"], "missing does not exist: give a file written by convert"),
        (["--draft", "broken"], "broken"),
    ],
)
def test_bad_values(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").write_text("start: a")
    (tmp_path / "latin").write_bytes(b"\xff")
    assert sentence in refused("The", *arguments)


def test_a_draft_of_another_vocabulary(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "other", make_config())
    with pytest.warns(UserWarning, match="has no tokenizer"):
        other = convert(tmp_path / "other", tmp_path / "other.safetensors", format="q8")
    assert "a draft needs the same tokenizer" in refused("The", "--draft", other)


def test_without_llguidance_the_sentence_names_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for option in (["--regex", "a"], ["--json-schema", "{}"]):
        assert "pip install 'pythia_rt[grammar]'" in refused("The", *option)
