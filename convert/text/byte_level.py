"""Tokenizers of bytes: how a text is cut into words whose bytes are merged, and their alphabet.

Source of the alphabet: openai/gpt-2, src/encoder.py (`bytes_to_unicode`).
"""

from __future__ import annotations

from typing import Any


def _characters() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    found = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in found]
    found |= {byte: chr(0x100 + i) for i, byte in enumerate(rest)}
    return [found[byte] for byte in range(256)]


# GPT-2's, by byte: printable Latin-1 stands for itself, the other bytes for U+0100 upwards.
ALPHABET = _characters()


def words(digits: str) -> str:
    """Return the pattern of words that LLaMA 3 and Qwen 2 have; `digits` says how many go together.

    Source: meta-llama/llama-models, models/llama3/tokenizer.py; huggingface/transformers,
    models/qwen2/tokenization_qwen2.py.
    """
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def split(pattern: str) -> dict[str, Any]:
    """Return the step that cuts around and between what matches."""
    part = {"type": "Split", "pattern": {"Regex": pattern}}
    return {**part, "behavior": "Isolated", "invert": False}


def to_bytes(*, use_regex: bool = False) -> dict[str, Any]:
    """Return the step that spells bytes as characters, after GPT-2's pattern with `use_regex`."""
    part = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {**part, "use_regex": use_regex}


LLAMA3_STEPS = [split(words("{1,3}")), to_bytes()]
