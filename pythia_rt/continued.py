"""The tokenizer of a text that follows another: nothing is put before it, nothing taken away."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from pythia_rt.convert.text.tokenizer import list_added_tokens


def continuing_tokenizer(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer that differs from the given one in this; the same where nothing does.

    Many put a space before a text ("The" is then the token of " The"), and sentencepiece's may
    take spaces away at both ends of it.
    """
    changed = {}
    for name in ("normalizer", "pre_tokenizer"):
        part = getattr(tokenizer, name)
        if part is not None:
            section = json.loads(part.__getstate__())
            if (plain := _without(section)) != section:
                changed[name] = plain
    if not changed:
        return tokenizer
    other = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(tokenizer.to_str()), **changed}))
    assert list_added_tokens(other) == list_added_tokens(tokenizer)
    other.encode_special_tokens = tokenizer.encode_special_tokens
    return other


def _without(section: dict[str, Any]) -> Any:
    """The section without what acts at the start or the end of a text; None if nothing is left."""
    kind = section["type"]
    for inner in ("normalizers", "pretokenizers"):
        if inner in section:
            return {**section, inner: [p for p in map(_without, section[inner]) if p is not None]}
    if kind in ("Prepend", "Strip") or (kind == "Replace" and _at_an_end(section["pattern"])):
        return None
    if kind == "Metaspace":
        return {**section, "prepend_scheme": "never"}
    return {**section, "add_prefix_space": False} if kind == "ByteLevel" else section


def _at_an_end(pattern: dict[str, str]) -> bool:
    """Whether it is one of those by which converters spell sentencepiece's options."""
    return pattern.get("Regex", "").startswith(r"\A")
