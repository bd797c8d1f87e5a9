"""Tokenizers of Meta's own folders, which have a tokenizer.model alone and begin texts with BOS."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.make_sentencepiece import FOLDER, TEXTS
from test_meta_folders import make_model, metas, split, write
from transformers.convert_slow_tokenizer import TikTokenConverter

from pythia_rt import Model
from pythia_rt.convert import CheckpointError, FlatFile, convert
from pythia_rt.convert.text.metas_tokenizer import build_metas_tokenizer
from pythia_rt.convert.text.text_files import resolve_text
from pythia_rt.info import describe
from pythia_rt.tokenizer import Tokenizer

GOLDEN = json.loads((FOLDER / "golden.json").read_text())


def make_ranks(count: int) -> dict[bytes, int]:
    """Ranks of bytes, in an order of their own, and of random joins of those before."""
    random = np.random.default_rng(0)
    tokens = [bytes([byte]) for byte in random.permutation(256)]
    common = "the server's 123 configuration, reads: \n\n  and IT'LL wait.\u4e2d\U0001f600".encode()
    starts = [common[i : i + 1] for i in range(len(common))]
    known = set(tokens)
    while len(tokens) < count:
        i, size = random.integers(len(common)), random.integers(1, 4)
        left = common[i : i + size] if random.random() < 0.7 else starts[i]
        right = common[i + size : i + size + random.integers(1, 4)]
        if left in known and right in known and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    return {token: rank for rank, token in enumerate(tokens)}


RANKS = make_ranks(420)


def tiktoken_file(ranks: dict[bytes, int]) -> bytes:
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    return "".join(lines).encode()


def config_of(rope: str, bos: int = len(RANKS)) -> dict[str, Any]:
    return {"model_type": "llama", "bos_token_id": bos, "rope_parameters": {"rope_type": rope}}


# The tokens that convert_llama_weights_to_hf.py of transformers gives the two versions.
RESERVED = "<|reserved_special_token_{}|>".format
HEADERS = ["<|start_header_id|>", "<|end_header_id|>"]
SPECIAL = {
    "default": [
        *("<|begin_of_text|>", "<|end_of_text|>", *map(RESERVED, range(4)), *HEADERS),
        *(RESERVED(4), "<|eot_id|>", *map(RESERVED, range(5, 251))),
    ],
    "llama3": [
        *("<|begin_of_text|>", "<|end_of_text|>", RESERVED(0), RESERVED(1)),
        *("<|finetune_right_pad_id|>", RESERVED(2), *HEADERS, "<|eom_id|>", "<|eot_id|>"),
        *("<|python_tag|>", *map(RESERVED, range(3, 248))),
    ],
}
WRITTEN = (
    *TEXTS, "", "the server's 1234567 configuration", " reads:\n\n\n  and  \r\n IT'LL wait.",
    "<|begin_of_text|>the<|start_header_id|>user<|end_header_id|>\n\nand<|eot_id|>",
    "\U0001f600\u4e2d \x00\x7f\u00e9", "<|eom_id|><|python_tag|><|reserved_special_token_3|>",
)  # fmt: skip


def resolved(content: bytes, config: dict[str, Any], **files: bytes) -> Any:
    read = {"tokenizer.model": content, **files}
    return resolve_text(read, config, build_metas_tokenizer(read, config))


@pytest.mark.parametrize("rope", SPECIAL)
def test_ranks_are_read_as_transformers_reads_them(
    rope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TikTokenConverter, "load_tiktoken_bpe", staticmethod(lambda _: RANKS))
    theirs = TikTokenConverter("a file", extra_special_tokens=SPECIAL[rope]).converted()
    text = resolved(tiktoken_file(RANKS), config_of(rope))
    mine = Tokenizer(text.files["tokenizer.json"], text.facts)
    assert text.vocabulary == (len(RANKS), len(RANKS) + 256)
    begin = len(RANKS)
    merged = 0
    for written in WRITTEN:
        ids = theirs.encode(written).ids
        assert mine.encode(written) == [begin, *ids]
        assert mine.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        merged += sum(256 <= token < begin for token in ids)
    assert merged > 40
    assert [mine.name(begin + i) for i in range(256)] == SPECIAL[rope]
    assert text.facts["named_tokens"]["bos_token"] == "<|begin_of_text|>"


@pytest.mark.parametrize("name", [name for name in GOLDEN if "symbols" not in name])
def test_models_of_sentencepiece_begin_with_bos(name: str) -> None:
    content = (FOLDER / f"{name}.model").read_bytes()
    text = resolved(content, config_of("default", 1))
    mine = Tokenizer(text.files["tokenizer.json"], text.facts)
    bos = mine.encode("")
    assert [mine.name(token) for token in bos] == ["<s>"]
    for written, ids in zip(TEXTS, GOLDEN[name]["sentencepiece"]["texts"], strict=True):
        # The library finds no special tokens in a text.
        if "<s>" not in written and "[INST]" not in written and written != "<0x41>":
            assert mine.encode(written) == [*bos, *ids]
    without = {"tokenizer_config.json": b'{"add_bos_token": false}'}
    assert resolved(content, config_of("default", 1), **without).facts["prefix_ids"] == []


def test_a_converted_folder(tmp_path: Path) -> None:
    model = make_model()
    model.resize_token_embeddings(420)
    folder = write(tmp_path / "metas", split(metas(model), 2))
    (folder / "tokenizer.model").write_bytes((FOLDER / "llama.model").read_bytes())
    file = FlatFile(convert(folder, tmp_path / "flat", format="f32"))
    assert "tokenizer.model" in file.source_digests
    assert describe(file.path)["prefix_tokens"] == [{"id": 1, "token": "<s>"}]
    loaded = Model(file)
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode("The server")
    assert ids[0] == 1
    tokens = torch.tensor([ids])
    with torch.inference_mode():
        theirs = model.float()(tokens).logits[0].numpy()
    assert np.abs(loaded.logits(ids) - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_ranks_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "metas", split(metas(make_model()), 1))
    (folder / "tokenizer.model").write_bytes(tiktoken_file(RANKS))
    with pytest.raises(CheckpointError, match="has 420 ranks, and the model begins its texts with"):
        convert(folder, tmp_path / "flat")


DAMAGED = {
    "a rank twice": {**RANKS, b"zz": 3},
    "a rank missing": {**RANKS, b"zz": len(RANKS) + 1},
    "a byte missing": {token: rank for token, rank in RANKS.items() if token != b"a"},
    "an empty token": {**RANKS, b"": len(RANKS)},
}
WRONG_LINES = {
    "three words": b"AA== 420 1\n",
    "one word": b"AA==\n",
    "no number": b"AA== x\n",
    "other characters": b"A*== 420\n",
    "half a token": b"A 420\n",
    "a blank line": b"\n",
}


@pytest.mark.parametrize("kind", [*DAMAGED, *WRONG_LINES])
def test_damaged_ranks_are_refused(kind: str) -> None:
    ranks = DAMAGED.get(kind, RANKS)
    content = tiktoken_file(ranks) + WRONG_LINES.get(kind, b"")
    with pytest.raises(CheckpointError, match="is a damaged list of tiktoken's"):
        resolved(content, config_of("default", len(content.splitlines())))
