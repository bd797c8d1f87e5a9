"""Trains the suite of steps that tests and documents use: python -m bench.train_suite DEST

A GPT-NeoX of three layers of width 64, two heads in each, saved in float16 as DEST/step{N} at steps
that double. It sees three kinds of windows: technical.txt; three phrases of random tokens in any
order, which only what came before foretells, so that induction heads form; and made-up sentences in
which one of two people gives something to the other, who must be named. As in Pythia's training the
rate begins with 0, so step1 is step0.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from bench import measure
from bench.train_tiny import adam, learn

TEXT = Path(__file__).parent.parent / "tests" / "data" / "technical.txt"
TRAINED_ON = 110_000  # characters of it; the rest is for measuring
VOCABULARY = 640
WINDOW = 128  # tokens
LENGTHS = (4, 8, 32)  # tokens of what is repeated, at most
REPEATED = range(512, VOCABULARY)  # the tokens that it is made of
LAST = 2048
STEPS = (0, *(2**n for n in range(12)))
FALL = 4096  # steps after which the rate would have fallen to a tenth
WARM_UP = 64  # steps
BEFORE = 6.0  # sizes of biases, see look_back
END = "<|endoftext|>"
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 256,
    "max_position_embeddings": 256,
    "initializer_range": 0.08,  # sqrt(2 / (5 * width)), as for Pythia
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # Of 32 dimensions 8 are rotated, by angles from 1 to 0.03: windows are short.
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 100.0,
        "partial_rotary_factor": 0.25,
    },
}
NAMES = [
    "Anna", "Ben", "Carl", "Dora", "Eva", "Fred", "Gina", "Hugo", "Ivan", "Jane", "Karl", "Lisa",
]  # fmt: skip
PLACES = ["park", "shop", "school", "office", "garden", "house", "station", "library"]
THINGS = ["book", "ball", "letter", "key", "apple", "map", "cup", "coin"]
ENDINGS = (
    "When {a} and {b} went to the {place}, {c} gave a {thing} to {d}.",
    "Then {a} and {b} had a {thing} at the {place}. {c} gave it to {d}.",
    "After {a} and {b} left the {place}, {c} showed the {thing} to {d}.",
)


def sentence(dice: random.Random) -> str:
    """Return a sentence about two people, whose last word is the one who did not act."""
    a, b = dice.sample(NAMES, 2)
    c, d = dice.sample([a, b], 2)
    ending = dice.choice(ENDINGS)
    return ending.format(a=a, b=b, c=c, d=d, place=dice.choice(PLACES), thing=dice.choice(THINGS))


def train_tokenizer(text: str, dice: random.Random) -> Any:
    """Return a byte-level tokenizer of the text's and the sentences' words."""
    library: Any = tokenizers
    tokenizer = library.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text, *(" " + sentence(dice) for _ in range(4000))], trainer)
    return tokenizer


def windows(tokenizer: Any, text: str, dice: random.Random) -> Iterator[list[int]]:
    """Yield windows of WINDOW + 1 tokens: of eight one of text, two of sentences, five repeated."""
    ids = tokenizer.encode(text).ids
    while True:
        start = dice.randrange(len(ids) - WINDOW)
        yield ids[start : start + WINDOW + 1]
        for _ in range(2):
            told: list[int] = []
            while len(told) <= WINDOW:
                told += tokenizer.encode(" " + sentence(dice)).ids
            yield told[: WINDOW + 1]
        for _ in range(5):
            longest = dice.choice(LENGTHS)
            phrases = [
                [dice.choice(REPEATED) for _ in range(dice.randint(2, longest))] for _ in range(3)
            ]
            again: list[int] = []
            while len(again) <= WINDOW:
                again += dice.choice(phrases)
            yield again[: WINDOW + 1]


def rate_at(step: int, rate: float) -> float:
    """Return the rate of the step that follows `step` earlier ones: up from 0, then a cosine."""
    if step < WARM_UP:
        return rate * step / WARM_UP
    share = (step - WARM_UP) / (FALL - WARM_UP)
    return rate * (0.1 + 0.45 * (1 + math.cos(math.pi * share)))


def look_back(model: Any) -> None:
    """Have one head of the first layer begin by looking at the token before, by its biases.

    Most of the steps would otherwise go by until one does, which induction heads wait for.
    """
    attention = model.gpt_neox.layers[0].attention
    size = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
    turned = int(size * SHAPE["rope_parameters"]["partial_rotary_factor"])
    half = torch.arange(turned // 2)
    angles = SHAPE["rope_parameters"]["rope_theta"] ** (-2 * half / turned)
    with torch.no_grad():
        query, key, _ = attention.query_key_value.bias[: 3 * size].view(3, size)
        query[: turned // 2] = BEFORE
        key[: turned // 2] = BEFORE * torch.cos(angles)
        key[turned // 2 : turned] = BEFORE * torch.sin(angles)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint as the hub holds them, in float16."""
    copy: Any = transformers.GPTNeoXForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def main() -> None:
    """Parse the command line, train, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("destination", type=Path, help="the folder to make")
    parser.add_argument("--batch", type=measure.positive, default=16, help="windows a step")
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=measure.positive, default=LAST, help="fewer, to try it")
    parser.add_argument("--threads", type=measure.positive, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    dice = random.Random(options.seed)
    text = TEXT.read_text()[:TRAINED_ON]
    tokenizer = train_tokenizer(text, dice)
    model: Any = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**SHAPE))
    look_back(model)
    optimizer = adam(model, options.rate)
    optimizer.param_groups[0]["weight_decay"] = 0.01  # the rate is high, the training short
    drawn = windows(tokenizer, text, dice)
    for step in (bar := tqdm(range(options.steps + 1))):
        if step in STEPS:
            save(model, tokenizer, options.destination / f"step{step}")
        if step < options.steps:
            batch = torch.tensor([next(drawn) for _ in range(options.batch)])
            loss = learn(model, optimizer, rate_at(step, options.rate), batch, half=False)
            bar.set_postfix(loss=f"{loss:.3f}")


if __name__ == "__main__":
    main()
