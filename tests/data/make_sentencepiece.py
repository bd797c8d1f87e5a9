"""Makes the models in sentencepiece/ and the ids that others give with them, in golden.json.

It needs what no test needs: `pip install sentencepiece protobuf`. Run it as
`python tests/data/make_sentencepiece.py`; sentencepiece 0.2.3 and transformers 5.24 made what is
here.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).resolve().parent
FOLDER = DATA / "sentencepiece"
COMMON = {
    "input": "technical.txt",  # the model keeps this name
    "normalization_rule_name": "identity",
    "vocab_size": 420,
    "byte_fallback": True,
    "character_coverage": 0.99,
    "split_digits": True,
    "max_sentence_length": 100_000,
    "num_threads": 1,
    "minloglevel": 2,
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {  # as LLaMA's was trained
        "model_type": "bpe",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
    },
    "symbols": {
        "model_type": "bpe",
        "user_defined_symbols": ["<|user|>", "=="],
        "control_symbols": ["[INST]"],
    },
    "unigram": {"model_type": "unigram"},
}
# What tokenizer_config.json and config.json say, by the name of the way to read a model.
LLAMA = {"tokenizer_class": "LlamaTokenizer"}
KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "vicuna": ({**LLAMA, "add_bos_token": True, "legacy": False, "pad_token": "<unk>"}, "llama"),
    "legacy": ({**LLAMA, "legacy": True, "add_bos_token": True, "add_eos_token": True}, "llama"),
    "no space": ({**LLAMA, "add_prefix_space": False, "extra_special_tokens": []}, "llama"),
    "no class": ({}, "llama"),
    "mistral": ({**LLAMA, "add_bos_token": True, "legacy": False}, "mistral"),
}
TEXTS = [
    "", " ", "  ", "The server", " The  server ", "a\n\n  b\tc\r\n", "doesn't: 10,45 == 007",
    "caf\u00e9 e\u0301 \u212b", "\u4f60\u597d \u0434\u0430 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f600 \U0001f44d\U0001f3fd a\u200db", "a\x00b\x7fc\x85d\u00a0e", "def f(x):\n    return",
    "<s>one</s>two <unk> x<s> y", "<|user|>a==b [INST] c[INST]", "\u2581a \u2581\u2581b", "<0x41>",
    "[PAD]", "    ", "of the " * 9,
]  # fmt: skip


def train(name: str) -> None:
    """Write the model of that name."""
    import sentencepiece

    path = f"{FOLDER.name}/{name}"
    sentencepiece.SentencePieceTrainer.train(model_prefix=path, **COMMON, **MODELS[name])
    Path(f"{path}.vocab").unlink()


def by_transformers(model: Path, kind: str) -> list[list[int]]:
    """Return the ids of AutoTokenizer for a folder with the model and no tokenizer.json."""
    from transformers import AutoTokenizer

    tokenizer_config, model_type = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, f"{folder}/tokenizer.model")
        for name, value in (
            ("tokenizer_config", tokenizer_config),
            ("config", {"model_type": model_type}),
        ):
            Path(folder, f"{name}.json").write_text(json.dumps(value))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return [tokenizer(text).input_ids for text in TEXTS]


def by_sentencepiece(model: Path) -> dict[str, Any]:
    """Return what the library itself makes of texts without tokens of their own, and of ids."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    random = Random(1)
    few = [*range(3, 12), *range(0xB3, 0xC9), *range(0xE3, 0xEF), *range(300, 420)]
    ids = [[random.choice(few) for _ in range(random.randint(1, 12))] for _ in range(60)]
    return {
        "texts": [processor.encode(text) for text in TEXTS],
        "ids": [[some, processor.decode(some)] for some in ids],
    }


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.chdir(DATA)
    golden: dict[str, Any] = {}
    for name in MODELS:
        train(name)
        model = FOLDER / f"{name}.model"
        kinds = [kind for kind in KINDS if name != "unigram" or kind in ("no class", "mistral")]
        golden[name] = {kind: by_transformers(model, kind) for kind in kinds}
        golden[name]["sentencepiece"] = by_sentencepiece(model)
    (FOLDER / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
