"""The classes of transformers that use no more of a tokenizer.json than vocabulary and merges.

They build the rest of the tokenizer anew; all other classes take the file as it is. Source:
huggingface/transformers 5.24, models/{gpt_neox,gpt2,codegen,qwen2,llama}/tokenization_*.py and
models/auto/tokenization_auto.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .byte_level import split, words

SPACE = "\u2581"  # what stands for a space in sentencepiece's vocabularies
_BPE: dict[str, Any] = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": "",
    "end_of_word_suffix": "",
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}
_PLAIN = "TokenizersBackend"  # the class that takes a tokenizer.json as it is
# The class registered for a config.json's model_type, as far as there is one.
_CLASS_OF_MODEL = {
    **dict.fromkeys(("gpt_neox", "olmo"), "GPTNeoXTokenizer"),
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj", "opt", "phi"), "GPT2Tokenizer"),
    **dict.fromkeys(("qwen2", "qwen3"), "Qwen2Tokenizer"),
    **dict.fromkeys(("mistral", "olmo2", "stablelm"), _PLAIN),
}
_MISNAMED = {"qwen2"}  # models whose folders name a wrong class: the registered one counts


class TokenizerClass(NamedTuple):
    """What a class builds."""

    sections: Callable[[Mapping[str, Any]], dict[str, Any]]  # of a tokenizer_config.json
    named_tokens: Mapping[str, str]  # where tokenizer_config.json gives no others, nor null
    keeps_template: bool  # the tokens that tokenizer.json puts before and after a text
    flags_anew: bool = False  # special tokens lose whatever flags files give them


def find_class(
    data: Mapping[str, Any], tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]
) -> TokenizerClass | None:
    """Return the class that builds a tokenizer.json's tokenizer anew, None where none does.

    A class is used for the kind of tokenizer that it can build alone: transformers fails with
    others, or reads nonsense. The tokenizer.json then counts as it is.
    """
    name = class_name(tokenizer_config, config)
    if name not in _CLASSES or "merges" not in data["model"]:
        return None
    if "ByteLevel" in _types(data.get("pre_tokenizer")) | _types(data.get("decoder")):
        return _CLASSES[name] if name != "LlamaTokenizer" else None
    is_sentencepiece = data["model"].get("byte_fallback") is True
    return _CLASSES[name] if name == "LlamaTokenizer" and is_sentencepiece else None


def class_name(tokenizer_config: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Return the name of the class that AutoTokenizer chooses, without "Fast" at its end."""
    given = tokenizer_config.get("tokenizer_class") or config.get("tokenizer_class")
    registered = _CLASS_OF_MODEL.get(str(config.get("model_type")))
    if not isinstance(given, str):
        return registered or _PLAIN
    is_ignored = registered == _PLAIN or config.get("model_type") in _MISNAMED
    return registered if registered is not None and is_ignored else given.removesuffix("Fast")


def byte_level_class(name: str) -> TokenizerClass | None:
    """Return the class of that name if it builds a tokenizer of bytes, None otherwise."""
    return _CLASSES.get(name) if name != "LlamaTokenizer" else None


def llama_class() -> TokenizerClass:
    """Return the class that builds a tokenizer of sentencepiece's kind."""
    return _CLASSES["LlamaTokenizer"]


def changed_sections(data: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a class's sections that mean something else than those of the file."""
    return {
        name: section
        for name, section in sections.items()
        if _plain(data.get(name), section) != _plain(section, section)
    }


def _plain(section: Any, like: Any) -> Any:
    """Return a section with nothing but what matters, and where it is silent its defaults."""
    if section is None or like is None:
        return section
    if like.get("type") == "ByteLevel":
        return {"use_regex": True, **section, "trim_offsets": None}  # of offsets nobody asks for
    if "pretokenizers" in like and isinstance(parts := section.get("pretokenizers"), list):
        pairs = zip(parts, like["pretokenizers"], strict=False)
        more = parts[len(like["pretokenizers"]) :]
        return {**section, "pretokenizers": [*(_plain(*pair) for pair in pairs), *more]}
    if "fuse_unk" in like:
        return {key: section.get(key) or default for key, default in _BPE.items()}
    return section


def _types(section: Any) -> set[str]:
    """Return the types in a section of a tokenizer.json, those within a sequence included."""
    if isinstance(section, list):
        return set().union(*map(_types, section))
    if not isinstance(section, dict):
        return set()
    inner = [value for value in section.values() if isinstance(value, list)]
    return {str(section.get("type"))}.union(*map(_types, inner))


def _byte_level(
    normalizer: dict[str, Any] | None,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    def sections(tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
        part = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
        before = tokenizer_config.get("add_prefix_space") is True
        return {
            "normalizer": normalizer,
            "pre_tokenizer": {**part, "add_prefix_space": before},
            "decoder": {**part, "add_prefix_space": True},
            "model": dict(_BPE),
        }

    return sections


def _qwen2(tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
    sections = _byte_level({"type": "NFC"})(tokenizer_config)
    parts = [split(words("")), {**sections["pre_tokenizer"], "use_regex": False}]
    return {**sections, "pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}}


def _sentencepiece(tokenizer_config: Mapping[str, Any]) -> dict[str, Any]:
    before = tokenizer_config.get("add_prefix_space") is not False
    first = "always" if tokenizer_config.get("legacy") is True else "first"
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if before:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": first if before else "never",
            "split": False,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**_BPE, "fuse_unk": True, "byte_fallback": True},
    }


_END = "<|endoftext|>"
_GPT2 = TokenizerClass(
    _byte_level(None),
    {"bos_token": _END, "eos_token": _END, "unk_token": _END},
    keeps_template=True,
)
_CLASSES = {
    "GPTNeoXTokenizer": TokenizerClass(
        _byte_level({"type": "NFC"}),
        {"bos_token": _END, "eos_token": _END, "unk_token": _END, "pad_token": "<|padding|>"},
        # Its own template stands in place of the file's, and adds nothing: add_bos_token and
        # add_eos_token are not read where there is a tokenizer.json.
        keeps_template=False,
    ),
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "Qwen2Tokenizer": TokenizerClass(
        _qwen2,
        {"eos_token": _END, "unk_token": _END, "pad_token": _END},
        keeps_template=True,
        flags_anew=True,
    ),
    "LlamaTokenizer": TokenizerClass(
        _sentencepiece,
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        keeps_template=True,
    ),
}
