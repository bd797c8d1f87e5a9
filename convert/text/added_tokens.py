"""Which tokens transformers adds to a tokenizer.json when it loads a folder, in which order.

Tokens may be declared in tokenizer_config.json, special_tokens_map.json, added_tokens.json and by
the class itself. An id stands beside some of them: it gives their order alone, the tokenizer then
counts on from the vocabulary. See tokenizer.py for the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken

from ..errors import CheckpointError
from ..flatfile.layout import (
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from ..flatfile.text_facts import FLAGS

NAMED = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip


class Declared(NamedTuple):
    """What the files declare."""

    tokens: list[AddedToken]  # to be added, in this order
    names: dict[str, str]  # the contents of those that have names, as "bos_token"


def tokens_to_add(
    tokenizer_config: Mapping[str, Any],
    *,
    special_tokens: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    file_tokens: Iterable[Mapping[str, Any]],
    defaults: Mapping[str, str],
    present: Iterable[str],
    flags_anew: bool,
    pieces: Sequence[AddedToken] | None,
    raw: bool,
) -> Declared:
    """Return the tokens to add, in their order; those that are there already change their flags.

    The first three are the objects in tokenizer_config.json, special_tokens_map.json and
    added_tokens.json; `file_tokens` the added tokens of tokenizer.json; `defaults` the class's
    named tokens; `present` the contents of the added tokens that the tokenizer has already;
    `flags_anew` says that special tokens get the flags that a token has of itself. `pieces` are
    those that tokenizer.model does not cut, with which no special_tokens_map.json counts for other
    than named tokens, and `raw` says that no declared token is normalised. Raises CheckpointError
    for what is no token.
    """
    values = dict(tokenizer_config)
    if "additional_special_tokens" in values and not values.get("extra_special_tokens"):
        values["extra_special_tokens"] = values.pop("additional_special_tokens")
    own = {
        key: values.pop(key) for key in [*values] if _is_own(key) and isinstance(values[key], str)
    }
    own |= _take_names(values)
    declared = values.get("added_tokens_decoder")
    by_id: dict[int, AddedToken] = {}
    by_content: dict[str, AddedToken] = {}  # also those whose id another token took

    def declare(index: int, token: AddedToken) -> None:
        by_id[index] = by_content[token.content] = token

    if declared is not None:
        for key, value in _object(declared, TOKENIZER_CONFIG_FILE).items():
            declare(_id(key, TOKENIZER_CONFIG_FILE), _token(value, TOKENIZER_CONFIG_FILE))
    else:  # the two files are read only where tokenizer_config.json does not list the tokens
        _merge_special_tokens(values, special_tokens)
        own |= _take_names(values)
        given = [values.get(key) for key in NAMED]
        given += _list(values.get("extra_special_tokens"), SPECIAL_TOKENS_FILE)
        known = {str(value) for value in given if isinstance(value, str | AddedToken)}
        for content, index in added_tokens.items():
            special = content in known
            token = AddedToken(content, normalized=not special, special=special)
            declare(_id(index, ADDED_TOKENS_FILE), token)
        for value in file_tokens:
            declare(_id(value.get("id"), TOKENIZER_FILE), _token(value, TOKENIZER_FILE))
    if pieces is not None:
        values["additional_special_tokens"] = [*pieces]
    named = {}
    for key in NAMED:
        value = _read(values.get(key), TOKENIZER_CONFIG_FILE)
        named[key] = value if value is None else by_content.get(str(value), value)
    named |= {key: token for key, token in defaults.items() if key not in values}
    named |= {
        key: _read(token, TOKENIZER_CONFIG_FILE) for key, token in values.items() if _is_own(key)
    }
    named |= {key: _read(token, TOKENIZER_CONFIG_FILE) for key, token in own.items()}
    tokens: list[str | AddedToken] = [by_id[i] for i in sorted(by_id)]
    if raw:
        tokens = [_changed(by_id[i], normalized=False) for i in sorted(by_id)]
    contents = {*present, *(token.content for token in by_id.values())}
    more = [_read(value, TOKENIZER_CONFIG_FILE) for value in _extras(values, TOKENIZER_CONFIG_FILE)]
    for new in [*named.values(), *more]:
        # A str and an AddedToken are different here; of two for one content the last one counts.
        if new is not None and str(new) not in contents and new not in tokens:
            tokens.append(new)
    contents_by_name = {key: str(token) for key, token in named.items() if token is not None}
    named_contents = {*contents_by_name.values()}
    finished = [_finished(token, named_contents) for token in tokens]
    if flags_anew:
        again = [*contents_by_name.values(), *map(str, more)]
        finished += [AddedToken(content, special=True) for content in again]
    return Declared(finished, contents_by_name)


def _is_own(key: str) -> bool:
    """Whether it names a token that only this model has, as "image_token"."""
    return key.endswith("_token") and key not in NAMED and not key.startswith("add_")


def _take_names(values: dict[str, Any]) -> dict[str, Any]:
    """Take extra tokens that have names out of `values`."""
    extra = values.get("extra_special_tokens")
    return values.pop("extra_special_tokens") if isinstance(extra, dict) else {}


def _merge_special_tokens(values: dict[str, Any], special_tokens: Mapping[str, Any]) -> None:
    for key, value in special_tokens.items():
        if key == "extra_special_tokens" and isinstance(value, list):
            before = _list(values.get("extra_special_tokens"), TOKENIZER_CONFIG_FILE)
            values[key] = [*before, *(_special(token) for token in value if token not in before)]
        else:
            is_token = isinstance(value, dict) and key != "extra_special_tokens"
            values[key] = _special(value) if is_token else value


def _extras(values: Mapping[str, Any], where: str) -> list[Any]:
    name = "extra" if "extra_special_tokens" in values else "additional"
    return _list(values.get(f"{name}_special_tokens"), where)


def _list(value: Any, where: str) -> list[Any]:
    if value and not isinstance(value, list):
        raise CheckpointError(f"{where} has a damaged list of special tokens: fetch it again")
    return value or []


def _special(value: Any) -> Any:
    """Return a token of special_tokens_map.json, which is special whatever it says."""
    return (
        _token({**value, "special": True}, SPECIAL_TOKENS_FILE)
        if isinstance(value, dict)
        else value
    )


def _read(value: Any, where: str) -> str | AddedToken | None:
    return value if value is None or isinstance(value, str | AddedToken) else _token(value, where)


def _token(value: Any, where: str) -> AddedToken:
    """Return the token that an object describes."""
    given = value if isinstance(value, dict) else {}
    content = given.get("content")
    flags = {flag: given[flag] for flag in FLAGS if flag in given}
    if not isinstance(content, str) or not all(type(flag) is bool for flag in flags.values()):
        raise CheckpointError(f"{where} has a damaged added token: fetch it again")
    return AddedToken(content, **flags)


def _finished(token: str | AddedToken, names: set[str]) -> AddedToken:
    """Return the token, which is special if it has a name or is given as a str."""
    if isinstance(token, str):
        return AddedToken(token, special=True)
    return _changed(token, special=token.special or token.content in names)


def _changed(token: AddedToken, **flags: bool) -> AddedToken:
    return AddedToken(token.content, **{flag: getattr(token, flag) for flag in FLAGS} | flags)


def _id(value: Any, where: str) -> int:
    text = str(value) if type(value) in (int, str) else ""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise CheckpointError(f"{where} has an added token without a valid id: fetch it again")
    return int(text)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} has a damaged list of added tokens: fetch it again")
    return value
