"""What the tests of the API write with the demo model."""

from __future__ import annotations

from typing import Any

from pythia_rt import Model

PROMPT = "The kernel"
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 24}


def ids_of(model: Model, text: str) -> list[int]:
    assert model.tokenizer is not None
    return model.tokenizer.encode(text)
