"""CTranslate2 on a checkpoint that its own converter's loader translates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.protocol import Reads, Source, Tokens

PACKAGES = ("ctranslate2", "torch", "transformers")
FORMATS = ("int8",)


class CTranslate2:
    """A Writer and a Scorer."""

    def __init__(self, source: Source, form: str):
        """Convert and load the checkpoint."""
        import ctranslate2

        folder = source.folder / f"ctranslate2-{form}"
        self._words = _convert(source.checkpoint, folder, form)
        self._generator = ctranslate2.Generator(
            str(folder),
            device="cpu",
            compute_type=form,
            intra_threads=source.threads,
            inter_threads=1,
        )
        self.vocab_size = len(self._words)
        self.reads = Reads(None, None)

    def start(self, *prompts: Tokens) -> None:
        """See Runner."""
        self._generate(prompts, 1)

    def write_seconds(self, prompts: Sequence[Tokens], count: int) -> float:
        """See Writer."""
        moments: dict[int, float] = {}  # the last token of each step

        def note(token: Any) -> bool:
            moments[token.step] = time.perf_counter()
            return False

        self._generate(prompts, count + 1, callback=note)
        if len(moments) != count + 1:
            raise RuntimeError(f"CTranslate2 wrote {len(moments)} tokens, not {count + 1}")
        return max(moments.values()) - min(moments.values())

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """See Scorer."""
        words = [self._text(text) for text in texts]
        scored = self._generator.score_batch(words, max_batch_size=2048, batch_type="tokens")
        return [np.array(result.log_probs, np.float32) for result in scored]

    def _generate(self, prompts: Sequence[Tokens], count: int, **options: Any) -> None:
        self._generator.generate_batch(
            [self._text(prompt) for prompt in prompts],
            min_length=count,
            max_length=count,
            beam_size=1,
            sampling_topk=1,
            include_prompt_in_result=False,
            **options,
        )

    def _text(self, tokens: Tokens) -> list[str]:
        return [self._words[token] for token in tokens]


def _convert(checkpoint: Path, folder: Path, form: str) -> list[str]:
    """Write the converted model; the vocabulary, of made-up words, since no text is needed.

    The loader knows what transformers 4 called things: those names are put back first.
    """
    import torch
    import transformers
    from ctranslate2.converters import transformers as converter

    maker: Any = transformers.AutoModelForCausalLM
    model = maker.from_pretrained(checkpoint, dtype=torch.float32)
    config = model.config
    if not hasattr(config, "rotary_pct"):
        config.rotary_pct = config.rope_parameters["partial_rotary_factor"]
    if not hasattr(model, "embed_out"):
        model.embed_out = model.lm_head
    words = [f"t{number}" for number in range(config.vocab_size)]
    with torch.no_grad():
        spec = converter._MODEL_LOADERS[type(config).__name__].get_model_spec(model)
    spec.register_vocabulary(words)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = words[0]
    spec.validate()
    spec.optimize(quantization=form)
    folder.mkdir()
    spec.save(str(folder))
    return words
