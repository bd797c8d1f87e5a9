"""Our f32 logits are those of transformers in fp32, for every variant of GPT-NeoX."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoints import SOURCES, make_config, write_checkpoint
from numpy.typing import NDArray

import pythia_rt
from pythia_rt.convert import convert

MOST = 1e-4  # largest difference, as a part of the largest |logit|
N_TOKENS = 70

RESIDUALS = {"parallel": True, "sequential": False}
# (heads, head_dim): even and odd numbers of heads; widths that are and are not multiples of 64.
HEADS = [(3, 32), (4, 64), (3, 80), (2, 128), (1, 256)]
VARIANTS = list(itertools.product(RESIDUALS, ("gelu", "gelu_fast"), (0.25, 1.0), HEADS))
# Five head sizes against four kinds of source: each pair of them comes up.
CASES = [(*variant, SOURCES[i % len(SOURCES)]) for i, variant in enumerate(VARIANTS)]

# Changes of the config, and of how the checkpoint is written.
ODDITIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no bias in attention": ({"attention_bias": False}, {}),
    "tied head": ({"tie_word_embeddings": True}, {}),
    "seven heads": ({"heads": 7}, {}),
    "width 40": ({"heads": 5, "head_dim": 8, "rotary_pct": 0.5}, {}),
    "odd sizes": ({"heads": 3, "intermediate_size": 150, "vocab_size": 77}, {}),
    "one layer": ({"num_hidden_layers": 1}, {}),
    "other base and epsilon": ({"rotary_emb_base": 500, "layer_norm_eps": 1e-3}, {}),
    "tanh by another name": ({"hidden_act": "gelu_new"}, {}),
    "fp16": ({}, {"dtype": "float16"}),
    "bf16": ({}, {"dtype": "bfloat16", "source": "sharded bin"}),
    "old buffers": ({}, {"buffers": True, "source": "bin"}),
    "old buffers, sharded": ({}, {"buffers": True, "source": "sharded"}),
    "base model's names": ({"tie_word_embeddings": True}, {"prefix": False}),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load_reference(folder: Path) -> Any:
    """Return transformers' model of a checkpoint, in fp32 with its plain attention."""
    maker: Any = transformers.AutoModelForCausalLM  # torch's own types hide what it returns
    return maker.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@torch.inference_mode()
def reference_logits(folder: Path, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    ids = torch.from_numpy(tokens.astype(np.int64))[None]
    logits: NDArray[np.float32] = load_reference(folder)(ids).logits[0].numpy()
    return logits


def our_logits(folder: Path, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    path = convert(folder, folder.with_suffix(".f32"), format="f32")
    return pythia_rt.Model.load(path, threads=1, kv_format="f32").logits(tokens)


def assert_parity(folder: Path, seed: int) -> None:
    config = json.loads((folder / "config.json").read_text())
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, config["vocab_size"], N_TOKENS, np.int32)
    expected = reference_logits(folder, tokens)
    ours = our_logits(folder, tokens)
    assert expected.std() > 0.5, "the checkpoint's logits hardly differ: it would prove little"
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= MOST * np.abs(expected).max()


@pytest.mark.parametrize(("residual", "activation", "rotary", "heads", "source"), CASES)
def test_every_variant_matches_transformers(
    tmp_path: Path,
    residual: str,
    activation: str,
    rotary: float,
    heads: tuple[int, int],
    source: str,
) -> None:
    config = make_config(
        heads=heads[0],
        head_dim=heads[1],
        use_parallel_residual=RESIDUALS[residual],
        hidden_act=activation,
        rotary_pct=rotary,
    )
    seed = CASES.index((residual, activation, rotary, heads, source))
    assert_parity(write_checkpoint(tmp_path / "tiny", config, source=source, seed=seed), seed)


@pytest.mark.parametrize("name", ODDITIES)
def test_odd_checkpoints_match_transformers(tmp_path: Path, name: str) -> None:
    changes, options = ODDITIES[name]
    folder = write_checkpoint(tmp_path / "tiny", make_config(**changes), seed=7, **options)
    assert_parity(folder, 7)


def test_demo_logits_match_transformers(demo_folder: Path, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 4096, 300, np.int32)
    expected = reference_logits(demo_folder, tokens)
    path = convert(demo_folder, tmp_path / "demo.f32", format="f32")
    ours = pythia_rt.Model.load(path, threads=1, kv_format="f32").logits(tokens)
    assert np.abs(ours - expected).max() <= MOST * np.abs(expected).max()


@pytest.mark.parametrize("prompt", ["The kernel", "A function that returns", "network, n."])
def test_demo_writes_the_same_200_tokens(
    demo_folder: Path, demo_file: Callable[[str], Path], prompt: str
) -> None:
    model = pythia_rt.Model.load(demo_file("f32"), threads=1, kv_format="f32")
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(prompt)
    # The end of text is forbidden on both sides, so that there are 200 tokens to compare.
    ours = model.generate(ids, max_new_tokens=200, temperature=0, logit_bias={0: -1e9}).tokens
    with torch.inference_mode():
        theirs = load_reference(demo_folder).generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            do_sample=False,
            max_new_tokens=200,
            suppress_tokens=[0],
            pad_token_id=0,
        )
    assert list(ours) == theirs[0, len(ids) :].tolist()
    assert len(ours) == 200
