"""What a model's text is made by, beside tokenizer.json: resolved at conversion, kept in the file.

A checkpoint scatters it over several files whose meaning changes with the version of transformers
and with the class that tokenizer_config.json names. A flat file holds the outcome, as the JSON of
one metadata entry, so that whatever runs it needs no rule of these.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, cast

from pythia_rt import _core

from .spec import MAX_TOKENS, is_number

MAX_BYTES = 4 << 20  # of the JSON; real ones have a few kB, most of them chat templates
MAX_AFFIX = 64  # tokens put before or after a text; real tokenizers put one
# Of pythia_rt.Sampling, whose names are those of generation_config.json.
SAMPLING = ("max_new_tokens", *(each.name for each in _core.sampling_options()))
SECTIONS = ("normalizer", "pre_tokenizer", "decoder", "model")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class AddedToken(TypedDict):
    """A token found in a text before all others are; its text is `content` as it stands."""

    id: int
    content: str
    single_word: bool  # only where no letter or digit is beside it
    lstrip: bool  # takes the white space before it along
    rstrip: bool  # and that after it
    normalized: bool  # is looked for in the normalised text
    special: bool


class TextFacts(TypedDict):
    """The end tokens are not among them: the spec has them, in `eos_ids`."""

    added_tokens: list[AddedToken]  # all there are, by id; those of tokenizer.json included
    named_tokens: dict[str, str]  # "bos_token" and the like, for chat templates
    prefix_ids: list[int]  # put before every text that is encoded
    suffix_ids: list[int]  # and after it
    split_special_tokens: bool  # special tokens are not found in a text
    sections: dict[str, Any]  # of SECTIONS, what stands for those of tokenizer.json
    sampling: dict[str, float]  # of SAMPLING, what the model's authors suggest
    chat_templates: dict[str, str]  # by name, in Jinja; "default" is the one without a name


def no_facts() -> TextFacts:
    """Return the facts of a checkpoint that says nothing."""
    return {
        "added_tokens": [],
        "named_tokens": {},
        "prefix_ids": [],
        "suffix_ids": [],
        "split_special_tokens": False,
        "sections": {},
        "sampling": {},
        "chat_templates": {},
    }


def validate_facts(data: Mapping[str, Any]) -> TextFacts:
    """Return `data` as TextFacts, or raise ValueError with what is wrong with it, in a few words.

    Keys that are unknown are left out: a later version may have written them for what it can do.
    """
    for key, (accepts, what) in _CHECKS.items():
        if key not in data:
            raise ValueError(f"{key} is missing")
        if not accepts(data[key]):
            raise ValueError(f"{key} is not {what}")
    if len(json.dumps({key: data[key] for key in _CHECKS})) > MAX_BYTES:
        raise ValueError("it is longer than any real one")
    facts = {key: data[key] for key in _CHECKS}
    facts["added_tokens"] = [
        {key: token[key] for key in AddedToken.__annotations__} for token in data["added_tokens"]
    ]
    for key, known in (("sampling", SAMPLING), ("sections", SECTIONS)):
        facts[key] = {name: value for name, value in data[key].items() if name in known}
    return cast(TextFacts, facts)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_TOKENS


def _is_added_token(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_id(value.get("id"))
        and isinstance(value.get("content"), str)
        and value["content"] != ""
        and all(type(value.get(flag)) is bool for flag in FLAGS)
    )


def _are_added_tokens(value: Any) -> bool:
    if not isinstance(value, list) or not all(map(_is_added_token, value)):
        return False
    ids = [token["id"] for token in value]
    return all(one < two for one, two in itertools.pairwise(ids))


def _is_affix(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MAX_AFFIX and all(map(_is_id, value))


def _is_map(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(accepts, value.values()))


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "added_tokens": (_are_added_tokens, "a list of added tokens by id"),
    "named_tokens": (_is_map(lambda value: isinstance(value, str)), "a map of strings"),
    "prefix_ids": (_is_affix, "a short list of token ids"),
    "suffix_ids": (_is_affix, "a short list of token ids"),
    "split_special_tokens": (lambda value: type(value) is bool, "true or false"),
    "sections": (_is_map(lambda value: value is None or isinstance(value, dict)), "a map"),
    "sampling": (_is_map(is_number), "a map of numbers"),
    "chat_templates": (_is_map(lambda value: isinstance(value, str)), "a map of strings"),
}
