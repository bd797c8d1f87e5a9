"""Tiny random checkpoints of every family, made by transformers, and what they show.

`PYTHIA_RT_TESTING_DIR=build/native python tests/families.py` prints the largest errors of each.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from family_rows import ROWS
from numpy.typing import NDArray

import pythia_rt
from pythia_rt.convert import convert

Floats = NDArray[np.float32]
VOCAB = 96
CASES = [(name, number) for name, row in ROWS.items() for number in range(len(row.variants))]


def make_config(name: str, number: int) -> Any:
    """Return transformers' config of a variant; nothing ends its texts."""
    row = ROWS[name]
    maker: Any = getattr(transformers, row.config)
    ids = {"bos_token_id": 0, "eos_token_id": None}
    given = {**row.base, "vocab_size": VOCAB, **ids, **row.variants[number]}
    return maker(**{"pad_token_id": None, **given})


def make_model(name: str, number: int) -> Any:
    """Return transformers' model of a variant, with random weights, biases and gains of norms."""
    generator = torch.Generator().manual_seed(number)
    maker: Any = transformers.AutoModelForCausalLM
    config = make_config(name, number)
    # transformers 5.24 adds the biases of Falcon's scores twice in its plain attention.
    attention = "sdpa" if config.model_type == "falcon" else "eager"
    model = maker.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for path, values in model.named_parameters():
            noise = torch.randn(values.shape, generator=generator)
            if values.ndim > 1:
                is_table = "embed" in path or path.endswith(("wte.weight", "wpe.weight"))
                values.copy_(noise * (0.4 if is_table else model.config.hidden_size**-0.5))
            else:
                values.copy_(noise * 0.3 + (1.0 if path.endswith("weight") else 0.0))
    return model


def old_buffers(model: Any) -> dict[str, torch.Tensor]:
    """What old versions of transformers saved beside the weights of `model`."""
    layers = [path for path in model.state_dict() if ".0." in path]
    prefix = layers[0].split(".0.")[0]
    kind, found = model.config.model_type, {"model.rotary_emb.inv_freq": torch.ones(4)}
    masks = {"gpt2": "attn", "gptj": "attn", "gpt_neo": "attn.attention", "gpt_neox": "attention"}
    if kind in masks:
        found = {
            f"{prefix}.0.{masks[kind]}.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
            f"{prefix}.1.{masks[kind]}.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
            f"{prefix}.0.{masks[kind]}.masked_bias": torch.tensor(-1e9),
        }
    elif kind in ("opt", "bloom"):
        found = {}
    elif kind == "falcon":
        found = {f"{prefix}.0.self_attention.rotary.inv_freq": torch.ones(4)}
    return found


def save(model: Any, folder: Path, number: int) -> Path:
    """Save as safetensors, as a .bin with both heads and old buffers, or without prefix."""
    model.save_pretrained(folder)
    if number % 3 == 0:
        return folder
    tensors = {name: values.clone() for name, values in model.state_dict().items()}
    if number % 3 == 1:
        tensors |= old_buffers(model)
    else:
        prefix = model.base_model_prefix + "."
        tensors = {name.removeprefix(prefix): values for name, values in tensors.items()}
        if model.config.tie_word_embeddings:
            tensors.pop("lm_head.weight", None)
            tensors.pop("embed_out.weight", None)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def add_tokenizer(folder: Path) -> None:
    """Give a checkpoint a tokenizer of the printable characters of ASCII, a token each."""
    letters = ["\u0120", *map(chr, range(ord("!"), VOCAB + ord(" ") - 1))]
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def tokens_of(name: str, number: int) -> NDArray[np.int32]:
    return np.random.default_rng(number).integers(0, VOCAB, ROWS[name].length, np.int32)


@torch.inference_mode()
def reference_logits(model: Any, tokens: NDArray[np.int32]) -> Floats:
    logits: Floats = model(torch.from_numpy(tokens.astype(np.int64))[None]).logits[0].numpy()
    return logits


@torch.inference_mode()
def reference_text(model: Any, prompt: Iterable[int], count: int) -> list[int]:
    """What transformers writes greedily after `prompt`, one token at a time without a cache."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[-count:]


def rounded(model: Any) -> Any:
    """Return `model` with what q8 rounds rounded: all weights, and what they multiply."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(_round(module.weight))
            elif isinstance(module, transformers.pytorch_utils.Conv1D):
                module.weight = torch.nn.Parameter(_round(module.weight.T).T)
            elif isinstance(module, torch.nn.Embedding) and len(module.weight) == VOCAB:
                module.weight = torch.nn.Parameter(_round(module.weight))
                continue
            else:
                continue
            module.register_forward_pre_hook(lambda _, given: (_round(given[0]), *given[1:]))
    return model


def _round(values: torch.Tensor) -> torch.Tensor:
    """To 8 bits, 64 columns with one scale."""
    width = values.shape[-1]
    groups = torch.nn.functional.pad(values, (0, -width % 64)).unflatten(-1, (-1, 64))
    scales = (groups.abs().amax(-1, keepdim=True) / 127).clamp(min=1e-30)
    return ((groups / scales).round() * scales).flatten(-2)[..., :width]


def flat_file(folder: Path, format: str) -> Path:
    target = folder.with_suffix(f".{format}")
    return target if target.exists() else convert(folder, target, format=format)


def largest_error(ours: Floats, expected: Floats) -> float:
    """The largest difference of logits as a part of the largest logit."""
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def usual_error(ours: Floats, expected: Floats) -> float:
    """The root mean square of the differences as a part of the logits' own."""
    centred = expected - expected.mean(axis=1, keepdims=True)
    return float(np.sqrt(np.square(ours - expected).mean() / np.square(centred).mean()))


# column -> (weights, cache, device, how the error is measured)
COLUMNS: Mapping[str, tuple[str, str, str, Any]] = {
    "f32": ("f32", "f32", "cpu", largest_error),
    "cache f16": ("f32", "f16", "cpu", usual_error),
    "cache q8": ("f32", "q8", "cpu", usual_error),
    "q8": ("q8", "f32", "cpu", usual_error),
    "q4": ("q4", "f32", "cpu", usual_error),
}


def logits_of(folder: Path, column: str, tokens: NDArray[np.int32]) -> Floats:
    format, cache, device, _ = COLUMNS[column]
    path = flat_file(folder, format)
    return pythia_rt.Model.load(path, threads=1, kv_format=cache, device=device).logits(tokens)


def device_error(folder: Path, tokens: NDArray[np.int32]) -> float:
    """The largest difference between the emulated CUDA device and the CPU: 0 for equal bits."""
    from backends import _emulated

    from pythia_rt import devices
    from pythia_rt import model as api

    path, own = flat_file(folder, "q4"), api._core
    expected = pythia_rt.Model.load(path).logits(tokens)
    try:
        vars(api)["_core"] = vars(devices)["_core"] = _emulated
        found = pythia_rt.Model.load(path, device="cuda").logits(tokens)
    finally:
        vars(api)["_core"] = vars(devices)["_core"] = own
    return float(np.abs(found - expected).max())


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # none of them has a tokenizer
    print("| family | checkpoints |", " | ".join(COLUMNS), "| CUDA emulated |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name in ROWS:
        worst = dict.fromkeys([*COLUMNS, "cuda"], 0.0)
        for number in range(len(ROWS[name].variants)):
            with tempfile.TemporaryDirectory() as temporary:
                model = make_model(name, number)
                folder = save(model, Path(temporary) / "tiny", number)
                tokens = tokens_of(name, number)
                expected = reference_logits(model, tokens)
                for column, (_, _, _, measure) in COLUMNS.items():
                    error = measure(logits_of(folder, column, tokens), expected)
                    worst[column] = max(worst[column], error)
                worst["cuda"] = max(worst["cuda"], device_error(folder, tokens[:60]))
        errors = " | ".join(f"{error:.1e}" for error in worst.values())
        print(f"| {name} | {len(ROWS[name].variants)} | {errors} |", flush=True)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))  # of bench, for backends.py
    from bench.peers.quiet import without_bars

    with without_bars():
        main()
