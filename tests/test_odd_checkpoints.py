"""Checkpoints that are odd where nothing is at stake convert, and as transformers reads them.

What could change the result is refused with a sentence: tests/test_unusable_checkpoints.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from checkpoints import make_config, write_checkpoint
from numpy.typing import NDArray
from test_parity import MOST, assert_parity, our_logits, reference_logits

Tensors = dict[str, torch.Tensor]
LAYER = "gpt_neox.layers.1."
TIED = {"tie_word_embeddings": True}


def files(folder: Path) -> list[Path]:
    """Return the files with tensors."""
    return sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])


def rewrite(path: Path, change: Callable[[Tensors], Any]) -> None:
    """Write a file with what `change` returns for its tensors."""
    if path.suffix == ".bin":
        torch.save(change(torch.load(path)), path)
    else:
        safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON object in a file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def index_of(folder: Path) -> Path:
    return next(iter(folder.glob("*.index.json")))


def edit_places(change: Callable[[dict[str, str]], Any]) -> Callable[[Path], None]:
    """Return a change of a folder: of the weight_map of its index."""
    return lambda folder: edit(index_of(folder), lambda index: change(index["weight_map"]))


def edit_tensors(change: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    """Return a change of a folder: of each of its files."""

    def apply(folder: Path) -> None:
        for path in files(folder):
            rewrite(path, change)

    return apply


def list_absent(*names: str) -> Callable[[Path], None]:
    """Let the index list tensors in its last shard that are not there."""
    return edit_places(lambda places: places.update(dict.fromkeys(names, max(places.values()))))


def move_into_subfolder(folder: Path) -> None:
    (folder / "weights").mkdir()
    for path in files(folder):
        path.rename(path.parent / "weights" / path.name)
    edit_places(lambda p: p.update({name: f"./weights/{file}" for name, file in p.items()}))(folder)


def rename_index(folder: Path) -> None:
    """Give the index the name that it has beside the other kind of shards."""
    names = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]
    index = index_of(folder)
    names.remove(index.name)
    index.rename(folder / names[0])


def change_kind_of_first_shard(folder: Path) -> None:
    """Write the first safetensors as .bin, or the first .bin as .pt."""
    old = files(folder)[0]
    new = old.with_suffix(".bin" if old.suffix == ".safetensors" else ".pt")
    if new.suffix == ".pt":
        old.rename(new)
    else:
        torch.save(safetensors.torch.load_file(old), new)
        old.unlink()
    edit_places(lambda p: p.update({n: new.name for n, file in p.items() if file == old.name}))(
        folder
    )


def exchange_places(places: dict[str, str]) -> None:
    """Let the index say another shard of every tensor."""
    shards = sorted(set(places.values()))
    places.update({n: shards[(shards.index(s) + 1) % len(shards)] for n, s in places.items()})


def repeat_in_next_shard(folder: Path) -> None:
    first, second = files(folder)[:2]
    extra: Tensors = {}
    rewrite(first, lambda tensors: extra.update(list(tensors.items())[:2]) or tensors)
    rewrite(second, lambda tensors: tensors | {n: t.clone() for n, t in extra.items()})


def add_metadata(value: Any) -> Callable[[Path], None]:
    """Return a change of model.safetensors' header."""

    def apply(folder: Path) -> None:
        for path in files(folder):
            raw = path.read_bytes()
            length = int.from_bytes(raw[:8], "little")
            header = json.loads(raw[8 : 8 + length]) | {"__metadata__": value}
            text = json.dumps(header).encode() + b" " * 5
            path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])

    return apply


def transpose(tensors: Tensors) -> Tensors:
    """Store every matrix by columns."""
    return {n: t.t().contiguous().t() if t.ndim == 2 else t for n, t in tensors.items()}


def mix_dtypes(tensors: Tensors) -> Tensors:
    """Store every second tensor in bfloat16, so a layer's weights and biases differ."""
    return {n: t.bfloat16() if i % 2 else t for i, (n, t) in enumerate(tensors.items())}


def half_bare(tensors: Tensors) -> Tensors:
    """Take "gpt_neox." off every second name."""
    return {
        name.removeprefix("gpt_neox.") if i % 2 else name: t
        for i, (name, t) in enumerate(tensors.items())
    }


OLD_BUFFERS = {
    "gpt_neox.rotary_emb.inv_freq": torch.ones(4),
    "gpt_neox.rotary_emb.original_inv_freq": torch.ones(4),
    "rotary_emb.inv_freq": torch.ones(4),
    "gpt_neox.layers.0.rotary_emb.inv_freq": torch.ones(4),
    "gpt_neox.layers.0.attention.rotary_emb.cos_cached": torch.ones(1, 1, 9, 8),
    "gpt_neox.layers.0.attention.rotary_emb.sin_cached": torch.ones(1, 1, 9, 8),
    "layers.1.attention.rotary_emb.inv_freq": torch.ones(4),
    "gpt_neox.layers.7.attention.masked_bias": torch.tensor(-1e9),
    "gpt_neox.layers.7.attention.bias": torch.zeros(0),
}
SHARDED = ("sharded", "sharded bin")
BOTH = ("safetensors", "bin")

# name -> (kinds of source, changes of the config, what is done to the folder)
HARMLESS: dict[str, tuple[tuple[str, ...], dict[str, Any], Callable[[Path], None]]] = {
    "index lists old buffers": (
        SHARDED,
        {},
        list_absent(
            f"{LAYER}attention.rotary_emb.inv_freq",
            f"{LAYER}attention.bias",
            f"{LAYER}attention.masked_bias",
            "gpt_neox.rotary_emb.inv_freq",
        ),
    ),
    "index lists a tied head": (SHARDED, TIED, list_absent("embed_out.weight", "lm_head.weight")),
    "index lists what no model has": (("sharded",), {}, list_absent("gpt_neox.layers.9.x", "y")),
    "index lists too little": (
        SHARDED,
        {},
        edit_places(lambda places: places.pop(f"{LAYER}mlp.dense_4h_to_h.weight")),
    ),
    "index without a prefix": (
        ("sharded",),
        {},
        edit_places(lambda p: [p.update({n[9:]: p.pop(n)}) for n in list(p) if "neox" in n]),
    ),
    "index says the wrong shards": (SHARDED, {}, edit_places(exchange_places)),
    "index names ./shard": (
        SHARDED,
        {},
        edit_places(lambda places: places.update({n: f"./{s}" for n, s in places.items()})),
    ),
    "index names some shards with ./": (
        SHARDED,
        {},
        edit_places(lambda p: p.update({n: f"./{s}" for n, s in list(p.items())[::2]})),
    ),
    "shards in a subfolder": (SHARDED, {}, move_into_subfolder),
    "index of the other kind": (SHARDED, {}, rename_index),
    "shards of both kinds": (SHARDED, {}, change_kind_of_first_shard),
    "equal tensors in two shards": (SHARDED, {}, repeat_in_next_shard),
    "metadata is null": (("safetensors", "sharded"), {}, add_metadata(None)),
    "metadata is empty": (("safetensors",), {}, add_metadata({})),
    "names with and without gpt_neox.": ((*BOTH, "sharded"), {}, edit_tensors(half_bare)),
    "lm_head": (
        BOTH,
        {},
        edit_tensors(lambda t: {n.replace("embed_out", "lm_head"): v for n, v in t.items()}),
    ),
    "old buffers in odd places": (BOTH, {}, edit_tensors(lambda tensors: tensors | OLD_BUFFERS)),
    "two dtypes": (BOTH, {}, edit_tensors(mix_dtypes)),
    "stored by columns": (("bin", "sharded bin"), {}, edit_tensors(transpose)),
    "compression_config left over": (
        ("safetensors",),
        {"compression_config": {"format": "pack-quantized", "quant_method": "compressed-tensors"}},
        lambda folder: None,
    ),
}


@pytest.mark.parametrize(
    ("name", "source"),
    [(name, source) for name, (sources, _, _) in HARMLESS.items() for source in sources],
)
def test_what_transformers_reads_is_read_alike(tmp_path: Path, name: str, source: str) -> None:
    _, changes, change = HARMLESS[name]
    folder = write_checkpoint(tmp_path / "odd", make_config(**changes), seed=7, source=source)
    change(folder)
    assert_parity(folder, 7)


def without_index_metadata(folder: Path) -> None:
    edit(index_of(folder), lambda index: index.pop("metadata"))


def quantization_config(value: Any) -> Callable[[Path], None]:
    return lambda folder: edit(
        folder / "config.json", lambda config: config.update(quantization_config=value)
    )


def put_before(prefix: str, buffers: bool = False) -> Callable[[Path], None]:
    """Return a change of a folder: `prefix` before every name; there may be a bare old buffer."""
    bare = {"rotary_emb.inv_freq": torch.ones(4)} if buffers else {}
    return edit_tensors(lambda tensors: bare | {prefix + n: t for n, t in tensors.items()})


def replace_in_names(old: str, new: str) -> Callable[[Path], None]:
    return edit_tensors(lambda tensors: {n.replace(old, new): t for n, t in tensors.items()})


def nest(around: Callable[[Tensors], Any]) -> Callable[[Path], None]:
    return edit_tensors(around)


# What transformers does not read, or reads as random weights, and is without doubt all the same.
CLEAR: dict[str, tuple[tuple[str, ...], Callable[[Path], None]]] = {
    "index without metadata": (SHARDED, without_index_metadata),
    "index with null metadata": (
        SHARDED,
        lambda folder: edit(index_of(folder), lambda index: index.update(metadata=None)),
    ),
    **{
        f"quantization_config {value}": (("safetensors",), quantization_config(value))
        for value in (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            {"quant_method": "gptq", "bits": 4},
            {},
            "none",
        )
    },
    **{
        f"prefix {prefix}": (BOTH, put_before(prefix))
        for prefix in ("module.", "_orig_mod.", "model.", "_orig_mod.module.", "base_model.model.")
    },
    "prefix module., sharded": (SHARDED, put_before("module.")),
    "prefix module., but of a buffer": (BOTH, put_before("module.", buffers=True)),
    "prefix and no gpt_neox.": (
        BOTH,
        edit_tensors(lambda t: {f"module.{n.removeprefix('gpt_neox.')}": v for n, v in t.items()}),
    ),
    "a head within gpt_neox.": (BOTH, replace_in_names("embed_out", "gpt_neox.embed_out")),
    "compiled base model": (BOTH, replace_in_names("gpt_neox.", "gpt_neox._orig_mod.")),
    "compiled layers": (BOTH, replace_in_names(".attention", "._orig_mod.attention")),
    "wrapped layers": (
        BOTH,
        replace_in_names(
            "attention.", "_fsdp_wrapped_module._checkpoint_wrapped_module.attention."
        ),
    ),
    "state_dict in a dictionary": (("bin",), nest(lambda tensors: {"state_dict": tensors})),
    "DeepSpeed's module": (
        ("bin",),
        nest(lambda t: {"module": {f"module.{n}": v for n, v in t.items()}, "dp_world_size": 8}),
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[np.int32], Any]:
    """Some tokens and transformers' logits of the checkpoint before it is changed."""
    folder = write_checkpoint(tmp_path_factory.mktemp("plain"), make_config(), seed=7)
    tokens = np.random.default_rng(7).integers(0, 128, 40, np.int32)
    return tokens, reference_logits(folder, tokens)


@pytest.mark.parametrize(
    ("name", "source"), [(name, source) for name, (some, _) in CLEAR.items() for source in some]
)
def test_what_is_without_doubt_is_read(tmp_path: Path, plain: Any, name: str, source: str) -> None:
    tokens, expected = plain
    folder = write_checkpoint(tmp_path / "odd", make_config(), seed=7, source=source)
    CLEAR[name][1](folder)
    assert np.abs(our_logits(folder, tokens) - expected).max() <= MOST * np.abs(expected).max()
