"""Tokenizers in GGUF's metadata: rebuilt where they are known, and left out with a reason else.

The referee is the library `tokenizers` on the file that the metadata were made of, and for
sentencepiece's kind the ids that sentencepiece gave.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tokenizers
from data.make_sentencepiece import TEXTS as WRITTEN
from drawn import examples
from gguf_files import write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_splitting_rules import RULES, TEXTS
from test_tokenizer_sources import GOLDEN, MODELS
from tokenizer_folders import make_folder

import pythia_rt
from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.gguf.splitting import SPLITTINGS
from pythia_rt.convert.gguf.tokenizer import read_text
from pythia_rt.convert.text.sentencepiece_model import Kind, read_sentencepiece
from pythia_rt.info import describe, lines
from pythia_rt.tokenizer import Tokenizer

DATA = Path(__file__).resolve().parent / "data"
# What a name of llama.cpp's stands for among the rules of other tests.
NAMES = {
    "Falcon": "falcon",
    "LLaMA 3": "llama-bpe",
    "Qwen2": "qwen2",
    "BLOOM": "bloom",
    "SmolLM2": "smollm",
}
ALIKE = {"gpt-2": "phi-2", "olmo": "mpt", "llama-bpe": "llama3"}  # others with the same rule


def metadata_of(data: dict[str, Any], pre: str, *, rows: int = 0) -> dict[str, Any]:
    """What llama.cpp's conversion writes of a byte-level tokenizer.json, up to `rows` tokens."""
    library = tokenizers.Tokenizer.from_str(json.dumps(data))
    names = {index: text for text, index in library.get_vocab().items()}
    added = library.get_added_tokens_decoder()
    texts, kinds = [], []
    for i in range(max(rows, max(names) + 1)):
        kind = Kind.NORMAL if i in names else Kind.UNUSED
        if i in added:
            kind = Kind.CONTROL if added[i].special else Kind.USER_DEFINED
        texts.append(names.get(i, f"[PAD{i}]"))
        kinds.append(kind)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": merges,
    }


def rebuilt(metadata: dict[str, Any]) -> Tokenizer:
    text, lacking = read_text(metadata)
    assert lacking == ""
    return Tokenizer(text.files["tokenizer.json"], text.facts)


def folder_data(folder: Path, rule: str) -> dict[str, Any]:
    """The demo's tokenizer with the rules of a family."""
    _, rules, normalizer, whole_words = RULES[rule]

    def change(data: dict[str, Any]) -> None:
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": rules}
        data["normalizer"] = None if normalizer is None else {"type": normalizer}
        data["model"]["ignore_merges"] = whole_words
        if whole_words:
            data["model"]["vocab"]["\u0120xyzzy"] = len(data["model"]["vocab"])

    path = make_folder(folder / "f", tokenizer=change) / "tokenizer.json"
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def all_data(folder: Path, pre: str) -> dict[str, Any]:
    for rule, name in NAMES.items():
        if name == pre:
            return folder_data(folder, rule)
    data: dict[str, Any] = json.loads(
        lzma.decompress((DATA / "gpt-neox-tokenizer.json.xz").read_bytes())
    )
    if pre == "gpt-2":
        data["normalizer"] = None
    return data


@pytest.fixture(scope="module", params=[*NAMES.values(), "gpt-2", "olmo"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, tokenizers.Tokenizer]:
    data = all_data(tmp_path_factory.mktemp("pre"), request.param)
    library = tokenizers.Tokenizer.from_str(json.dumps(data))
    return rebuilt(metadata_of(data, request.param, rows=60000)), library


def same(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    mine, library = pair
    ids = mine.encode(text, add_special_tokens=False)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert mine.decode(ids) == library.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("text", TEXTS)
def test_texts(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    same(pair, text)


@given(text=st.text(st.sampled_from(" \n\t\r.,'(|0123ab\u00e9e\u0301\u4e2d\u3002\U0001f600sS")))
@settings(deadline=None, max_examples=examples(60))
def test_any_text(pair: tuple[Tokenizer, tokenizers.Tokenizer], text: str) -> None:
    same(pair, text)


def test_every_name_is_tested() -> None:
    assert {*NAMES.values(), *ALIKE, *ALIKE.values(), "llama-v3"} == set(SPLITTINGS)
    assert all(SPLITTINGS[one] == SPLITTINGS[other] for one, other in ALIKE.items())
    assert SPLITTINGS["llama-v3"] == SPLITTINGS["llama3"]


def test_padding_is_no_token(tmp_path: Path) -> None:
    data = folder_data(tmp_path, "Falcon")
    text, _ = read_text(metadata_of(data, "falcon", rows=5000))
    assert text.vocabulary == (4096, 4096)


# Sentencepiece's kind.


def metadata_of_model(content: bytes, **more: Any) -> dict[str, Any]:
    model = read_sentencepiece(content)
    named = {"unk": "unknown", "bos": "bos", "eos": "eos"}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in model.pieces],
        "tokenizer.ggml.add_space_prefix": model.add_dummy_prefix,
        "tokenizer.ggml.remove_extra_whitespaces": model.remove_extra_whitespaces,
        "tokenizer.ggml.scores": np.array([p.score for p in model.pieces], np.float32),
        "tokenizer.ggml.token_type": np.array([p.kind for p in model.pieces], np.int32),
        **{f"tokenizer.ggml.{name}_token_id": model.named[key][0] for key, name in named.items()},
        **{f"tokenizer.ggml.{key}": value for key, value in more.items()},
    }


@pytest.mark.parametrize("name", ["llama", "symbols"])
def test_pieces_with_scores(name: str) -> None:
    """Of the ids that sentencepiece gives, which finds no special tokens in a text."""
    mine = rebuilt(metadata_of_model(MODELS[name]))
    golden = GOLDEN[name]["sentencepiece"]["texts"]
    found = []
    for text, ids in zip(WRITTEN, golden, strict=True):
        if not any(piece in text for piece in ("<s>", "[INST]", "<|user|>", "==")):
            assert mine.encode(text, add_special_tokens=False) == ids, text
            found.append(text)
    assert len(found) >= len(WRITTEN) - 4
    assert mine.encode("a") == [1, *mine.encode("a", add_special_tokens=False)]


def test_what_stands_before_a_text() -> None:
    texts = [metadata_of_model(MODELS["llama"], **more) for more in (
        {"add_bos_token": False},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_bos_token": False, "add_space_prefix": False},
    )]  # fmt: skip
    plain, both, bare = (rebuilt(metadata) for metadata in texts)
    ids = plain.encode("the")
    assert both.encode("the") == [1, *ids, 2]
    assert bare.encode(" the") == ids
    assert bare.encode("the") != ids


# Whole files.


def test_a_model_with_its_text(tmp_path: Path) -> None:
    data = folder_data(tmp_path, "LLaMA 3")
    config = families.make_config("LLaMA", 0)
    config.update({"vocab_size": 4100, "bos_token_id": 0, "eos_token_id": 0})
    import transformers

    maker: Any = transformers.AutoModelForCausalLM
    maker.from_config(config).save_pretrained(tmp_path / "tiny")
    metadata = metadata_of(data, "llama-bpe", rows=4100)

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(metadata["tokenizer.ggml.tokens"])
        writer.add_token_types([int(i) for i in metadata["tokenizer.ggml.token_type"]])
        writer.add_token_merges(metadata["tokenizer.ggml.merges"])
        writer.add_eos_token_id(0)
        writer.add_eot_token_id(7)
        writer.add_chat_template([
            {"name": "default", "template": "{{ messages[0].content }}"},
            {"name": "tool_use", "template": "x"},
        ])  # fmt: skip

    source = write_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf", more=add)
    file = FlatFile(convert(source, tmp_path / "flat", format="q8"))
    assert file.spec["n_tokens"] == 4097
    assert file.spec["eos_ids"] == [0, 7]
    assert file.text["prefix_ids"] == [0]
    assert sorted(file.text["chat_templates"]) == ["default", "tool_use"]
    assert file.text["named_tokens"]["eos_token"] == "<|endoftext|>"
    model = pythia_rt.Model(file)
    assert model.generate("The kernel", max_new_tokens=3, seed=1).text is not None


# What is not known, and what is damaged.


def changed(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    metadata = metadata_of(folder_data(tmp_path, "Falcon"), "falcon")
    for key, value in changes.items():
        metadata["tokenizer.ggml." + key] = value
        if value is None:
            del metadata["tokenizer.ggml." + key]
    return metadata


UNKNOWN: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"model": "none"}, "it has none"),
    "kind": ({"model": "t5"}, "its tokenizer.ggml.model is 't5'"),
    "rule": ({"pre": "tekken"}, "its rule for splitting text, tokenizer.ggml.pre, is 'tekken'"),
    "old": ({"pre": None}, "tokenizer.ggml.pre, is not given"),
    "no kinds": ({"token_type": None}, "does not say which of its tokens are special"),
    "no scores": ({"model": "llama"}, "its tokens have no scores or kinds"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_tokenizer_that_is_not_known_is_none(name: str, tmp_path: Path) -> None:
    changes, reason = UNKNOWN[name]
    text, lacking = read_text(changed(tmp_path, **changes))
    assert reason in lacking
    assert text.vocabulary is None
    assert not text.files


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"model": 3}, "its tokenizer.ggml.model is no name"),
    "tokens": ({"tokens": None}, "have no tokenizer.ggml.tokens"),
    "no tokens": ({"tokens": []}, "have no tokenizer.ggml.tokens"),
    "kinds": ({"token_type": np.ones(3, np.int32)}, "is not a number for every token"),
    "kind": ({"token_type": np.full(4096, 9, np.int32)}, "token_type has an unknown kind"),
    "scores": ({"scores": np.full(4096, np.nan)}, "scores is not a number for every token"),
    "merges": ({"merges": None}, "have no tokenizer.ggml.merges"),
    "pair": ({"merges": ["a b", "ab"]}, "merges has one of unknown tokens"),
    "pieces": ({"merges": ["a \u2603"]}, "merges has one of unknown tokens"),
    "id": ({"eos_token_id": "x"}, "its tokenizer.ggml.eos_token_id is no token id"),
    "far id": ({"eos_token_id": 5000}, "its tokenizer.ggml.eos_token_id is no token"),
    "flag": ({"add_bos_token": 1}, "add_bos_token is neither true nor false"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_are_refused(name: str, tmp_path: Path) -> None:
    changes, sentence = DAMAGED[name]
    with pytest.raises(CheckpointError, match=sentence):
        read_text(changed(tmp_path, **changes))


def test_who_has_no_tokenizer_is_told_so(tmp_path: Path) -> None:
    families.make_model("LLaMA", 0).save_pretrained(tmp_path / "tiny")
    source = write_gguf(tmp_path / "tiny", tmp_path / "tiny.gguf")
    with pytest.warns(
        UserWarning, match=r"has no tokenizer that can be rebuilt \(it has none\), so"
    ):
        convert(source, tmp_path / "flat")
    why = "its GGUF file has none that can be rebuilt (it has none)"
    assert f"tokenizer   no: {why}" in lines(describe(tmp_path / "flat"))
    with pytest.raises(
        CheckpointError, match="a report is measured on text: convert the checkpoint"
    ):
        convert(source, tmp_path / "other", report=lambda *_: {})
