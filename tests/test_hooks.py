"""Grammars and processors in the texts of one batch, with drafts and beside texts without."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from test_grammar import SCHEMA

from pythia_rt import Model, _core
from pythia_rt.grammar import Constraint
from pythia_rt.hooks import hook_maker

PROMPT = "The server answers: "
EMAIL = r"[a-z]{2,8}@[a-z]{2,8}\.(?:com|org)"
LIST = 'start: item (", " item)*\nitem: /[a-z]{3,7}/'


@pytest.fixture(scope="module")
def model(demo_file: Callable[[str], Path]) -> Model:
    return Model.load(demo_file("q8"))


def no_digits(tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
    """Moves logits by what was written, too."""
    logits[200:300] = -math.inf
    logits[int(tokens[-1])] -= 2


def flattened(tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits * np.float32(0.5)


CASES: dict[str, tuple[Constraint | None, tuple[Any, ...]]] = {
    "schema": (Constraint(json_schema=SCHEMA), ()),
    "regex": (Constraint(regex=EMAIL), ()),
    "grammar": (Constraint(grammar=LIST), ()),
    "plain": (None, ()),
    "processors": (None, (no_digits, flattened)),
    "both": (Constraint(json_schema=SCHEMA), (no_digits,)),
}


def begin(
    model: Model, name: str, seed: int, temperature: float = 0.9, most: int = 90, draft: Any = None
) -> Any:
    constraint, processors = CASES[name]
    prompt = np.array(model._ids(PROMPT), np.int32)
    spec = model._file.spec
    make = hook_maker(constraint, processors, tokenizer=model.tokenizer, spec=spec, prompt=prompt)
    session = _core.Session(model._core, capacity=len(prompt) + most, kv_format="f16")
    session.append(prompt)
    sampler = _core.Sampler(n_tokens=spec["n_tokens"], temperature=temperature, seed=seed)
    return _core.Writer(
        session,
        sampler,
        max_tokens=most,
        end_ids=np.array(spec["eos_ids"], np.int32),
        draft=draft,
        hook=make() if make is not None else None,
    )


def finish(*writers: Any) -> list[list[int]]:
    running = list(writers)
    while running:
        _core.write(running, pace=_core.Pace(math.inf))
        running = [writer for writer in running if not writer.has_ended]
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    return [writer.take().tokens.tolist() for writer in writers]


def check(model: Model, name: str, tokens: list[int]) -> None:
    """The text is what was asked for, or the beginning of it where it was cut."""
    assert model.tokenizer is not None
    has_ended = tokens[-1] in model._file.spec["eos_ids"]
    text = model.tokenizer.decode(tokens[:-1] if has_ended else tokens)
    if name in ("schema", "both"):
        if has_ended:
            jsonschema.validate(json.loads(text), SCHEMA)
        else:
            assert text.startswith("{")
    elif name == "regex":
        assert has_ended and re.fullmatch(EMAIL, text)
    elif name == "grammar":
        assert re.fullmatch(r"(?:[a-z]{3,7}(?:, |$))*[a-z]{0,7},? ?", text)
    if name in ("processors", "both"):
        assert not any(200 <= token < 300 for token in tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.9, 1.6])
def test_rows_of_a_batch_follow_each_its_own(model: Model, temperature: float) -> None:
    names = [name for name in CASES for _ in range(2)]
    texts = finish(*(begin(model, name, seed, temperature) for seed, name in enumerate(names)))
    for seed, (name, tokens) in enumerate(zip(names, texts, strict=True)):
        check(model, name, tokens)
        assert finish(begin(model, name, seed, temperature)) == [tokens], "as it is alone"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafts_change_no_token(model: Model, name: str, temperature: float) -> None:
    (expected,) = finish(begin(model, name, 5, temperature))
    prompt = np.array(model._ids(PROMPT), np.int32)
    wrong = np.array(expected, np.int32)
    wrong[3::7] = 9
    drafts = [
        _core.lookup_draft(prompt),
        _core.lookup_draft(prompt, np.array(expected, np.int32)),
        _core.lookup_draft(prompt, wrong),
        _core.model_draft(model._core, prompt, n_tokens=model._file.spec["n_tokens"]),
    ]
    writers = [begin(model, name, 5, temperature, draft=draft) for draft in drafts]
    assert finish(*writers) == [expected] * len(drafts)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_drafts_show_processors_nothing_else(model: Model, temperature: float) -> None:
    """Each is called for the text's own rows, once and in order, and fails where it would fail."""
    (tokens,) = finish(begin(model, "plain", 5, temperature))
    prompt = np.array(model._ids(PROMPT), np.int32)
    wrong = np.array(tokens, np.int32)
    wrong[3::7] = 9

    def written(last: int, draft: Any) -> tuple[Any, ...]:
        calls: list[tuple[Any, ...]] = []

        def processor(so_far: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
            calls.append((so_far.tobytes(), logits.tobytes()))
            if len(so_far) == last:
                raise ValueError("so long")

        CASES["given"] = (None, (processor,))
        try:
            writer = begin(model, "given", 5, temperature, draft=draft)
        finally:
            del CASES["given"]
        while not writer.has_ended:
            _core.write([writer], pace=_core.Pace(math.inf))
        return calls, writer.take().tokens.tolist(), str(writer.error)

    for last in (len(prompt) + 1, len(prompt) + 20, len(prompt) + 33, 1000):
        expected = written(last, None)
        assert expected[2] == ("None" if last == 1000 else "so long")
        for guessed in (tokens, wrong):
            draft = _core.lookup_draft(prompt, np.array(guessed, np.int32))
            assert written(last, draft) == expected


def test_a_json_that_is_cut_is_no_whole_one(model: Model) -> None:
    (tokens,) = finish(begin(model, "schema", 3, most=5))
    assert len(tokens) == 5 and tokens[-1] not in model._file.spec["eos_ids"]


def run(model: Model, *processors: Any, beside: str = "plain") -> list[Any]:
    """Two texts, of which the first has these processors; its error, and the second's tokens."""
    CASES["given"] = (None, processors)
    try:
        writers = [begin(model, "given", 1, most=20), begin(model, beside, 2, most=20)]
    finally:
        del CASES["given"]
    running = writers
    while running:
        _core.write(running, pace=_core.Pace(math.inf))
        running = [writer for writer in running if not writer.has_ended]
    assert writers[1].error is None
    return [writers[0], writers[1].take().tokens.tolist()]


BAD: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "raises": (lambda t, x: 1 // 0, ZeroDivisionError, "integer division"),
    "list": (lambda t, x: [0.0], TypeError, "must return None or an array of float32, not list$"),
    "float64": (lambda t, x: x.astype(float), TypeError, "array of float32, not float64$"),
    "shape": (lambda t, x: x[:5], ValueError, r"logits of shape \(\d+,\), not \(5,\)$"),
    "row": (lambda t, x: x[None], ValueError, r"not \(1, \d+\)$"),
    "nan": (lambda t, x: x * np.float32(math.nan), ValueError, "logit of token 0 is NaN$"),
    "inf": (lambda t, x: x.put(7, math.inf), ValueError, "logit of token 7 is plus infinity$"),
    "nothing": (lambda t, x: x.fill(-math.inf), RuntimeError, "all logits are minus infinity"),
    "tokens": (lambda t, x: t.fill(0), ValueError, "read-only"),
    "arguments": (lambda t: None, TypeError, "positional argument"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_processor_that_fails_ends_its_text_alone(model: Model, name: str) -> None:
    function, error, words = BAD[name]
    (expected,) = finish(begin(model, "plain", 2, most=20))
    calls = []

    def later(tokens: Any, logits: Any) -> Any:
        calls.append(len(tokens))
        return function(tokens, logits) if len(calls) == 4 else None

    if name == "arguments":
        later = function
    failing, beside = run(model, later)
    assert beside == expected
    with pytest.raises(error, match=words):
        raise failing.error
    assert failing.n_tokens == (0 if name == "arguments" else 3)


def test_a_grammar_that_a_processor_leaves_nothing_of(model: Model) -> None:
    def ban(tokens: Any, logits: NDArray[np.float32]) -> None:
        logits[:] = -math.inf
        logits[model.tokenizer.encode("?")[0]] = 0  # type: ignore[union-attr]

    CASES["given"] = (Constraint(regex="[a-z]+"), (ban,))
    try:
        with pytest.raises(RuntimeError, match="no token is left"):
            finish(begin(model, "given", 1))
    finally:
        del CASES["given"]


def test_processors_see_the_tokens_so_far(model: Model) -> None:
    """And what they keep of a call does not change."""
    seen: list[NDArray[np.int32]] = []
    rows: list[NDArray[np.float32]] = []

    def watch(tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
        seen.append(tokens)
        rows.append(logits)

    CASES["given"] = (None, (watch,))
    try:
        (tokens,) = finish(begin(model, "given", 1))
    finally:
        del CASES["given"]
    prompt = list(model._ids(PROMPT))
    assert [list(each) for each in seen] == [[*prompt, *tokens[:i]] for i in range(len(tokens))]
    assert len({row.tobytes() for row in rows}) == len(tokens)
    assert finish(begin(model, "plain", 1)) == [tokens]


def test_hooks_go_on_in_copies(model: Model) -> None:
    prompt = np.array([5, 6], np.int32)
    make = hook_maker(
        Constraint(regex="ab?c?"),
        (lambda t, x: x.__setitem__(0, float(len(t))),),
        tokenizer=model.tokenizer,
        spec=model._file.spec,
        prompt=prompt,
    )
    assert make is not None and model.tokenizer is not None
    a, b, c = (model.tokenizer.encode(letter)[0] for letter in "abc")
    hook: Any = make()
    hook.accept(a)
    other = hook.copy()
    hook.accept(b)
    masks = [each.allowed().copy() for each in (hook, other)]
    assert [bool(m[b // 32] >> np.uint32(b % 32) & 1) for m in masks] == [False, True]
    assert [bool(m[c // 32] >> np.uint32(c % 32) & 1) for m in masks] == [True, True]
    row = np.zeros(model._file.spec["vocab_size"], np.float32)
    for each, count in ((hook, 4), (other, 3)):
        each.change(row)
        assert row[0] == count


def test_a_grammar_needs_a_tokenizer(model: Model) -> None:
    with pytest.raises(ValueError, match="has no tokenizer, so a grammar cannot be followed"):
        hook_maker(
            Constraint(regex="a"),
            (),
            tokenizer=None,
            spec=model._file.spec,
            prompt=np.array([1], np.int32),
        )
