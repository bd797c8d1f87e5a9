"""A tokenizer.json for a folder that has none, of vocab.json and merges.txt or of tokenizer.model.

It is what transformers builds of them. Source: huggingface/transformers 5.24,
tokenization_utils_tokenizers.py (`convert_to_native_format`, `_convert_from_sentencepiece`),
tokenization_utils_base.py (`generate_merges`), convert_slow_tokenizer.py
(`SentencePieceExtractor`, `SpmConverter.build_tokenizer_from_spm_proto`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from tokenizers import AddedToken

from ..errors import CheckpointError, quote
from ..files.json_object import parse_json
from ..files.text import decode_utf8
from ..flatfile.layout import MERGES_FILE, SENTENCEPIECE_FILE, TOKENIZER_FILE, VOCABULARY_FILE
from .sentencepiece_model import Algorithm, Kind, SentencePieceModel, read_sentencepiece
from .tokenizer_classes import SPACE, TokenizerClass, byte_level_class, class_name, llama_class

_SAVE = (
    f"save a {TOKENIZER_FILE} beside it, as transformers does with "
    "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
)


class Built(NamedTuple):
    """A tokenizer.json that was built, and what only its sources say."""

    content: bytes
    named_tokens: Mapping[str, str]  # where tokenizer_config.json gives no others, nor null
    flags_anew: bool  # special tokens lose whatever flags files give them
    pieces: list[AddedToken] | None  # that sentencepiece does not cut, None without it
    raw: bool  # added tokens are found in a text before it is normalised, whatever files say
    adds_bos: bool = False  # before a text, where tokenizer_config.json does not say


def build_tokenizer_file(
    files: Mapping[str, bytes],
    tokenizer_config: Mapping[str, Any],
    *,
    added_tokens: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Built | None:
    """Return the tokenizer.json that `files` make, by their names; None if they make none.

    The others are the objects in tokenizer_config.json, added_tokens.json and config.json. Raises
    CheckpointError for files that are damaged, or from which no tokenizer is known to follow.
    """
    name = class_name(tokenizer_config, config)
    rebuilt = byte_level_class(name)
    if VOCABULARY_FILE in files and MERGES_FILE in files and (rebuilt or not _has_model(files)):
        if rebuilt is None:
            raise CheckpointError(
                f"{VOCABULARY_FILE} and {MERGES_FILE} alone do not say how {quote(name)} cuts a "
                f"text: {_SAVE}"
            )
        return _byte_level(files, tokenizer_config, rebuilt)
    if not _has_model(files):
        return None
    model = read_sentencepiece(files[SENTENCEPIECE_FILE])
    if name == "LlamaTokenizer":
        return _llama(model, tokenizer_config)
    declared = tokenizer_config.get("added_tokens_decoder")
    if declared is None:
        declared = {i: {"content": content} for content, i in added_tokens.items()}
    names = _contents_by_id(declared)
    return as_sentencepiece(model, names, tokenizer_config.get("legacy", True))


def _has_model(files: Mapping[str, bytes]) -> bool:
    return SENTENCEPIECE_FILE in files


def _byte_level(
    files: Mapping[str, bytes], tokenizer_config: Mapping[str, Any], rebuilt: TokenizerClass
) -> Built:
    vocabulary = parse_json(files[VOCABULARY_FILE], VOCABULARY_FILE, CheckpointError)
    model = {"vocab": vocabulary, "merges": _parse_merges(files[MERGES_FILE])}
    content = write_tokenizer(rebuilt.sections(tokenizer_config), model)
    return Built(content, rebuilt.named_tokens, rebuilt.flags_anew, None, False)


def _parse_merges(content: bytes) -> list[list[str]]:
    """Return the pairs of tokens in a merges.txt, one a line."""
    merges = []
    for i, line in enumerate(decode_utf8(content, MERGES_FILE, CheckpointError).split("\n")):
        pair = line.removesuffix("\r").split(" ")
        if line.startswith("#version") or pair == [""]:
            continue
        if len(pair) != 2:
            raise CheckpointError(f"{MERGES_FILE} has no pair in line {i + 1}: fetch it again")
        merges.append(pair)
    return merges


def _llama(model: SentencePieceModel, tokenizer_config: Mapping[str, Any]) -> Built:
    """LlamaTokenizer's: of the model it takes the pieces alone, and their order."""
    if model.algorithm != Algorithm.BPE:
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} is a {model.algorithm.name.lower()} model, and LlamaTokenizer "
            "is for BPE: correct tokenizer_class in tokenizer_config.json"
        )
    rebuilt = llama_class()
    ids = {piece.text: i for i, piece in enumerate(model.pieces)}
    merges = [[left, right] for _, _, left, right in sorted(splits(ids))]
    content = write_tokenizer(rebuilt.sections(tokenizer_config), {"vocab": ids, "merges": merges})
    return Built(content, rebuilt.named_tokens, rebuilt.flags_anew, _pieces(model), False)


def splits(ranks: Mapping[str, Any]) -> list[tuple[Any, int, str, str]]:
    """Return every way to make a piece of two others: its rank, where it is cut, the two."""
    return [
        (rank, i, piece[:i], piece[i:])
        for piece, rank in ranks.items()
        for i in range(1, len(piece))
        if piece[:i] in ranks and piece[i:] in ranks
    ]


def _pieces(model: SentencePieceModel) -> list[AddedToken]:
    return [
        AddedToken(piece.text, normalized=False, special=piece.kind == Kind.CONTROL)
        for piece in model.pieces
        if piece.kind in (Kind.CONTROL, Kind.USER_DEFINED)
    ]


def as_sentencepiece(model: SentencePieceModel, declared: Mapping[int, str], legacy: Any) -> Built:
    """Of no class of its own: it does what the model says, as sentencepiece itself would."""
    texts = [piece.text for piece in model.pieces]
    if model.algorithm == Algorithm.BPE:
        texts = _renamed(texts, declared)
    own = [texts[i] for i, p in enumerate(model.pieces) if p.kind == Kind.USER_DEFINED]
    if model.algorithm == Algorithm.UNIGRAM:
        part: dict[str, Any] = {
            "type": "Unigram",
            "unk_id": model.named["unk"][0],
            "vocab": [[piece.text, piece.score] for piece in model.pieces],
            "byte_fallback": model.byte_fallback,
        }
    elif model.algorithm == Algorithm.BPE:
        ranks = {
            texts[i]: (-piece.score, i)
            for i, piece in enumerate(model.pieces)
            if piece.kind == Kind.NORMAL
        }
        by_rank = sorted((rank, left, right) for rank, _, left, right in splits(ranks))
        part = {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.named["unk"][1],
            "fuse_unk": True,
            "byte_fallback": model.byte_fallback,
            "ignore_merges": bool(own),
            "vocab": {text: i for i, text in enumerate(texts)},
            "merges": [[left, right] for _, left, right in by_rank],
        }
    else:
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} is a {model.algorithm.name.lower()} model, which is not "
            f"supported: {_SAVE}"
        )
    names = {
        f"{name}_token": text or f"<{name}>" for name, (i, text) in model.named.items() if i >= 0
    }
    content = write_tokenizer(_sections(model, own, legacy), part)
    controls = [token for token in _pieces(model) if token.special]
    return Built(content, names, False, controls, model.add_dummy_prefix)


def _contents_by_id(declared: Any) -> dict[int, str]:
    """Return {id: content} of declared tokens; what is none is refused elsewhere."""
    return {
        int(i): token["content"]
        for i, token in (declared.items() if isinstance(declared, dict) else ())
        if str(i).isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str)
    }


def _renamed(texts: list[str], names: Mapping[int, str]) -> list[str]:
    """Return the pieces, those of whose ids a token is declared under its name."""
    kept = {text for i, text in enumerate(texts) if i not in names}
    return [
        names[i] if i in names and names[i] not in kept else text for i, text in enumerate(texts)
    ]


def _sections(model: SentencePieceModel, own: list[str], legacy: Any) -> dict[str, Any]:
    """Return all but the model, in the order in which sentencepiece works."""

    def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": pattern, "content": content}

    normalizers = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode()
        normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if model.remove_extra_whitespaces:
        normalizers.append(replace({"Regex": r"\A +| +\z"}, ""))
        normalizers.append(replace({"Regex": " {2,}"}, " "))
    if model.escape_whitespaces:
        normalizers.append(replace({"String": " "}, SPACE))
    if model.add_dummy_prefix and legacy:
        # A Metaspace puts nothing before a text that begins with it.
        normalizers.append(replace({"Regex": rf"\A{SPACE}"}, SPACE * 2))
    splits: list[dict[str, Any]] = []
    if model.add_dummy_prefix:
        scheme = "always" if legacy else "first"
        splits.append(
            {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        )
    if own:
        words = "|".join(re.escape(piece) for piece in sorted(own, key=len, reverse=True))
        splits.append(
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": False}
        )
    decoders: list[dict[str, Any]] = [replace({"String": SPACE}, " ")]
    if model.byte_fallback:
        decoders.append({"type": "ByteFallback"})
    if model.add_dummy_prefix or model.byte_fallback:
        decoders.append({"type": "Fuse"})
    if model.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits} if splits else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def write_tokenizer(sections: Mapping[str, Any], model: Mapping[str, Any]) -> bytes:
    """Return the bytes of a tokenizer.json."""
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "post_processor": None,
        **sections,
        "model": {"type": "BPE", **sections.get("model", {}), **model},
    }
    return json.dumps(data, ensure_ascii=False).encode("utf-8")
