"""Texts that are written together are, each, the text that is written alone."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from pythia_rt import Model, Sampling, _core

PROMPTS = ("The kernel", "a", "Memory is read forward, which", "int main(void) {\n", "é🦜")

samplings = st.builds(
    Sampling,
    max_new_tokens=st.integers(1, 20),
    temperature=st.sampled_from([0.0, 0.7, 1.5]),
    top_p=st.sampled_from([0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    seed=st.integers(0, 2**64 - 1),
    stop=st.sampled_from([(), (" the",), ("e",)]),
)
prompts = st.one_of(
    st.sampled_from(PROMPTS), st.lists(st.integers(0, 4095), min_size=1, max_size=300)
)


def told(generation: Any) -> tuple[Any, ...]:
    """All of it but the time."""
    return (
        generation.text,
        generation.tokens,
        generation.logprobs,
        generation.finish_reason,
        generation.seed,
    )


@given(asked=st.lists(st.tuples(prompts, samplings), min_size=1, max_size=6))
@settings(deadline=None, max_examples=examples(20))
def test_each_text_is_that_written_alone(model: Model, asked: list[tuple[Any, Sampling]]) -> None:
    together = model.generate([prompt for prompt, _ in asked], [how for _, how in asked])
    assert [told(text) for text in together] == [
        told(model.generate(prompt, how)) for prompt, how in asked
    ]


def test_more_texts_than_are_written_at_a_time(model: Model) -> None:
    texts = [f"{PROMPTS[i % 5]} {i}" for i in range(70)]
    how = Sampling(max_new_tokens=5, seed=3)
    together = model.generate(texts, how)
    assert [told(text) for text in together] == [told(model.generate(text, how)) for text in texts]


def test_options_hold_for_all_and_seeds_differ(model: Model) -> None:
    texts = model.generate(["a", "a"], temperature=1.0, max_new_tokens=4)
    assert [text.timing.new_tokens for text in texts] == [4, 4]
    assert texts[0].seed != texts[1].seed
    assert all(text.timing.decode_seconds > 0 < text.timing.prefill_seconds for text in texts)


def test_a_list_of_one_is_a_list(model: Model) -> None:
    (text,) = model.generate(["The kernel"], temperature=0, max_new_tokens=3)
    assert told(text)[:2] == told(model.generate("The kernel", temperature=0, max_new_tokens=3))[:2]


@pytest.mark.parametrize(
    ("asked", "how", "message"),
    [
        ([], None, "the prompt is empty"),
        (["a", ""], None, "prompt 2 of 2: the prompt is empty"),
        ([[1, 2], [4096]], None, "prompt 2 of 2: token id 4096 is not in the vocabulary"),
        (["a", 3], None, "prompt 2 of 2: the prompt must be a str or a sequence of token ids"),
        (["a", "b"], [Sampling()], "there are 1 Samplings for 2 prompts"),
        ("a", [Sampling()], "sampling must be a pythia_rt.Sampling, not list"),
        (["a", "b"], [Sampling(), 3], "sampling must be a pythia_rt.Sampling, not int"),
    ],
)
def test_bad_lists_get_one_sentence(model: Model, asked: Any, how: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        model.generate(asked, how)


# Passes of the core


def sampler(**options: Any) -> _core.Sampler:
    return _core.Sampler(n_tokens=4096, temperature=0.0, **options)


def writer_of(session: _core.Session, sampler: _core.Sampler, count: int) -> _core.Writer:
    return _core.Writer(session, sampler, max_tokens=count)


def test_a_long_prompt_does_not_hold_up_those_that_write(model: Model) -> None:
    sessions = [model.new_session(200), model.new_session(200)]
    prompt = np.arange(100, dtype=np.int32)
    sessions[0].append(prompt)
    sessions[1].append(prompt[:3])
    # The reader comes first in the list, but not in a pass.
    reader, writer = (writer_of(session, sampler(), 20) for session in sessions)
    one_pass: dict[str, Any] = {"pace": _core.Pace(math.inf), "seconds": 0.0, "max_rows": 11}
    _core.write([writer], **one_pass)  # begins to write: its first token waits
    for n_passes in range(1, 12):
        assert _core.write([reader, writer], **one_pass) == []
        assert writer.n_tokens == 1 + n_passes, "the writer gets a token in every pass"
        # Ten rows of a hundred are left to the reader in each pass.
        assert reader.n_tokens == max(0, n_passes - 9)
    for text, prompt_of in ((writer, prompt[:3]), (reader, prompt)):
        alone, of_alone = model.new_session(200), sampler()
        alone.prefill(prompt_of)
        tokens = text.take().tokens.tolist()
        assert tokens == [alone.step(of_alone)[0] for _ in tokens]


def test_who_cannot_be_sampled_does_not_hold_up_the_others(model: Model) -> None:
    sessions = [model.new_session(20) for _ in range(3)]
    for session in sessions:
        session.append(np.array([1, 2, 3], np.int32))
    nothing_left = sampler(logit_bias=dict.fromkeys(range(4096), -np.inf))
    samplers = [sampler(), nothing_left, sampler()]
    writers = [writer_of(*pair, 1) for pair in zip(sessions, samplers, strict=True)]
    assert _core.write(writers, pace=_core.Pace()) == [0, 1, 2]
    assert isinstance(writers[1].error, RuntimeError)
    assert "bans every token" in str(writers[1].error)
    assert [writer.n_tokens for writer in writers] == [1, 0, 1]
    assert [session.position for session in sessions] == [4, 3, 4]
    again = writer_of(sessions[1], sampler(), 1)  # its logits are still there
    assert _core.write([again], pace=_core.Pace()) == [0]
    assert again.error is None


def test_rewinding_into_what_waits(model: Model) -> None:
    session, straight = model.new_session(10), model.new_session(10)
    session.append(np.array([1, 2, 3, 4], np.int32))
    session.rewind(2)
    assert session.position == 2
    session.prefill(np.array([7], np.int32))
    straight.prefill(np.array([1, 2, 7], np.int32))
    assert (session.last_logits == straight.last_logits).all()
