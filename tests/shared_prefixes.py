"""Small models, texts and what fresh sessions make of them, for the tests of shared prefixes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from backends import _emulated
from models import make_model, make_spec
from numpy.typing import NDArray
from oracle.prefixes import Tokens

from pythia_rt import _core

CAPACITY = 400
SPEC = make_spec(max_positions=CAPACITY)
SUBJECTS = ["cpu", "cuda", "cuda and cpu"]  # emulated; and the first of two layers on it


def model_of(subject: str = "cpu") -> Any:
    if subject == "cpu":
        return make_model(SPEC, "q8")
    layers: dict[str, Any] = {"gpu_layers": 1} if subject == "cuda and cpu" else {}
    return make_model(SPEC, "q8", module=_emulated, device="cuda", **layers)


def module_of(model: Any) -> Any:
    return _core if isinstance(model, _core.Model) else _emulated


def session_of(model: Any, kv_format: str = "f16", capacity: int = CAPACITY) -> Any:
    return module_of(model).Session(model, capacity=capacity, kv_format=kv_format)


def prefixes_of(model: Any, kv_format: str = "f16", pages: int = 1000) -> Any:
    budget = pages * session_of(model, kv_format).page_bytes
    return module_of(model).Prefixes(model, kv_format, budget)


def ids(tokens: Tokens) -> NDArray[np.int32]:
    return np.array(tokens, np.int32)


def text_of(count: int, seed: int = 0) -> Tokens:
    """The beginning of a text; there are as many texts as seeds."""
    drawn = np.random.default_rng(seed).integers(0, SPEC["n_tokens"], CAPACITY)
    return tuple(drawn[:count].tolist())


def same(found: Any, expected: Any) -> None:
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@lru_cache(maxsize=2000)
def fresh(kv_format: str, tokens: Tokens) -> tuple[Any, list[Any]]:
    """Logits and pages of a session that has read them all itself."""
    session = session_of(model_of(), kv_format)
    logits = session.logits(ids(tokens))
    return logits, [session.read_page(i) for i in range(session.pages)]


def read(session: Any, kv_format: str, tokens: Tokens, known: int) -> None:
    """What is new to the session gets the logits that it always gets."""
    found = session.logits(ids(tokens[known:]))
    same(found, fresh(kv_format, tokens)[0][known:])


def is_as_fresh(session: Any, kv_format: str, tokens: Tokens) -> None:
    assert session.position == len(tokens)
    if tokens:
        for i, page in enumerate(fresh(kv_format, tokens)[1]):
            same(session.read_page(i), page)
