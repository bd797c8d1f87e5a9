"""Drafts guess at texts that are written with edits, and change none of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from demo import PROMPT

from pythia_rt import Draft, Engine, Generation, Model, Request, Sampling
from pythia_rt.insides import Add, At, Mean, Replace, Scale, Zero

RANDOM = np.random.default_rng(5)
N = 40
TEXT = " for each of the processors, and for each of the processors that"


def odd_positions(values: Any, at: At) -> None:
    """Of each position another change: a guess that stays has the row it would have alone."""
    values += np.sin(at.positions)[:, None]


def halved(values: Any, at: At) -> Any:
    return values * np.float32(0.5)


def now_and_then(values: Any, at: At) -> None:
    """Few positions, of a point that balancing scales: the others keep every bit."""
    values[at.positions % 5 == 2] *= np.float32(-1.5)


def edits_of(model: Model) -> list[list[Any]]:
    width = model.spec["hidden_size"]
    return [
        [],
        [Add("layers.2.resid_post", RANDOM.normal(size=width) / 2)],
        [Zero("layers.1.z", heads=[0, 2]), Scale("layers.3.mlp_out", 0.5)],
        [("layers.1.resid_pre", odd_positions), ("layers.2.q", halved)],
        [("layers.2.v", now_and_then), ("layers.3.mlp_post", now_and_then)],
        [Scale("layers.2.scores", 0.5, heads=1), ("layers.4.pattern", halved)],
        [Replace("layers.0.attn_out", RANDOM.normal(size=(9, width)), positions=range(3, 21, 2))],
        [Mean("layers.5.mlp_post", np.zeros(model.spec["mlp_size"]), positions=range(3, 60, 3))],
    ]


def drafts_of(model: Model, written: str) -> list[Any]:
    """The model without the edits, what stood before, what is nearly the text, and nonsense."""
    half = len(written) // 2
    nearly = written[:half] + "x" + written[half:]
    return [Draft.model(model), "lookup", Draft.predicted(nearly), Draft.predicted(TEXT * 3)]


def without_draft(text: Generation) -> tuple[Any, ...]:
    return tuple(value for name, value in vars(text).items() if name not in ("timing", "drafted"))


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_texts_with_edits_are_those_without_drafts(model: Model, temperature: float) -> None:
    """Texts with different edits and drafts beside each other, in passes that they share."""
    prompts = [PROMPT, f"{PROMPT}{TEXT}{TEXT}", TEXT]
    sampling = Sampling(max_new_tokens=N, temperature=temperature, seed=3, repetition_penalty=1.1)
    expected, requests = [], []
    for number, edits in enumerate(edits_of(model)):
        prompt = prompts[number % 3]
        alone = model.generate(prompt, sampling, edits=edits, top_logprobs=2, echo=True)
        for draft in drafts_of(model, alone.text):
            requests.append(
                Request(prompt, sampling, edits=edits, draft=draft, top_logprobs=2, echo=True)
            )
            expected.append(without_draft(alone))
    assert len({text[0] for text in expected}) == len(edits_of(model))
    with Engine(model, max_rows=64) as engine:
        handles = [engine.submit(request) for request in requests]
        texts = [handle.result() for handle in handles]
    assert [without_draft(text) for text in texts] == expected
    assert all(text.drafted is not None for text in texts)


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_drafts_of_edited_texts_are_right_and_wrong(model: Model, temperature: float) -> None:
    """So that what the other tests compare was guessed at. A text alone: in a pass that is full
    nothing is guessed, and whether it is depends on times."""
    sampling = Sampling(max_new_tokens=N, temperature=temperature, seed=3)
    (_, *edited) = edits_of(model)
    drafted = [
        model.generate(PROMPT, sampling, edits=edits, draft=Draft.model(model)).drafted
        for edits in edited
    ]
    assert all(each is not None and each.proposed > 0 for each in drafted)
    assert any(each is not None and each.accepted > 0 for each in drafted)
    assert any(each is not None and each.accepted < each.proposed for each in drafted)


def test_streams_samples_and_batches_too(model: Model) -> None:
    (_, *edited) = edits_of(model)
    options: dict[str, Any] = {"max_new_tokens": N, "temperature": 0.8, "seed": 11}
    prompts = [PROMPT, TEXT, PROMPT + TEXT]
    for edits in edited[2:5]:
        plain = model.generate(prompts, edits=edits, **options)
        for draft in (Draft.model(model), "lookup"):
            found = model.generate(prompts, edits=edits, draft=draft, **options)
            assert list(map(without_draft, found)) == list(map(without_draft, plain))
        stream = model.stream(prompts[0], edits=edits, draft="lookup", **options)
        assert "".join(stream) == plain[0].text
        samples = model.samples(prompts[0], n=3, edits=edits, draft=Draft.model(model), **options)
        more = [
            model.generate(prompts[0], edits=edits, **{**options, "seed": 11 + i}) for i in (1, 2)
        ]
        expected = list(map(without_draft, [plain[0], *more]))
        assert list(map(without_draft, samples)) == expected
        undrafted = model.samples(prompts[0], n=3, edits=edits, **options)
        assert list(map(without_draft, undrafted)) == expected


# What a function may do to rows of wrong guesses.
def fail(rows: Any) -> None:
    raise ValueError("a row that the text does not have")


def leave_nothing(rows: Any) -> None:
    rows[:] = np.nan


def refuse(rows: Any) -> None:
    raise MemoryError


@pytest.mark.parametrize("temperature", [0, 0.9])
@pytest.mark.parametrize("act", [fail, leave_nothing, refuse])
def test_what_befalls_wrong_guesses_is_nothing_to_the_text(
    model: Model, act: Any, temperature: float
) -> None:
    options: dict[str, Any] = {"max_new_tokens": N, "temperature": temperature, "seed": 3}
    plain = model.generate(PROMPT, **options)
    ids = np.concatenate([model._ids(PROMPT), np.array(plain.tokens, np.int32)])
    point = "layers.0.resid_pre"
    rows = model.run(ids, point, logits=None)[point]
    n_wrong = []

    def function(values: Any, at: At) -> None:
        is_wrong = (values != rows[at.positions]).any(axis=1)
        n_wrong.append(is_wrong.sum())
        if is_wrong.any():
            wrong = values[is_wrong]
            act(wrong)
            values[is_wrong] = wrong

    alone = model.generate(PROMPT, edits=[(point, function)], **options)
    assert without_draft(alone) == without_draft(plain)
    assert not any(n_wrong)
    for draft in drafts_of(model, plain.text):
        text = model.generate(PROMPT, edits=[(point, function)], draft=draft, **options)
        assert without_draft(text) == without_draft(plain)
    assert any(n_wrong)


def until_it_fails(model: Model, **options: Any) -> tuple[Any, ...]:
    """The text of a stream up to its error, its tokens, and the error."""
    stream = model.stream(PROMPT, **options)
    pieces = []
    with pytest.raises(LookupError) as caught:
        for piece in stream:
            pieces.append(piece)
    return "".join(pieces), stream._writing.tokens, type(caught.value), str(caught.value)


@pytest.mark.parametrize("point", ["layers.0.resid_pre", "layers.2.k", "layers.1.pattern"])
@pytest.mark.parametrize("temperature", [0, 0.9])
def test_a_text_that_fails_has_the_tokens_that_it_has_without(
    model: Model, point: str, temperature: float
) -> None:
    """Where the rows of right guesses fail, too: each where it is the last token's."""
    options: dict[str, Any] = {"max_new_tokens": N, "temperature": temperature, "seed": 3}
    plain = model.generate(PROMPT, **options)
    first = len(model._ids(PROMPT))
    were_ahead = []
    for failing in (first, first + 1, first + 5, first + 11, first + 30):

        def function(values: Any, at: At, failing: int = failing) -> None:
            if failing in at.positions:
                were_ahead.append(first <= at.positions[0] < failing)
                raise LookupError(f"position {failing}")

        edits = [(point, function)]
        expected = until_it_fails(model, edits=edits, **options)
        assert len(expected[1]) == failing - first + 1
        assert expected[3] == f"position {failing}"
        for draft in drafts_of(model, plain.text):
            assert until_it_fails(model, edits=edits, draft=draft, **options) == expected
    assert any(were_ahead)


def test_who_interrupts_a_function_ends_its_text(model: Model) -> None:
    """Ctrl-C comes once, whatever the rows: it is not taken back with the guesses."""
    first = len(model._ids(PROMPT))
    calls = []

    def function(values: Any, at: At) -> None:
        if at.positions[0] >= first and len(at.positions) > 1 and not calls:
            calls.append(at)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.generate(
            PROMPT,
            edits=[("layers.1.z", function)],
            draft=Draft.model(model),
            max_new_tokens=N,
            temperature=0,
        )
    assert calls
