"""Model.score_pairs: continuations of contexts that are read once, whoever shares them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_config, write_checkpoint
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from models import covering_specs, make_model, make_spec
from numpy.typing import NDArray

from pythia_rt import Model, _core
from pythia_rt.convert import convert
from pythia_rt.scoring.branches import Branch, grow
from pythia_rt.scoring.judge import Answer, Question, answer

Ids = NDArray[np.int32]
SPECS = covering_specs()
FORMATS = ["f32", "q8", "q4"]
# Lengths around those from which on a beginning is shared, and pages that are not full.
_CUTS = st.integers(0, 45)


@st.composite
def families(draw: st.DrawFn) -> list[Ids]:
    """Texts of at most 60 tokens that begin as others do, up to anywhere."""
    texts: list[Ids] = [np.zeros(0, np.int32)]
    for seed in range(draw(st.integers(1, 7))):
        parent = draw(st.sampled_from(texts))
        new = np.random.default_rng(seed).integers(0, 80, draw(_CUTS), np.int32)
        texts.append(np.concatenate([parent[: draw(_CUTS)], new])[:60])
    return texts[1:]


def read(branch: Branch, before: list[int]) -> dict[int, list[int]]:
    """The texts that end on a tree, by number."""
    tokens = [*before, *branch.tokens.tolist()]
    found = dict.fromkeys(branch.texts, tokens)
    for child in branch.branches:
        found |= read(child, tokens)
    return found


def n_tokens(branch: Branch) -> int:
    return len(branch.tokens) + sum(map(n_tokens, branch.branches))


@given(families())
def test_a_tree_has_its_texts(texts: list[Ids]) -> None:
    tree = grow(texts)
    assert read(tree, []) == {number: text.tolist() for number, text in enumerate(texts)}
    assert len(tree.tokens) == 0
    beginnings = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    # At each text at most 15 tokens are read again, at each level of the tree.
    assert len(beginnings) <= n_tokens(tree) <= len(beginnings) + 15 * 4 * len(texts)


def test_what_is_shared_is_read_once() -> None:
    begin = np.arange(100, dtype=np.int32)
    texts = [np.concatenate([begin, np.full(30, i, np.int32)]) for i in range(3)]
    assert n_tokens(grow([*texts, *texts, begin])) == 100 + 3 * 30
    assert n_tokens(grow([texts[0][:115], texts[0][:116]])) == 116


def truth(model: _core.Model, question: Question) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The oracle: a softmax of every row, in float64."""
    text = np.concatenate([question.context, question.following])
    rows = _core.Session(model).logits(text[:-1])[len(question.context) - 1 :].astype(np.float64)
    top = rows.max(axis=1)
    normaliser = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    logits = rows[np.arange(len(rows)), question.following]
    return logits - normaliser, logits == top


def alone(model: _core.Model, question: Question) -> Answer:
    """To the bit: in a session of its own, without the code that is tested."""
    session = _core.Session(model)
    text = np.concatenate([question.context, question.following])
    ((found, likeliest),) = _core.score([session], [text], run_last=False)
    first = len(question.context) - 1
    return Answer(found[first:], likeliest[first:])


@settings(max_examples=examples(60))
@given(st.data(), families(), st.sampled_from(SPECS), st.sampled_from(FORMATS))
def test_answers_are_those_of_each_question_alone(
    data: st.DataObject, contexts: list[Ids], spec: Any, form: str
) -> None:
    model = make_model(spec, form)
    questions = []
    for number, stem in enumerate(contexts):
        numbers = np.random.default_rng([number]).integers(0, 80, 200, np.int32)
        context = np.concatenate([stem[:45], numbers[:1]])
        for begin in range(data.draw(st.integers(1, 3))):
            length = data.draw(st.integers(1, 18))
            questions.append(Question(context, numbers[begin : begin + length]))
    found = answer(lambda: _core.Session(model), questions)
    for question, each in zip(questions, found, strict=True):
        same = alone(model, question)
        assert each.log_probabilities.tolist() == same.log_probabilities.tolist()
        assert each.is_likeliest.tolist() == same.is_likeliest.tolist()
        expected, likeliest = truth(model, question)
        np.testing.assert_allclose(each.log_probabilities, expected, rtol=2e-6, atol=1e-5)
        assert each.is_likeliest.tolist() == likeliest.tolist()


def test_many_questions_are_answered_in_batches() -> None:
    """More than are read together; each answer is told of once."""
    model = make_model(make_spec(), "q8")
    draw = np.random.default_rng(5)
    contexts = [draw.integers(0, 80, draw.integers(1, 50), np.int32) for _ in range(90)]
    questions = [
        Question(context, draw.integers(0, 80, 1 + (i + j) % 4, np.int32))
        for i, context in enumerate(contexts)
        for j in range(3)
    ]
    told: list[int] = []
    found = answer(lambda: _core.Session(model), questions, told.append)
    assert sum(told) == len(questions)
    assert len(told) > 3
    for question, each in zip(questions, found, strict=True):
        assert each.log_probabilities.tolist() == alone(model, question).log_probabilities.tolist()


def test_strs_become_ids_as_in_the_harness(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q8"))
    assert model.tokenizer is not None
    encode = model.tokenizer.encode
    pairs = [
        ("The kernel", " is a program"),
        ("The kernel ", "is a program"),  # the blank belongs to the word
        ("", "The kernel"),
        (" \n", "The kernel"),
        ("<|endoftext|>The kernel", " is"),
        ("", "<|endoftext|>The kernel"),
        ("The kern", "el is a program"),
        ([5, 6], [7, 8]),
        ((), np.array([7, 8])),
        ([], (0, 7)),
        ("The kernel", [7]),
        (range(5, 7), " is"),
    ]
    whole, kern = encode("The kernel is a program"), encode("The kern")
    contexts: list[list[int]] = [
        encode("The kernel"),
        encode("The kernel"),
        [0],
        [0],
        [0, *encode("The kernel")],
        [0],
        kern,
        [5, 6],
        [0],
        [0],
        encode("The kernel"),
        [5, 6],
    ]
    continuations: list[list[int]] = [
        encode("The kernel is a program")[len(encode("The kernel")) :],
        encode("The kernel is a program")[len(encode("The kernel")) :],
        encode("The kernel"),
        encode(" \nThe kernel"),
        encode(" is"),
        encode("The kernel"),
        whole[len(kern) :],
        [7, 8],
        [7, 8],
        [7],
        [7],
        encode(" is"),
    ]
    found = model.score_pairs(pairs)
    assert [pair.tokens.tolist() for pair in found] == continuations
    for each, context, continuation in zip(found, contexts, continuations, strict=True):
        (score,) = model.score([[*context, *continuation]])
        n = len(continuation)
        assert each.log_probabilities.tolist() == score.log_probabilities[-n:].tolist()
        assert each.is_likeliest.tolist() == score.is_likeliest[-n:].tolist()
        assert each.total == score.log_probabilities[-n:].sum(dtype=np.float64)
        assert each.is_greedy == score.is_likeliest[-n:].all()


def test_greedy_continuations(demo_file: Callable[[str], Path]) -> None:
    model = Model.load(demo_file("q4"))
    tokens = model.generate([5, 6], temperature=0, max_new_tokens=20).tokens
    other = [*tokens[:-1], (tokens[-1] + 1) % 4096]
    found = model.score_pairs([([5, 6], tokens), ([5, 6], other), ([5, 6], tokens[:1])])
    assert [each.is_greedy for each in found] == [True, False, True]
    assert [len(each) for each in found] == [20, 20, 1]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ("a text", r"score_pairs takes a list of pairs \(context, continuation\)"),
        (np.zeros((2, 2), np.int32), "score_pairs takes a list of pairs"),
        (7, "score_pairs takes a list of pairs"),
        ([], "there is nothing to score: give at least one pair"),
        (["ab"], r"pair 1 of 1: a pair is \(context, continuation\), not str"),
        ([("a", " b"), ("a", "b", "c")], "pair 2 of 2: a pair is .* not tuple of 3"),
        ([("a", " b"), ("a", "")], "pair 2 of 2: the continuation has no tokens"),
        ([("th", "e")], "pair 1 of 1: the continuation has no tokens of its own: the tokenizer"),
        ([([1], [])], "pair 1 of 1: the continuation has no tokens"),
        ([("", "<|endoftext|>")], "pair 1 of 1: the continuation has no tokens"),
        ([("", "")], "pair 1 of 1: the continuation has no tokens"),
        ([([1], [2]), ([4096], [1])], "pair 2 of 2: token id 4096 is not in the vocabulary"),
        ([([1], [-1])], "pair 1 of 1: token id -1 is not in the vocabulary"),
        ([("a", 3)], "pair 1 of 1: the prompt must be a str or a sequence of token ids, not int"),
        ([("a", None)], "pair 1 of 1: the prompt must be a str or a .*, not NoneType"),
        ([(b"a", "b")], "pair 1 of 1: the prompt must be a str or a .*, not bytes"),
        ([({1, 2}, "b")], "pair 1 of 1: the prompt must be a str or a .*, not set"),
        ([(np.array(5), "b")], "pair 1 of 1: an array of token ids must have one dimension"),
        ([("a", np.array(5))], "pair 1 of 1: an array of token ids must have one dimension"),
        ([([1.5], [1])], "pair 1 of 1: token ids must be whole numbers, not 1.5"),
        ([("\ud800", "b")], "pair 1 of 1: the text holds a lone surrogate"),
        ([([1] * 2000, [2] * 50)], "2049 tokens before the last one do not fit into the context"),
    ],
)
def test_pairs_that_cannot_be_scored(
    demo_file: Callable[[str], Path], pairs: Any, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        Model.load(demo_file("q4")).score_pairs(pairs)


def test_a_pair_that_fills_the_context(demo_file: Callable[[str], Path]) -> None:
    """Its last token is judged, and never read."""
    model = Model.load(demo_file("q4"))
    text = np.random.default_rng(0).integers(0, 4096, 2049, np.int32)
    (found,) = model.score_pairs([(text[:2000], text[2000:])])
    assert found.total == model.score([text])[0].log_probabilities[1999:].sum(dtype=np.float64)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "plain", make_config())
    model = Model.load(convert(folder, tmp_path / "plain.q8", format="q8"))
    with pytest.raises(ValueError, match="pair 1 of 1: this model has no tokenizer"):
        model.score_pairs([("a", "b")])
    assert len(model.score_pairs([([1], [2])])) == 1
