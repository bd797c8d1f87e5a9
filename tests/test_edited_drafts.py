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


def edits_of(model: Model) -> list[list[Any]]:
    width = model.spec["hidden_size"]
    return [
        [],
        [Add("layers.2.resid_post", RANDOM.normal(size=width) / 2)],
        [Zero("layers.1.z", heads=[0, 2]), Scale("layers.3.mlp_out", 0.5)],
        [("layers.1.resid_pre", odd_positions), ("layers.2.q", halved)],
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
    for edits in edited[2:4]:
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
