"""Random folders: whatever four files declare at once, the tokens are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import as_sources, make_folder, ours, resolve, template

from pythia_rt.convert.text.added_tokens import NAMED

CLASSES = (
    "GPTNeoXTokenizer", "PreTrainedTokenizerFast", "GPT2Tokenizer", "Qwen2TokenizerFast",
    "CodeGenTokenizer", "LlamaTokenizer", None,
)  # fmt: skip
MODELS = ("gpt_neox", "llama", "mistral", "qwen2", "opt", "stablelm", "olmo", "bloom", "falcon")
WORDS = (
    "<|user|>", "[PAD]", "<|endoftext|>", "<|padding|>", "<s>", "[MASK]", "hi", "\u0120the", "the",
    "A", "e\u0301", " x",
)  # fmt: skip

BYTE_LEVEL = ("GPTNeoXTokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "CodeGenTokenizer")
BYTE_LEVEL_MODELS = ("gpt2", "opt", "gptj", "phi", "qwen2", "qwen3", "gpt_neox")


def some(random: Random) -> list[str]:
    return random.sample(WORDS, 2)


def random_token(random: Random) -> dict[str, Any]:
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    return {"content": random.choice(WORDS)} | {flag: random.random() < 0.3 for flag in flags}


def added_token(random: Random) -> dict[str, Any]:
    return {**random_token(random), "special": random.random() < 0.7}


def tokenizer_config(random: Random) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": random.choice(CLASSES)}
    for name in NAMED:
        if random.random() < 0.3:
            as_object = {"__type": "AddedToken", **random_token(random)}
            config[name] = random.choice([random.choice(WORDS), as_object, None])
    if random.random() < 0.4:
        ids = random.sample(range(20), random.randint(0, 3)) + random.sample(range(4090, 4110), 2)
        config["added_tokens_decoder"] = {str(i): added_token(random) for i in ids}
    if random.random() < 0.3:
        config["additional_special_tokens"] = some(random)
    if random.random() < 0.2:
        named = {"a_token": random.choice(WORDS)}
        config["extra_special_tokens"] = random.choice([some(random), named, []])
    if random.random() < 0.2:
        config["x_token"] = random.choice(WORDS)
    if random.random() < 0.2:
        config["add_prefix_space"] = random.choice([True, False])
    return config


def special_tokens(random: Random) -> dict[str, Any]:
    given: dict[str, Any] = {
        name: random.choice([random.choice(WORDS), random_token(random)])
        for name in NAMED
        if random.random() < 0.3
    }
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if random.random() < 0.3:
            given[name] = some(random)
    return given


def random_folder(random: Random, folder: Path, *, sources: bool = False) -> Path:
    """With `sources` it has vocab.json and merges.txt in place of tokenizer.json."""

    def change(data: dict[str, Any]) -> None:
        if random.random() < 0.3:
            template(random.choice(["<|endoftext|> $A", "$A <|endoftext|>"]))(data)
        if random.random() < 0.3:
            data["normalizer"] = random.choice([None, {"type": "NFKC"}])
        if random.random() < 0.3:
            data["added_tokens"].append({"id": 4096, **added_token(random)})

    files: dict[str, Any] = {"tokenizer_config.json": tokenizer_config(random)}
    if random.random() < 0.4:
        ids = {word: random.randint(4090, 4110) for word in some(random)}
        files["added_tokens.json"] = ids
    if random.random() < 0.4:
        files["special_tokens_map.json"] = special_tokens(random)
    if sources:  # no other class can build a tokenizer of them
        files["tokenizer_config.json"]["tokenizer_class"] = random.choice(BYTE_LEVEL)
        has_space = " x" in json.dumps(files)  # their template cannot hold such a token
        for name in ("add_bos_token", "add_eos_token"):
            if random.random() < 0.5 and not has_space:
                files["tokenizer_config.json"][name] = random.choice([True, False])
    model = random.choice(BYTE_LEVEL_MODELS if sources else MODELS)
    made = make_folder(
        folder, tokenizer=change, config=lambda data: data.update(model_type=model), files=files
    )
    if sources:
        as_sources(made)
    return made


def check(auto: Any, random: Random, *, sources: bool) -> None:
    with TemporaryDirectory() as temporary:
        folder = random_folder(random, Path(temporary) / "f", sources=sources)
        theirs = auto.from_pretrained(folder)
        tokenizer, (facts, vocabulary) = ours(folder), resolve(folder)
    added = {token["id"]: dict(token) for token in facts["added_tokens"]}
    expected = {i: {"id": i, **t.__getstate__()} for i, t in theirs.added_tokens_decoder.items()}
    assert added == expected
    assert vocabulary is not None
    assert vocabulary.total == len(theirs)
    for _ in range(3):
        text = "".join(random.choice([*WORDS, " ", "  ", "q"]) for _ in range(6))
        assert tokenizer.encode(text) == theirs(text).input_ids


@given(random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=examples(80))
def test_tokens_are_those_of_transformers(auto: Any, random: Random) -> None:
    check(auto, random, sources=False)


@given(random=st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=examples(30))
def test_without_a_tokenizer_json(auto: Any, random: Random) -> None:
    check(auto, random, sources=True)
