"""Constraints through `Model.generate` and `Engine`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from test_grammar import SCHEMA
from test_hooks import EMAIL, PROMPT

from pythia_rt import Constraint, Engine, Model, Request


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("q8"))


def test_generate_takes_each_of_them(model: Model) -> None:
    text = model.generate(PROMPT, json_schema=SCHEMA, seed=3)
    assert text.finish_reason == "eos"
    jsonschema.validate(json.loads(text.text), SCHEMA)
    assert model.generate(PROMPT, json_schema=json.dumps(SCHEMA), seed=3).text == text.text
    assert (
        model.generate(PROMPT, constraint=Constraint(json_schema=SCHEMA), seed=3).text == text.text
    )
    assert re.fullmatch(EMAIL, model.generate(PROMPT, regex=EMAIL, seed=1).text)
    for grammar in ('start: "yes" | "no"', 'root ::= "yes" | "no"'):
        assert model.generate(PROMPT, grammar=grammar, seed=2).text in ("yes", "no")
    cut = model.generate(PROMPT, json_schema=SCHEMA, seed=3, max_new_tokens=4)
    assert cut.finish_reason == "length" and cut.tokens == text.tokens[:4]
    stopped = model.generate(PROMPT, json_schema=SCHEMA, seed=3, stop='"name"')
    assert (
        stopped.finish_reason == "stop" and stopped.text == text.text[: text.text.index('"name"')]
    )


def test_log_probabilities_are_the_models_own(model: Model) -> None:
    """Before the mask, as before temperature and penalties."""
    text = model.generate(PROMPT, regex="[a-z]{4,9}", temperature=0, top_logprobs=2)
    score = model.score([[*model._ids(PROMPT), *text.tokens]])[0]
    assert score.log_probabilities[-len(text.tokens) :].tolist() == pytest.approx(text.logprobs)
    assert text.top_logprobs is not None
    assert any(
        row[0][0] != token for row, token in zip(text.top_logprobs, text.tokens, strict=True)
    )


@pytest.mark.parametrize("draft", ["lookup", "other"])
def test_drafts_and_company_change_no_text(model: Model, draft: str) -> None:
    """With drafts that guess right for most of the text, and beside texts of other kinds."""
    from pythia_rt import Draft

    asked: list[dict[str, Any]] = [
        {"json_schema": SCHEMA},
        {"regex": EMAIL, "temperature": 0},
        {"grammar": 'start: item (", " item)*\nitem: /[a-z]{3,7}/', "max_new_tokens": 30},
        {"max_new_tokens": 30},
        {"json_schema": SCHEMA, "processors": [lambda t, x: x * 2], "stop_token_ids": 9},
    ]
    alone = [model.generate(PROMPT, seed=i, **options) for i, options in enumerate(asked)]
    with Engine(model) as engine:
        handles = [
            engine.submit(
                PROMPT,
                seed=i,
                draft=draft if draft == "lookup" else Draft.predicted(alone[i].text + " more"),
                **options,
            )
            for i, options in enumerate(asked)
            for _ in range(2)
        ]
        written = [handle.result() for handle in handles]
    for i, text in enumerate(written):
        assert (text.tokens, text.text, text.finish_reason) == (
            alone[i // 2].tokens, alone[i // 2].text, alone[i // 2].finish_reason,
        )  # fmt: skip


def test_samples_have_each_its_own_state(model: Model) -> None:
    texts = model.samples(PROMPT, n=4, json_schema=SCHEMA, seed=7)
    for i, text in enumerate(texts):
        jsonschema.validate(json.loads(text.text), SCHEMA)
        assert text.tokens == model.generate(PROMPT, json_schema=SCHEMA, seed=7 + i).tokens
    assert len({text.text for text in texts}) > 1


def test_a_broken_grammar_touches_nobody_else(model: Model) -> None:
    expected = model.generate(PROMPT, max_new_tokens=20, seed=1)
    with Engine(model) as engine:
        beside = engine.submit(PROMPT, max_new_tokens=20, seed=1)
        with pytest.raises(ValueError, match=r"json_schema cannot be used: Invalid type: strange$"):
            engine.submit(PROMPT, json_schema={"type": "strange"}).result()
        with pytest.raises(ValueError, match="not grammar and regex"):
            engine.submit(PROMPT, grammar="start: /a/", regex="a")
        with pytest.raises(ValueError, match="not both"):
            engine.submit(PROMPT, constraint=Constraint(regex="a"), regex="a")
        with pytest.raises(ValueError, match="constraint must be a"):
            Request(PROMPT, constraint="a")  # type: ignore[arg-type]
        nothing = dict.fromkeys(model._ids("a"), float("-inf"))
        left = engine.submit(PROMPT, regex="a", logit_bias=nothing)
        with pytest.raises(RuntimeError, match="so no token is left"):
            left.result()
        assert beside.result().tokens == expected.tokens


def test_pieces_are_streamed(model: Model) -> None:
    async def pieces(engine: Engine) -> str:
        handle = engine.submit(PROMPT, json_schema=SCHEMA, seed=3)
        return "".join([piece async for piece in handle])

    with Engine(model) as engine:
        text = asyncio.run(pieces(engine))
    assert text == model.generate(PROMPT, json_schema=SCHEMA, seed=3).text
