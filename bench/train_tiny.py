"""Trains a tiny model of a family's shape: python -m bench.train_tiny SHAPE DEST --text FILE...

For measuring what random weights do not show. The tokenizer is the demo model's; the checkpoint is
what transformers saves, in float16. With --teacher, of the same vocabulary, the model begins with
its embedding and learns its distributions: they say more than the one token that came, and a tiny
model comes in a quarter of an hour to where the text alone takes it in hours.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm

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


def copy_embedding(model: Any, teacher: Any) -> None:
    """Begin with what the teacher knows of words: its embedding and, where it is apart, its head.

    A tied head gets the teacher's head, since that is the harder of its two tasks.
    """
    with torch.no_grad():
        if model.config.tie_word_embeddings:
            model.get_output_embeddings().weight.copy_(teacher.get_output_embeddings().weight)
            return
        model.get_input_embeddings().weight.copy_(teacher.get_input_embeddings().weight)
        model.get_output_embeddings().weight.copy_(teacher.get_output_embeddings().weight)


def shares(steps: int, minutes: float | None) -> Iterator[float]:
    """Yield for each step which share of the training lies before it.

    Of the steps, or of so many minutes of processor time.
    """
    if minutes is None:
        yield from (step / steps for step in range(steps))
        return
    begin = time.process_time()
    while (share := (time.process_time() - begin) / (60 * minutes)) < 1:
        yield share


def batches(windows: torch.Tensor, batch: int) -> Iterator[torch.Tensor]:
    """Yield `batch` windows after the other: all, in a new order, before any comes again."""
    while True:
        yield from torch.split(windows[torch.randperm(len(windows))], batch)


def adam(model: Any, rate: float) -> Any:
    """Return the optimizer of a model, which lets its matrices decay and nothing else."""
    matrices = [weights for weights in model.parameters() if weights.ndim > 1]
    vectors = [weights for weights in model.parameters() if weights.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, rate, (0.9, 0.95), weight_decay=0.1, fused=True)


def learn(
    model: Any,
    optimizer: Any,
    rate: float,
    tokens: torch.Tensor,
    teacher: Any | None = None,
    *,
    half: bool = True,
) -> float:
    """Take one step on windows, int64 [n, window + 1]; return the loss before it, in nats.

    `half` multiplies in bfloat16: twice as fast where processors have it, slower in tiny models.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    told = tokens[:, 1:].flatten()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(tokens[:, :-1]).logits.float().flatten(0, 1)
        if teacher is not None:
            with torch.no_grad():
                told = teacher(tokens[:, :-1]).logits.float().flatten(0, 1).softmax(1)
    loss: Any = torch.nn.functional.cross_entropy(logits, told)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.item())


def train(
    model: Any,
    windows: torch.Tensor,
    progress: Iterator[float],
    batch: int,
    rate: float,
    teacher: Any | None,
) -> None:
    """Train `model` in place while `progress` lasts; the rate rises, then falls along a cosine."""
    optimizer = adam(model, rate)
    mean = math.nan
    for share, tokens in (bar := tqdm(zip(progress, batches(windows, batch), strict=False))):
        now = rate * min(share / 0.05 + 0.01, 0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        loss = learn(model, optimizer, now, tokens, teacher)
        mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
        bar.set_postfix(loss=f"{mean:.3f}", done=f"{share:.0%}")


def main() -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="files of UTF-8")
    parser.add_argument("--begin", type=Path, help="with what this folder holds, not from scratch")
    parser.add_argument("--teacher", type=Path, help="a checkpoint to learn from")
    parser.add_argument("--steps", type=measure.positive, default=1000)
    parser.add_argument(
        "--minutes", type=float, help="of processor time: as many steps as they hold, not --steps"
    )
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
    teacher = None
    if options.teacher is not None:
        teacher = maker.from_pretrained(options.teacher, dtype=torch.float32).eval()
        if options.begin is None:
            copy_embedding(model, teacher)
    progress = shares(options.steps, options.minutes)
    train(model, encode(options.text), progress, options.batch, options.rate, teacher)
    model.half().save_pretrained(options.destination)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(DEMO / name, options.destination / name)


if __name__ == "__main__":
    main()
