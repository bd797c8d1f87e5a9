"""Trains a tiny model of a family's shape: python -m bench.train_tiny SHAPE DEST --text FILE...

For measuring what random weights do not show. The tokenizer is the demo model's; the checkpoint is
what transformers saves, in float16.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import trange

from bench import measure

DEMO = Path(__file__).parent.parent / "pythia_rt" / "demo"
VOCABULARY = 4096
WINDOW = 256  # tokens
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 256, "bos_token_id": 0, "eos_token_id": 0}
# LLaMA's: RMS norms, a gate, keys for two heads each. Falcon's: one norm for attention and MLP,
# keys for all heads, no biases, a tied head.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 704,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    },
    "falcon": {
        "model_type": "falcon",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "multi_query": True,
        "parallel_attn": True,
        "new_decoder_architecture": False,
        "alibi": False,
        "bias": False,
        "ffn_hidden_size": 1024,
    },
}


def encode(files: list[Path]) -> torch.Tensor:
    """Return the windows of the texts, int64 [n, WINDOW + 1]: each sees what it is to say."""
    library: Any = transformers  # whose classes have no types
    tokenizer = library.PreTrainedTokenizerFast(tokenizer_file=str(DEMO / "tokenizer.json"))
    ids = [i for file in files for i in tokenizer.encode(file.read_text())]
    starts = range(0, len(ids) - WINDOW, WINDOW)
    return torch.tensor([ids[start : start + WINDOW + 1] for start in starts])


def train(model: Any, windows: torch.Tensor, steps: int, batch: int, rate: float) -> None:
    """Train `model` in place on random windows; the rate rises, then falls along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, (0.9, 0.95), weight_decay=0.1)
    rounds = steps * batch // len(windows) + 1
    order = torch.cat([torch.randperm(len(windows)) for _ in range(rounds)])
    warm = steps // 20 + 1
    mean = math.nan
    for step in (bar := trange(steps)):
        now = rate * min((step + 1) / warm, 0.05 + 0.475 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = now
        tokens = windows[order[step * batch : (step + 1) * batch]]
        with torch.autocast("cpu", torch.bfloat16):  # twice as fast where processors have it
            logits = model(tokens[:, :-1]).logits.float()
        told = tokens[:, 1:].flatten()
        loss: Any = torch.nn.functional.cross_entropy(logits.flatten(0, 1), told)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        bar.set_postfix(loss=f"{mean:.3f}")


def main() -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files of UTF-8")
    parser.add_argument("--begin", type=Path, help="with what this folder holds, not from scratch")
    parser.add_argument("--steps", type=measure.positive, default=1000)
    parser.add_argument("--batch", type=measure.positive, default=8, help="windows a step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=measure.positive, help="default: one per processor")
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    maker: Any = transformers.AutoModelForCausalLM
    if options.begin is None:
        config = transformers.AutoConfig.for_model(**COMMON | SHAPES[options.shape])
        model = maker.from_config(config)
    else:
        model = maker.from_pretrained(options.begin, dtype=torch.float32)
    train(model, encode(options.text), options.steps, options.batch, options.rate)
    model.half().save_pretrained(options.destination)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DEMO / name, options.destination / name)


if __name__ == "__main__":
    main()
