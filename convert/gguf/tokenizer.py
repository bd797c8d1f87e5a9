"""The tokenizer in a GGUF file's metadata, rebuilt where they say it exactly.

Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, conversion/base.py (what is written),
src/llama-vocab.cpp (what stands for a key that is missing).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken

from ..errors import CheckpointError, quote
from ..flatfile.layout import TOKENIZER_CONFIG_FILE
from ..text.sentencepiece_model import Algorithm, Kind, Piece, SentencePieceModel
from ..text.text_files import Text, resolve_text
from ..text.tokenizer_sources import Built, as_sentencepiece, write_tokenizer
from .splitting import SPLITTINGS

_ROOT = "tokenizer.ggml."
_NAMED = {  # keys to what tokenizer_config.json calls these tokens
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "unknown_token_id": "unk_token",
    "seperator_token_id": "sep_token",  # as it is spelt
    "padding_token_id": "pad_token",
    "cls_token_id": "cls_token",
    "mask_token_id": "mask_token",
}
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


class GgufText(NamedTuple):
    """`text` is what a folder's files would say; `lacking` why it has no tokenizer, or empty."""

    text: Text
    lacking: str


class _UnknownError(Exception):
    """A tokenizer that does not follow exactly from the metadata; the message is why."""


def read_text(metadata: Mapping[str, Any]) -> GgufText:
    """Return what the metadata say that text is made by.

    Raises CheckpointError for metadata that are damaged; a tokenizer that is not known is none.
    """
    kind = metadata.get(_ROOT + "model", "none")
    if not isinstance(kind, str):
        raise CheckpointError("its tokenizer.ggml.model is no name: fetch it again")
    lacking = ""
    if kind in ("none", "no_vocab"):
        lacking = "it has none"
    else:
        tokens = _tokens(metadata)
        try:
            if kind not in _BUILDERS:
                raise _UnknownError(f"its tokenizer.ggml.model is {quote(kind)}")
            build, adds_bos = _BUILDERS[kind](metadata, tokens)
        except _UnknownError as reason:
            lacking = str(reason)
        else:
            config = _tokenizer_config(metadata, tokens, adds_bos)
            files = {TOKENIZER_CONFIG_FILE: json.dumps(config).encode()}
            return GgufText(resolve_text(files, {}, build), "")
    return GgufText(resolve_text({}, {}), lacking)


def special_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return bos_token_id and eos_token_id as a config.json has them."""
    ends = [_id(metadata, key) for key in _ENDS]
    return {
        "bos_token_id": _id(metadata, "bos_token_id"),
        "eos_token_id": [i for i in dict.fromkeys(ends) if i is not None],
    }


def _id(metadata: Mapping[str, Any], key: str) -> int | None:
    value = metadata.get(_ROOT + key)
    if value is None or (type(value) is int and 0 <= value < 1 << 31):
        return value
    # Some writers mean "none" by a number that is -1 without its sign.
    if value in (-1, (1 << 32) - 1):
        return None
    raise CheckpointError(f"its {_ROOT}{key} is no token id: fetch it again")


class _Token(NamedTuple):
    """One token of the list; the number of its kind is sentencepiece's."""

    text: str
    kind: Kind
    score: float


def _tokens(metadata: Mapping[str, Any]) -> list[_Token]:
    texts = metadata.get(_ROOT + "tokens")
    if not isinstance(texts, list) or not texts:
        raise CheckpointError(f"its metadata have no {_ROOT}tokens: fetch it again")
    kinds = _column(metadata, "token_type", len(texts), int(Kind.NORMAL))
    scores = _column(metadata, "scores", len(texts), 0.0)
    try:
        return [
            _Token(text, Kind(int(kind)), float(score))
            for text, kind, score in zip(texts, kinds, scores, strict=True)
        ]
    except ValueError:
        raise CheckpointError(
            f"its {_ROOT}token_type has an unknown kind: fetch it again"
        ) from None


def _column(metadata: Mapping[str, Any], key: str, count: int, otherwise: float) -> Any:
    values = metadata.get(_ROOT + key)
    if values is None:
        return [otherwise] * count
    if not isinstance(values, np.ndarray) or len(values) != count or not np.isfinite(values).all():
        raise CheckpointError(f"its {_ROOT}{key} is not a number for every token: fetch it again")
    return values


def _vocabulary(tokens: list[_Token]) -> dict[str, int]:
    """Return the tokens by text, without those that only fill the list up to the embedding."""
    found: dict[str, int] = {}
    for i, token in enumerate(tokens):
        if token.kind == Kind.UNUSED and token.text == f"[PAD{i}]":
            continue
        if found.setdefault(token.text, i) != i:
            raise _UnknownError(f"it has the token {quote(token.text)} twice")
    return found


def _added(tokens: list[_Token]) -> list[AddedToken]:
    """Return the tokens that are found in a text before it is split, as it stands."""
    return [
        AddedToken(token.text, normalized=False, special=token.kind == Kind.CONTROL)
        for token in tokens
        if token.kind in (Kind.CONTROL, Kind.USER_DEFINED) and token.text
    ]


def _byte_level(metadata: Mapping[str, Any], tokens: list[_Token]) -> tuple[Built, bool]:
    name = metadata.get(_ROOT + "pre")
    if not isinstance(name, str) or name not in SPLITTINGS:
        shown = quote(name) if isinstance(name, str) else "not given"
        raise _UnknownError(f"its rule for splitting text, {_ROOT}pre, is {shown}")
    if _ROOT + "token_type" not in metadata:
        raise _UnknownError("it does not say which of its tokens are special")
    given = metadata.get(_ROOT + "merges")
    if not isinstance(given, list):
        raise CheckpointError(f"its metadata have no {_ROOT}merges: fetch it again")
    # A token of spaces alone may begin a pair.
    pairs = [(merge, merge.find(" ", 1)) for merge in given]
    merges = [[merge[:at], merge[at + 1 :]] for merge, at in pairs]
    vocabulary = _vocabulary(tokens)
    if not all(
        at > 0 and left in vocabulary and right in vocabulary and left + right in vocabulary
        for (_, at), (left, right) in zip(pairs, merges, strict=True)
    ):
        raise CheckpointError(f"its {_ROOT}merges has one of unknown tokens: fetch it again")
    rule = SPLITTINGS[name]
    part = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    sections = {
        "normalizer": None if rule.normalizer is None else {"type": rule.normalizer},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": rule.rules},
        "decoder": part,
    }
    model = {"vocab": vocabulary, "merges": merges, "ignore_merges": rule.whole_words}
    content = write_tokenizer(sections, model)
    return Built(content, {}, False, _added(tokens), False), rule.adds_bos


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[_Token]) -> tuple[Built, bool]:
    if _ROOT + "scores" not in metadata or _ROOT + "token_type" not in metadata:
        raise _UnknownError("its tokens have no scores or kinds")
    if len(metadata.get(_ROOT + "precompiled_charsmap", ())):
        raise _UnknownError("it changes characters before it looks for tokens")
    _vocabulary(tokens)
    while tokens and tokens[-1].kind == Kind.UNUSED and tokens[-1].text.startswith("[PAD"):
        tokens = tokens[:-1]
    # Sentencepiece merges no others than normal pieces; added ones are found before it.
    kinds = {Kind.USER_DEFINED: Kind.UNUSED, Kind.CONTROL: Kind.UNUSED}
    pieces = [Piece(t.text, t.score, kinds.get(t.kind, t.kind)) for t in tokens]
    unknown = _id(metadata, "unknown_token_id")
    if unknown is None:
        unknown = next((i for i, t in enumerate(tokens) if t.kind == Kind.UNKNOWN), 0)
    if unknown >= len(tokens):
        raise CheckpointError(f"its {_ROOT}unknown_token_id is no token: fetch it again")
    model = SentencePieceModel(
        pieces,
        Algorithm.BPE,
        byte_fallback=any(token.kind == Kind.BYTE for token in tokens),
        named={"unk": (unknown, tokens[unknown].text)},
        charsmap=b"",
        add_dummy_prefix=_flag(metadata, "add_space_prefix", True),
        remove_extra_whitespaces=_flag(metadata, "remove_extra_whitespaces", False),
        escape_whitespaces=True,
    )
    return as_sentencepiece(model, {}, True)._replace(pieces=_added(tokens), raw=True), True


_BUILDERS = {"gpt2": _byte_level, "llama": _sentencepiece}


def _flag(metadata: Mapping[str, Any], key: str, otherwise: bool) -> bool:
    value = metadata.get(_ROOT + key, otherwise)
    if type(value) is not bool:
        raise CheckpointError(f"its {_ROOT}{key} is neither true nor false: fetch it again")
    return value


def _tokenizer_config(
    metadata: Mapping[str, Any], tokens: list[_Token], adds_bos: bool
) -> dict[str, Any]:
    """Return the tokenizer_config.json that says the rest: named tokens and chat templates."""
    config: dict[str, Any] = {
        "add_bos_token": _flag(metadata, "add_bos_token", adds_bos),
        "add_eos_token": _flag(metadata, "add_eos_token", False),
    }
    for key, name in _NAMED.items():
        token = _id(metadata, key)
        if token is not None:
            if token >= len(tokens):
                raise CheckpointError(f"its {_ROOT}{key} is no token: fetch it again")
            config[name] = tokens[token].text
    templates = {
        key.removeprefix("tokenizer.chat_template").removeprefix(".") or "default": value
        for key, value in metadata.items()
        if key == "tokenizer.chat_template" or key.startswith("tokenizer.chat_template.")
    }
    if not all(isinstance(template, str) for template in templates.values()):
        raise CheckpointError("its tokenizer.chat_template is no text: fetch it again")
    if templates:
        config["chat_template"] = [{"name": n, "template": t} for n, t in templates.items()]
    return config
