"""How texts are cut into words by the rules that files name in tokenizer.ggml.pre.

A name stands for a tokenizer.json's normalizer and pre-tokenizer, as the models have them that
llama.cpp gave it to. Sources: ggml-org/llama.cpp, conversion/base.py (`get_vocab_base_pre`, which
models), src/llama-vocab.cpp (which names add a BOS token); the tokenizer.json of these models.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..text.byte_level import LLAMA3_STEPS, split, to_bytes, words


class Splitting(NamedTuple):
    """A rule; `whole_words`: a word in the vocabulary is one token, whatever its merges."""

    rules: list[dict[str, Any]]
    normalizer: str | None = None
    whole_words: bool = False
    adds_bos: bool = False  # where the file does not say


_GPT2_WORDS = to_bytes(use_regex=True)
_GPT2 = Splitting([_GPT2_WORDS])
_NEOX = Splitting([_GPT2_WORDS], "NFC")
_LLAMA3 = Splitting(LLAMA3_STEPS, whole_words=True, adds_bos=True)
SPLITTINGS = {
    "gpt-2": _GPT2,
    "phi-2": _GPT2,
    # The tokenizer of GPT-NeoX-20B, which Pythia, MPT and OLMo share.
    "mpt": _NEOX,
    "olmo": _NEOX,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": Splitting([split(words("")), to_bytes()], "NFC"),
    "smollm": Splitting([{"type": "Digits", "individual_digits": True}, _GPT2_WORDS]),
    "falcon": Splitting(
        [
            {"type": "Punctuation", "behavior": "Contiguous"},
            _GPT2_WORDS,
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ]
    ),
    "bloom": Splitting(
        [split(" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"), to_bytes()]
    ),
}
