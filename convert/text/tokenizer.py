"""A tokenizer as transformers builds it, from tokenizer.json and the files beside it.

Source: huggingface/transformers 5.24, tokenization_utils_base.py (`_from_pretrained`),
tokenization_utils_tokenizers.py (`TokenizersBackend`).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers

from ..errors import CheckpointError
from ..files.json_object import parse_json
from ..flatfile.layout import TOKENIZER_FILE
from ..flatfile.text_facts import FLAGS, AddedToken, TextFacts, no_facts
from .added_tokens import Declared, tokens_to_add
from .tokenizer_classes import changed_sections, find_class
from .tokenizer_sources import Built


class Vocabulary(NamedTuple):
    """How many ids a tokenizer has, each one more than the largest: `base` without added tokens."""

    base: int
    total: int


def build_tokenizer(source: bytes, facts: TextFacts | None = None) -> tokenizers.Tokenizer:
    """Return the tokenizer of a tokenizer.json and of what the facts change about it.

    Limits to the length, which some fine-tunes ship for training, are switched off: a text is
    never cut or filled up. Raises ValueError, with a sentence, when the two are no tokenizer.
    """
    tokenizer = _parse(source) if facts is None else _with_facts(source, facts)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def list_added_tokens(tokenizer: tokenizers.Tokenizer) -> list[AddedToken]:
    """Return the added tokens of a tokenizer by id."""
    return [
        {
            "id": token_id,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    ]


def facts_of_tokenizer(tokenizer: tokenizers.Tokenizer) -> TextFacts:
    """Return what a tokenizer.json says alone, without any file beside it."""
    facts = no_facts()
    facts["added_tokens"] = list_added_tokens(tokenizer)
    facts["prefix_ids"], facts["suffix_ids"] = _affixes(tokenizer)
    return facts


def encode(tokenizer: tokenizers.Tokenizer, facts: TextFacts, text: str) -> list[int]:
    """Return the ids of `text`, with those that the facts put before and after it."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return [*facts["prefix_ids"], *ids, *facts["suffix_ids"]]


def resolve_tokenizer(
    source: bytes,
    tokenizer_config: Mapping[str, Any],
    *,
    special_tokens: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    config: Mapping[str, Any],
    built: Built | None,
) -> tuple[TextFacts, Vocabulary]:
    """Return what transformers' AutoTokenizer makes of the files: the facts and the ids.

    `source` is the content of tokenizer.json; the others are the objects in tokenizer_config.json,
    special_tokens_map.json, added_tokens.json and config.json, empty without the file. `built` says
    that the tokenizer.json was built and is no file of the folder. The facts that concern no
    tokenizer are empty. Raises CheckpointError when one is damaged.
    """
    data = parse_json(source, TOKENIZER_FILE, CheckpointError)
    base = _count_ids(data)
    rebuilt = find_class(data, tokenizer_config, config) if built is None else None
    defaults = built or rebuilt
    facts = no_facts()
    try:
        own_tokens = [_completed(token) for token in data.get("added_tokens") or []]
        tokenizer = _parse(_changed(source, {}, own_tokens))
        if rebuilt is not None:
            # It knows nothing of the file's added tokens but those that are added again.
            facts["sections"] = changed_sections(data, rebuilt.sections(tokenizer_config))
            tokenizer = _parse(_changed(source, facts["sections"], []))
    except ValueError as reason:
        raise CheckpointError(
            f"{reason}; fetch it again, upgrade the package tokenizers, or take the file away to "
            "convert a model of token ids alone"
        ) from None
    if rebuilt is None or rebuilt.keeps_template:
        facts["prefix_ids"], facts["suffix_ids"] = _affixes(tokenizer)
    present = [token["content"] for token in list_added_tokens(tokenizer)]
    declared = tokens_to_add(
        tokenizer_config,
        special_tokens=special_tokens,
        added_tokens=added_tokens,
        file_tokens=data.get("added_tokens") or [],
        defaults={} if defaults is None else defaults.named_tokens,
        present=present,
        flags_anew=defaults is not None and defaults.flags_anew,
        pieces=None if built is None else built.pieces,
        raw=built is not None and built.raw,
    )
    tokenizer.add_tokens(declared.tokens)
    facts["named_tokens"] = declared.names
    if built is not None:
        # With a tokenizer.json these two are not read: its template says it.
        if tokenizer_config.get("add_bos_token", built.adds_bos):
            facts["prefix_ids"] = _named_id(tokenizer, declared, "bos_token")
        if tokenizer_config.get("add_eos_token"):
            facts["suffix_ids"] = _named_id(tokenizer, declared, "eos_token")
    facts["added_tokens"] = list_added_tokens(tokenizer)
    facts["split_special_tokens"] = tokenizer_config.get("split_special_tokens") is True
    last = max((token["id"] for token in facts["added_tokens"]), default=-1)
    return facts, Vocabulary(base, max(base, last + 1))


def _parse(source: bytes) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(source.decode("utf-8"))
    except Exception as error:  # the library raises bare Exception
        reason = " ".join(str(error).split())
        raise ValueError(f"the tokenizer.json cannot be read: {reason}") from error


def _with_facts(source: bytes, facts: TextFacts) -> tokenizers.Tokenizer:
    tokenizer = None
    if not facts["sections"]:
        # Nearly always the file says it all, and only the library need read its megabytes.
        with contextlib.suppress(ValueError):
            tokenizer = _parse(source)
    if tokenizer is None or list_added_tokens(tokenizer) != facts["added_tokens"]:
        tokenizer = _parse(_changed(source, facts["sections"], facts["added_tokens"]))
    if list_added_tokens(tokenizer) != facts["added_tokens"]:
        raise ValueError("the tokenizer.json does not fit its added tokens: convert again")
    tokenizer.encode_special_tokens = facts["split_special_tokens"]
    return tokenizer


def _completed(token: Mapping[str, Any]) -> dict[str, Any]:
    """Return an added token of a tokenizer.json with every flag: one that is missing is false."""
    return {**dict.fromkeys(FLAGS, False), **token}


def _changed(source: bytes, sections: Mapping[str, Any], added: Sequence[Any]) -> bytes:
    """Return a tokenizer.json with other `sections` and added tokens."""
    data = parse_json(source, TOKENIZER_FILE, ValueError)
    model = {**data["model"], **(sections.get("model") or {})}
    return json.dumps({**data, **sections, "model": model, "added_tokens": added}).encode()


def _count_ids(data: Mapping[str, Any]) -> int:
    """Return one more than the largest id of the vocabulary in a tokenizer.json."""
    model = data.get("model")
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    added = data.get("added_tokens", [])
    # A dictionary {token: id} in BPE, WordPiece and WordLevel, a list by id in Unigram.
    ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if isinstance(vocabulary, list):
        ids += range(len(vocabulary))
    listed = added if isinstance(added, list) else [None] if added else []
    more = [t.get("id") if isinstance(t, dict) else None for t in listed]
    if not ids or not all(type(i) is int and 0 <= i < 1 << 24 for i in ids + more):
        raise CheckpointError(f"{TOKENIZER_FILE} has a damaged vocabulary: fetch it again")
    return int(max(ids)) + 1


def _named_id(tokenizer: tokenizers.Tokenizer, declared: Declared, name: str) -> list[int]:
    """Return the id of a named token, if there is one."""
    content = declared.names.get(name)
    token_id = None if content is None else tokenizer.token_to_id(content)
    return [] if token_id is None else [token_id]


def _affixes(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids that the post-processor puts before and after a single text."""
    # The library writes every spelling of a post-processor in one way.
    empty = tokenizers.Tokenizer(tokenizers.models.BPE())
    empty.post_processor = tokenizer.post_processor
    prefix: list[int] = []
    suffix: list[int] = []
    section = json.loads(empty.to_str())["post_processor"]
    if section is None:
        return prefix, suffix
    for part in section["processors"] if section["type"] == "Sequence" else [section]:
        before, after = _affixes_of(part)
        prefix, suffix = before + prefix, suffix + after
    return prefix, suffix


def _affixes_of(part: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    if part["type"] == "ByteLevel":
        return [], []
    if part["type"] in ("BertProcessing", "RobertaProcessing"):
        return [part["cls"][1]], [part["sep"][1]]
    pieces = part.get("single") or []
    places = [i for i, piece in enumerate(pieces) if "Sequence" in piece]
    if part["type"] != "TemplateProcessing" or len(places) != 1:
        raise CheckpointError(
            f"{TOKENIZER_FILE} has a post_processor that does more than put tokens before and "
            "after a text: remove it"
        )
    ids: tuple[list[int], list[int]] = ([], [])
    for i, piece in enumerate(pieces):
        if i != places[0]:
            name = piece["SpecialToken"]["id"]
            ids[i > places[0]].extend(part["special_tokens"][name]["ids"])
    return ids
