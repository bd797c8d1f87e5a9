"""Which tokens transformers adds to a tokenizer.json when it loads a folder, in which order.

Tokens may be declared in tokenizer_config.json, special_tokens_map.json, added_tokens.json and by
the class itself. An id stands beside some of them: it gives their order alone, the tokenizer then
counts on from the vocabulary. See tokenizer.py for the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken

from .errors import CheckpointError
from .layout import ADDED_TOKENS_FILE, SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE
from .text_facts import FLAGS

NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
# The named tokens that a class has unless tokenizer_config.json gives others, or null.
CLASS_TOKENS: dict[str, dict[str, str]] = {
    "GPTNeoXTokenizer": {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|padding|>",
    },
    "GPT2Tokenizer": {
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    },
}


def tokens_to_add(
    tokenizer_config: Mapping[str, Any],
    *,
    special_tokens: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    file_tokens: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, str],
    present: Iterable[str],
) -> list[AddedToken]:
    """Return the tokens to add, in their order; those that are there already change their flags.

    The first three are the objects in tokenizer_config.json, special_tokens_map.json and
    added_tokens.json; `file_tokens` the added tokens of tokenizer.json; `defaults` the class's
    named tokens; `present` the contents of the added tokens that the tokenizer has already. Raises
    CheckpointError for what is no token.
    """
    named: dict[str, Any] = {key: tokenizer_config.get(key) for key in NAMED}
    named |= {key: token for key, token in defaults.items() if key not in tokenizer_config}
    extra = tokenizer_config.get("extra_special_tokens")
    extra = extra or tokenizer_config.get("additional_special_tokens") or []
    own = _own_tokens(tokenizer_config)
    if isinstance(extra, dict):
        own, extra = own | extra, []
    by_id: dict[int, AddedToken] = {}
    declared = tokenizer_config.get("added_tokens_decoder")
    if declared is not None:
        for key, value in _object(declared, TOKENIZER_CONFIG_FILE).items():
            by_id[_id(key, TOKENIZER_CONFIG_FILE)] = _token(value, TOKENIZER_CONFIG_FILE)
    else:  # the two files are read only where tokenizer_config.json does not list the tokens
        named |= {key: token for key, token in special_tokens.items() if key in NAMED}
        own |= _own_tokens(special_tokens)
        more = special_tokens.get("extra_special_tokens")
        if isinstance(more, dict):
            own |= more
        elif isinstance(more, list):
            extra = [*_list(extra, TOKENIZER_CONFIG_FILE), *more]
        extra = extra or special_tokens.get("additional_special_tokens") or []
        contents = _contents([*named.values(), *_list(extra, SPECIAL_TOKENS_FILE)])
        for content, index in added_tokens.items():
            special = content in contents
            token = AddedToken(content, normalized=not special, special=special)
            by_id[_id(index, ADDED_TOKENS_FILE)] = token
        for value in file_tokens:
            by_id[_id(value.get("id"), TOKENIZER_FILE)] = _token(value, TOKENIZER_FILE)
    known = {token.content: token for token in by_id.values()}
    tokens = [by_id[i] for i in sorted(by_id)]
    contents = {*present, *known}
    names = _contents([*named.values(), *own.values()])
    for value in [*named.values(), *own.values(), *_list(extra, TOKENIZER_CONFIG_FILE)]:
        if value is None:
            continue
        token = _token(value, TOKENIZER_CONFIG_FILE, special=True)
        if token.content not in contents:
            contents.add(token.content)
            tokens.append(token)
    return [_as_special(token) if token.content in names else token for token in tokens]


def _own_tokens(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the named tokens that only this model has, as "image_token"."""
    return {
        key: value
        for key, value in values.items()
        if key.endswith("_token") and key not in NAMED and isinstance(value, (str, dict))
    }


def _contents(values: Iterable[Any]) -> set[str]:
    contents = [value.get("content") if isinstance(value, dict) else value for value in values]
    return {content for content in contents if isinstance(content, str)}


def _token(value: Any, where: str, *, special: bool = False) -> AddedToken:
    """Return a token given as its content or as an object; `special` is what the first one is."""
    given = {"content": value, "special": special} if isinstance(value, str) else value
    given = given if isinstance(given, dict) else {}
    content = given.get("content")
    flags = {"special": special} | {flag: given[flag] for flag in FLAGS if flag in given}
    if not isinstance(content, str) or not all(type(flag) is bool for flag in flags.values()):
        raise CheckpointError(f"{where} has a damaged added token: fetch it again")
    return AddedToken(content, **flags)


def _as_special(token: AddedToken) -> AddedToken:
    flags = {flag: getattr(token, flag) for flag in FLAGS}
    return AddedToken(token.content, **flags | {"special": True})


def _id(value: Any, where: str) -> int:
    text = str(value) if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CheckpointError(f"{where} has an added token without a valid id: fetch it again")
    return int(text)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} has a damaged list of added tokens: fetch it again")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"{where} has a damaged list of special tokens: fetch it again")
    return value
