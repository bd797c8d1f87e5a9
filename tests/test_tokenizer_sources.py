"""Folders without a tokenizer.json: it is built of vocab.json and merges.txt or tokenizer.model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from convert_sources import make_config, make_tensors, write_checkpoint
from data.make_sentencepiece import FOLDER, KINDS, TEXTS
from drawn import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import Change, as_sources, make_folder, ours, resolve, resolve_all, token

from pythia_rt import Model
from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.text.sentencepiece_model import read_sentencepiece
from pythia_rt.detokenizer import Detokenizer
from pythia_rt.info import describe

GOLDEN = json.loads((FOLDER / "golden.json").read_text())
MODELS = {name: (FOLDER / f"{name}.model").read_bytes() for name in GOLDEN}


def config_of(model_type: str) -> Change:
    return lambda data: data.update(model_type=model_type)


# By family: config.json's model_type, what tokenizer_config.json says and other files.
BYTE_LEVEL: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "GPT-2": ("gpt2", {"model_max_length": 1024}, {}),
    "GPT-2 with tokens": ("gpt2", {}, {"added_tokens.json": {"<|user|>": 4096}}),
    "OPT": (
        "opt",
        {
            "add_bos_token": True,
            "tokenizer_class": "GPT2Tokenizer",
            "bos_token": {"__type": "AddedToken", **token("</s>", normalized=True)},
            "unk_token": {"__type": "AddedToken", **token("</s>", normalized=True)},
        },
        {
            "special_tokens_map.json": {
                "bos_token": token("</s>", normalized=True),
                "eos_token": token("</s>", normalized=True),
                "pad_token": token("<pad>", normalized=True),
            }
        },
    ),
    "GPT-J": ("gptj", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False}, {}),
    "Phi": ("phi", {"tokenizer_class": "CodeGenTokenizer"}, {"added_tokens.json": {"  ": 4096}}),
    "Qwen2": ("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False}, {}),
    "GPT-NeoX": ("gpt_neox", {"add_bos_token": True, "add_eos_token": True}, {}),
}
WRITTEN = (
    "", " a  b ", "The 12345 dogs' cafe\u0301 isn't\n\n  here\t", "<|endoftext|>x</s> <|user|>",
    "\U0001f600\u4e2d \x00\x7f", "IT'LL (x|y)[0] = a.b,c;", "<|padding|><pad>  .",
)  # fmt: skip


@pytest.mark.parametrize("family", BYTE_LEVEL)
def test_vocabulary_and_merges(tmp_path: Path, auto: Any, family: str) -> None:
    model_type, tokenizer_config, files = BYTE_LEVEL[family]
    files = {"tokenizer_config.json": tokenizer_config, **files}
    folder = make_folder(tmp_path / "f", config=config_of(model_type), files=files)
    as_sources(folder)
    theirs, mine = auto.from_pretrained(folder), ours(folder)
    for text in WRITTEN:
        ids = mine.encode(text)
        assert ids == theirs(text).input_ids
        assert mine.decode(ids) == theirs.decode(ids)
    facts, vocabulary = resolve(folder)
    assert vocabulary == (4096, len(theirs))
    expected = {"OPT": ([4096], []), "GPT-NeoX": ([0], [0])}.get(family, ([], []))
    assert (facts["prefix_ids"], facts["suffix_ids"]) == expected


def model_folder(folder: Path, content: bytes, kind: str) -> Path:
    tokenizer_config, model_type = KINDS[kind]
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_tokenizer_model(tmp_path: Path, name: str, kind: str) -> None:
    """Of the ids that transformers 5.24 gives for the same folder."""
    folder = model_folder(tmp_path / "f", MODELS[name], kind)
    if kind not in GOLDEN[name]:
        with pytest.raises(CheckpointError, match="is a unigram model, and LlamaTokenizer is for"):
            resolve(folder)
        return
    mine = ours(folder)
    for text, ids in zip(TEXTS, GOLDEN[name][kind], strict=True):
        assert mine.encode(text) == ids


@pytest.mark.parametrize("name", MODELS)
def test_no_class_is_sentencepiece_itself(tmp_path: Path, name: str) -> None:
    """Of the ids that the library gives: it finds no special tokens in a text."""
    mine = ours(model_folder(tmp_path / "f", MODELS[name], "no class"))
    golden = GOLDEN[name]["sentencepiece"]["texts"]
    same = [mine.encode(text) == ids for text, ids in zip(TEXTS, golden, strict=True)]
    special = ["<s>" in text or "[INST]" in text or text == "<0x41>" for text in TEXTS]
    assert all(one or two for one, two in zip(same, special, strict=True))
    assert sum(same) >= len(TEXTS) - 3


@pytest.mark.parametrize("name", MODELS)
def test_text_is_that_of_sentencepiece(tmp_path: Path, name: str) -> None:
    """Of any ids, bytes of no character among them; control tokens have a text here alone."""
    mine = ours(model_folder(tmp_path / "f", MODELS[name], "no class"))
    for ids, text in GOLDEN[name]["sentencepiece"]["ids"]:
        if "[INST]" not in map(mine.name, ids):
            detokenizer = Detokenizer(mine)
            pieces = [detokenizer.feed(token) for token in ids]
            assert "".join(pieces) + detokenizer.flush() == mine.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_a_text_goes_on(tmp_path: Path, name: str, kind: str) -> None:
    if kind in GOLDEN[name]:
        mine = ours(model_folder(tmp_path / "f", MODELS[name], kind))
        for first, then in (("The server", " is up"), ("The serv", "er"), ("a", "\n b"), ("x", "")):
            ids = mine.encode(first, add_special_tokens=False) + mine.encode(then, continues=True)
            assert mine.decode(ids) == first + then


def test_renamed_pieces(tmp_path: Path) -> None:
    """A token that tokenizer_config.json declares for a piece's id has its name."""
    folder = model_folder(tmp_path / "f", MODELS["symbols"], "no class")
    declared = {"3": token("<|call|>"), "1": token("</s>"), "2": token("<s>")}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    assert ours(folder).encode("<|call|></s><s>[INST]")[:3] == [3, 1, 2]


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, shorter than 128."""
    return bytes([number << 3 | 2, len(content)]) + content


PIECE = field(1, field(1, b"<unk>"))
DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "no message": b"\xff" * 40,
    "text": b"a tokenizer",
    "cut": MODELS["llama"][:-3],
    "cut in a piece": MODELS["llama"][:100],
    "longer than the file": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "a number of 11 bytes": b"\x0a" + b"\xff" * 10 + b"\x01",
    "a piece that is a number": b"\x08\x01",
    "a text that is a number": field(1, b"\x08\x01"),
    "a text that is not UTF-8": field(1, field(1, b"\xff")),
    "a kind that is bytes": field(1, field(1, b"a") + field(3, b"a")),
    "an unknown kind": field(1, field(1, b"a") + b"\x18\x63"),
    "a score of other size": field(1, field(1, b"a") + b"\x11" + bytes(8)),
    "a group": PIECE + b"\x0b\x0c",
    "an unknown algorithm": PIECE + field(2, b"\x18\x09"),
    "no pieces": field(2, b"\x18\x02"),
    "spaces behind words": PIECE + field(2, b"\x18\x02\xc0\x01\x01"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_models_are_refused(tmp_path: Path, kind: str) -> None:
    folder = model_folder(tmp_path / "f", DAMAGED[kind], "no class")
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is damaged or no model of"):
        resolve(folder)


OTHERS = {
    "a word model, which is not supported": PIECE + field(2, b"\x18\x03"),
    "a char model, which is not supported": PIECE + field(2, b"\x18\x04"),
    "a list of tiktoken's": b"IQ== 0\nIg== 1\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_other_models_are_named(tmp_path: Path, sentence: str) -> None:
    folder = model_folder(tmp_path / "f", OTHERS[sentence], "no class")
    with pytest.raises(CheckpointError, match=f"tokenizer.model is {sentence}"):
        resolve(folder)


@given(data=st.data())
@settings(deadline=None, max_examples=examples(200))
def test_mutated_models_never_crash(data: st.DataObject) -> None:
    content = bytearray(MODELS[data.draw(st.sampled_from([*MODELS]))])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(len(content) // 2, len(content)))]
    try:
        read_sentencepiece(bytes(content))
    except CheckpointError as error:
        assert str(error).isprintable()


VOCABULARY_SENTENCES: list[tuple[str, str, str]] = [
    ("merges.txt", "a b c\n", "merges.txt has no pair in line 1: fetch it again"),
    ("merges.txt", "q zzzz\n", "cannot be read"),
    ("vocab.json", "{", "vocab.json is not valid JSON"),
    ("vocab.json", "[]", "vocab.json is not a JSON object"),
    ("vocab.json", '{"a": "b"}', "damaged vocabulary"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), VOCABULARY_SENTENCES)
def test_damaged_vocabularies_are_refused(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    folder = make_folder(tmp_path / "f", config=config_of("gpt2"))
    as_sources(folder)
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=sentence):
        resolve(folder)


def test_a_class_of_unknown_rules_is_named(tmp_path: Path) -> None:
    files = {"tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}}
    folder = make_folder(tmp_path / "f", files=files)
    as_sources(folder)
    with pytest.raises(
        CheckpointError, match="do not say how 'RobertaTokenizer' cuts a text: save"
    ):
        resolve(folder)


def test_a_tokenizer_json_comes_first(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f", config=config_of("llama"))
    (folder / "tokenizer.model").write_bytes(b"")
    (folder / "merges.txt").write_text("a b c d")
    text = resolve_all(folder)
    assert text.files["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert "tokenizer.model" not in text.files


def test_a_converted_model_has_its_tokenizer(tmp_path: Path) -> None:
    """It begins texts with <s>, as the folder wants."""
    config = make_config(vocab_size=420, eos_token_id=2)
    tensors = make_tensors()
    for name in ("gpt_neox.embed_in.weight", "embed_out.weight"):
        tensors[name] = tensors[name].repeat(5, 1)[:420].clone()
    folder = write_checkpoint(tmp_path / "source", tensors, config=config, tokenizer={})
    shutil.copy(FOLDER / "llama.model", folder / "tokenizer.model")
    tokenizer_config = {**KINDS["vicuna"][0], "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    file = FlatFile(convert(folder, tmp_path / "flat", format="f32"))
    assert {"tokenizer.model", "tokenizer_config.json"} < set(file.source_digests)
    assert "tokenizer.json" not in file.source_digests
    assert set(file.files) == {"tokenizer.json", "tokenizer_config.json"}
    assert describe(file.path)["prefix_tokens"] == [{"id": 1, "token": "<s>"}]
    model = Model.load(tmp_path / "flat")
    assert model.tokenizer is not None
    text = "The server"
    ids = [1, *model.tokenizer.encode(text, add_special_tokens=False)]
    options: dict[str, Any] = {"max_new_tokens": 8, "seed": 1}
    assert model.generate(text, **options).tokens == model.generate(ids, **options).tokens
    scores = [model.score([prompt])[0].log_probabilities for prompt in (text, ids)]
    np.testing.assert_array_equal(*scores)
    assert "".join(model.stream(text, **options)) == model.generate(text, **options).text
    whole = model.generate(text, max_new_tokens=40, seed=1)
    assert whole.text == model.tokenizer.decode(whole.tokens)
    for start in range(2, 20, 3):  # across tokens, and bytes of tokens
        stop = whole.text[start : start + 4]
        stopped = model.generate(text, max_new_tokens=40, seed=1, stop=stop)
        assert stopped.text == whole.text[: whole.text.index(stop)]
    session = model.session()
    session.append(text)
    assert session.tokens == ids
    session.append(" is up")
    assert session.tokens.count(1) == 1
    assert model.tokenizer.decode(session.tokens) == "<s> The server is up"
