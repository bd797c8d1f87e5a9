"""The tokenizer of Meta's own folders of LLaMA, which is that of their tokenizer.model alone.

LLaMA 1 and 2 have a model of sentencepiece, LLaMA 3 a list of tiktoken's: byte strings in base 64,
each with its rank, which is its id; special tokens follow. Both are used with a BOS token before a
text. Source: meta-llama/llama, llama/tokenizer.py; meta-llama/llama-models,
models/llama3/tokenizer.py; huggingface/transformers, models/llama/convert_llama_weights_to_hf.py
(the names of special tokens), convert_slow_tokenizer.py (`TikTokenConverter`, the merges).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken

from ..errors import CheckpointError
from ..flatfile.layout import SENTENCEPIECE_FILE, TOKENIZER_FILE
from .byte_level import ALPHABET, LLAMA3_STEPS
from .sentencepiece_model import is_ranks, read_sentencepiece
from .tokenizer_sources import Built, as_sentencepiece, splits, write_tokenizer

_SPECIAL_TOKENS = 256
_NAMED = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
# By their places after the ranks; the others are "<|reserved_special_token_0|>" and so on.
_LLAMA3 = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "<|eot_id|>",
}
_LLAMA31 = {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}


def build_metas_tokenizer(files: Mapping[str, bytes], config: Mapping[str, Any]) -> Built | None:
    """Return the tokenizer.json that a folder's tokenizer.model is, by `config`; None without one.

    Raises CheckpointError for a file that is damaged, or of another model.
    """
    if TOKENIZER_FILE in files or SENTENCEPIECE_FILE not in files:
        return None
    content = files[SENTENCEPIECE_FILE]
    if not is_ranks(content):
        built = as_sentencepiece(read_sentencepiece(content), {}, legacy=True)
        return built._replace(adds_bos=True)
    ranks = _read_ranks(content)
    if config["bos_token_id"] != len(ranks):
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} has {len(ranks)} ranks, and the model begins its texts with the "
            f"token {config['bos_token_id']}, which is the first after them in LLaMA 3: give the "
            "file of the same model"
        )
    scaled = config["rope_parameters"]["rope_type"] == "llama3"  # by 3.1 and later
    return _byte_level(ranks, _special_tokens(_LLAMA3 | _LLAMA31 if scaled else _LLAMA3))


def _read_ranks(content: bytes) -> dict[bytes, int]:
    """Return the byte strings with their ranks, which are 0, 1, 2 and so on, in this order."""
    try:
        lines = [line.split(b" ") for line in content.splitlines()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
        if sorted(ranks.values()) != list(range(len(lines))):
            raise ValueError
        if not ranks.keys() >= {bytes([byte]) for byte in range(256)} or b"" in ranks:
            raise ValueError
    except ValueError:
        raise CheckpointError(
            f"{SENTENCEPIECE_FILE} is a damaged list of tiktoken's: fetch it again"
        ) from None
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _special_tokens(names: Mapping[int, str]) -> list[AddedToken]:
    """Return the tokens in order; those without a name are numbered as reserved ones."""
    others = iter(range(_SPECIAL_TOKENS))
    texts = [
        names.get(i) or f"<|reserved_special_token_{next(others)}|>" for i in range(_SPECIAL_TOKENS)
    ]
    return [AddedToken(text, normalized=False, special=True) for text in texts]


def _byte_level(ranks: Mapping[bytes, int], special: list[AddedToken]) -> Built:
    vocabulary = {"".join(ALPHABET[byte] for byte in token): i for token, i in ranks.items()}
    # A token may be made of two in several ways: those with the lowest ranks come first.
    by_rank = sorted(
        (rank, vocabulary[left], vocabulary[right], left, right)
        for rank, _, left, right in splits(vocabulary)
    )
    part = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    sections = {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": LLAMA3_STEPS},
        "decoder": part,
    }
    merges = [[left, right] for *_, left, right in by_rank]
    model = {"vocab": vocabulary, "merges": merges, "ignore_merges": True}
    return Built(write_tokenizer(sections, model), _NAMED, False, special, False, adds_bos=True)
