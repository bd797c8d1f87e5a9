"""Tokens are judged by what is before them; what contexts have in common is read once.

A session of the core reads what is on a branch, and forks of it, which share its memory, what grows
from there. No bit of an answer depends on what else is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.scoring.branches import Branch, Ids, grow
from pythia_rt.together import n_together

# A sequence counts as so many tokens at least, for its page.
_LEAST = 16


class Question(NamedTuple):
    """How likely are the tokens `following` [k] after `context` [n]? Neither is empty, and all but
    the last one fit into the model's context."""

    context: Ids
    following: Ids


class Answer(NamedTuple):
    """Of each token that follows, given all before it: ln of its probability, float32 [k], and
    whether no other is likelier, bool [k]."""

    log_probabilities: NDArray[np.float32]
    is_likeliest: NDArray[np.bool_]


class _Ask(NamedTuple):
    """What is asked after the `last` token of a context: a question, by its number, or several of
    one token each."""

    last: Ids  # [1]
    numbers: list[int]


class _Step(NamedTuple):
    before: _core.Session | None  # has read all that is before; None where nothing is
    tokens: Ids
    then: Branch | _Ask  # a branch, whose tokens these are, or what is asked after them


def answer(
    new_session: Callable[[], _core.Session],
    questions: Sequence[Question],
    tell: Callable[[int], object] = lambda _: None,
) -> list[Answer]:
    """Answer all questions. `tell` is called with how many more have their answer."""
    answers: list[Answer | None] = [None] * len(questions)
    root = grow([question.context[:-1] for question in questions])
    steps = [_Step(None, *use) for use in _uses(root, questions)]
    while steps:
        count = n_together(_cost(step, questions) for step in reversed(steps))
        batch = [steps.pop() for _ in range(count)]
        sessions = [new_session() if step.before is None else step.before.fork() for step in batch]
        found = _run(batch, sessions, questions)
        for step, session in zip(batch, sessions, strict=True):
            if isinstance(step.then, Branch):
                steps += [_Step(session, *use) for use in _uses(step.then, questions)]
        for number, each in found:
            answers[number] = each
        tell(len(found))
    return [each for each in answers if each is not None]


def _uses(branch: Branch, questions: Sequence[Question]) -> Iterator[tuple[Ids, Branch | _Ask]]:
    """What comes next for a session that has read a branch, each with the tokens before it."""
    for child in branch.branches:
        uses = [*_uses(child, questions)] if not child.branches else []
        # A branch that one thing is asked of is read together with that.
        yield (child.tokens, uses[0][1] if len(uses) == 1 else child)
    single: dict[int, list[int]] = {}
    for number in branch.texts:
        context, following = questions[number]
        if len(following) == 1:
            single.setdefault(int(context[-1]), []).append(number)
        else:
            yield branch.tokens[:0], _Ask(context[-1:], [number])
    for numbers in single.values():
        yield branch.tokens[:0], _Ask(questions[numbers[0]].context[-1:], numbers)


def _cost(step: _Step, questions: Sequence[Question]) -> int:
    asked = 0
    if isinstance(step.then, _Ask):
        asked = len(questions[step.then.numbers[0]].following)
    return max(len(step.tokens) + asked, _LEAST)


def _run(
    steps: Sequence[_Step], sessions: Sequence[_core.Session], questions: Sequence[Question]
) -> list[tuple[int, Answer]]:
    """Read what the steps say in passes that they share; returns numbers and their answers."""
    # One row of logits is enough, or more are needed.
    rows: list[tuple[_core.Session, Ids, list[int]]] = []
    texts: list[tuple[_core.Session, Ids, int]] = []
    found: list[tuple[int, Answer]] = []
    for step, session in zip(steps, sessions, strict=True):
        if isinstance(step.then, Branch):
            _wait(session, step.tokens[:-1])
            rows.append((session, step.tokens[-1:], []))
        else:
            _wait(session, step.tokens)
            numbers = step.then.numbers
            following = questions[numbers[0]].following
            if len(following) == 1:
                rows.append((session, step.then.last, numbers))
            else:
                texts.append((session, np.concatenate([step.then.last, following]), numbers[0]))
    logits = _core.forward([row[0] for row in rows], [row[1] for row in rows])
    for (_, _, numbers), after in zip(rows, logits, strict=True):
        if numbers:
            tokens = np.concatenate([questions[number].following for number in numbers])
            judged = _core.judge(after[0], tokens)
            found += [
                (number, Answer(judged[0][i : i + 1], judged[1][i : i + 1]))
                for i, number in enumerate(numbers)
            ]
    scores = _core.score([text[0] for text in texts], [text[1] for text in texts], run_last=False)
    found += [(number, Answer(*each)) for (_, _, number), each in zip(texts, scores, strict=True)]
    return found


def _wait(session: _core.Session, tokens: Ids) -> None:
    if len(tokens):
        session.append(tokens)
