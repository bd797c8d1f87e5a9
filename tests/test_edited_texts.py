"""Edits while texts are written: each text has its own, and the others none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import make_model, make_spec
from numpy.typing import NDArray
from probing import Tokens, sessions_of, tokens_of
from test_edits import drawn_edits
from test_patterns import at_pattern, at_scores

from pythia_rt import _core

SPEC = make_spec(max_positions=640)
MODEL = make_model(SPEC, "q8", threads=2)
N = 12  # new tokens of a text


def edits_of(module: Any, model: Any, kind: str, seed: int, length: int) -> Any:
    if kind == "none":
        return None
    if kind == "points":
        items = drawn_edits(seed, 3, length)
    else:
        items = [("scores", 0, None, at_scores), ("pattern", 1, np.arange(3, 99, 2), at_pattern)]
    return module.Edits(model, items)


def writer_of(
    module: Any, model: Any, tokens: Tokens, edits: Any, draft: bool = False, count: int = N
) -> Any:
    (session,) = sessions_of(module, model, 1)
    session.append(tokens)
    sampler = module.Sampler(n_tokens=SPEC["n_tokens"], temperature=0.9, seed=len(tokens))
    more = {"draft": module.lookup_draft(np.tile(tokens, 3))} if draft else {}
    return module.Writer(session, sampler, max_tokens=count, edits=edits, **more)


def finish(module: Any, writers: list[Any], max_rows: int = 0) -> list[list[int]]:
    running, pace = list(writers), module.Pace(math.inf)
    while running:
        module.write(running, pace=pace, seconds=0.0, max_rows=max_rows)
        running = [writer for writer in running if not writer.has_ended]
    for writer in writers:
        if writer.error is not None:
            raise writer.error
    return [writer.take().tokens.tolist() for writer in writers]


def by_runs(tokens: Tokens, edits: Any) -> list[int]:
    """The same text from runs of the whole of it, over and over."""
    sampler = _core.Sampler(n_tokens=SPEC["n_tokens"], temperature=0.9, seed=len(tokens))
    text = tokens
    for _ in range(N):
        own = None if edits is None else [edits]
        (logits,), _ = _core.run(sessions_of(_core, MODEL, 1), [text], edits=own, logits="last")
        token = sampler.sample(logits[0])
        text = np.append(text, np.int32(token))
    return [int(token) for token in text[len(tokens) :]]


kinds = st.sampled_from(["none", "points", "patterns"])


@given(
    texts=st.lists(st.tuples(st.integers(1, 60), kinds, st.booleans()), min_size=1, max_size=4),
    max_rows=st.sampled_from([0, 7]),
)
@settings(deadline=None, max_examples=examples(8))
def test_a_text_is_that_of_runs_with_its_edits(
    texts: list[tuple[int, str, bool]], max_rows: int
) -> None:
    """Whatever is beside it, in however many pieces it is read, and with drafts."""
    tokens = tokens_of(SPEC["n_tokens"], [length for length, _, _ in texts])
    edits = [
        edits_of(_core, MODEL, kind, i, length + N) for i, (length, kind, _) in enumerate(texts)
    ]
    writers = [
        writer_of(_core, MODEL, text, own, draft)
        for text, own, (_, _, draft) in zip(tokens, edits, texts, strict=True)
    ]
    found = finish(_core, writers, max_rows)
    assert found == [by_runs(text, own) for text, own in zip(tokens, edits, strict=True)]


@pytest.mark.parametrize("gpu_layers", [1, 2])
def test_a_device_writes_the_same(gpu_layers: int) -> None:
    from backends import _emulated

    model = make_model(SPEC, "q8", module=_emulated, device="cuda", gpu_layers=gpu_layers)
    tokens = tokens_of(SPEC["n_tokens"], (9, 4, 5))

    def written(module: Any, of: Any) -> list[list[int]]:
        kinds = ("points", "none", "patterns")
        edits = [edits_of(module, of, kind, 3, 30) for kind in kinds]
        pairs = zip(tokens, edits, strict=True)
        return finish(module, [writer_of(module, of, text, own, count=5) for text, own in pairs])

    assert written(_emulated, model) == written(_core, MODEL)


@pytest.mark.parametrize("draft", [False, True])
def test_what_an_edit_raises_ends_its_text_alone(draft: bool) -> None:
    tokens = tokens_of(SPEC["n_tokens"], (9, 5, 7))

    def function(rows: NDArray[np.float32], at: NDArray[np.int64]) -> None:
        if at[-1] >= 12:
            raise KeyError("twelve")

    failing = _core.Edits(MODEL, [("z", 1, None, function)])
    late = _core.Edits(MODEL, [("pattern", 1, None, at_pattern)])
    bad = writer_of(_core, MODEL, tokens[0], failing, draft)
    (session,) = sessions_of(_core, MODEL, 1)
    session.prefill(tokens[2])
    sampler = _core.Sampler(n_tokens=SPEC["n_tokens"])
    unseen = _core.Writer(session, sampler, max_tokens=N, edits=late)
    good = writer_of(_core, MODEL, tokens[1], None)
    running = [bad, unseen, good]
    while running:
        _core.write(running, pace=_core.Pace(math.inf))
        running = [writer for writer in running if not writer.has_ended]
    assert isinstance(bad.error, KeyError)
    assert len(bad.take().tokens) == 4
    assert "7 tokens were read before" in str(unseen.error)
    assert good.take().tokens.tolist() == by_runs(tokens[1], None)


def test_edits_of_another_model_are_refused() -> None:
    other = _core.Edits(make_model(SPEC), [])
    (tokens,) = tokens_of(SPEC["n_tokens"], (5,))
    with pytest.raises(ValueError, match="another model's"):
        writer_of(_core, MODEL, tokens, other)
    with pytest.raises(ValueError, match="Edits or None"):
        writer_of(_core, MODEL, tokens, 3)


def test_a_session_that_skipped_layers_writes_nothing() -> None:
    (session,) = sessions_of(_core, MODEL, 1)
    _core.run([session], tokens_of(SPEC["vocab_size"], (5,)), layers=[1])
    sampler = _core.Sampler(n_tokens=SPEC["n_tokens"])
    with pytest.raises(ValueError, match="through some of the layers"):
        _core.Writer(session, sampler, max_tokens=1)
