"""transformers on a checkpoint folder, with torch's fused attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.protocol import Reads, Source, Tokens
from bench.peers.quiet import without_bars

PACKAGES = ("torch", "transformers")
FORMATS = ("float32", "bfloat16")
TOGETHER = 8  # texts of a batch to score: more need GBs of logits


class Transformers:
    """A Stepper and a Scorer."""

    def __init__(self, source: Source, form: str):
        """Load the checkpoint in `form`."""
        import torch
        import transformers

        self._torch = torch
        torch.set_num_threads(source.threads)
        maker: Any = transformers.AutoModelForCausalLM  # torch's types hide what this returns
        with without_bars():
            self._model = maker.from_pretrained(source.checkpoint, **self.options(form)).eval()
        self._device = self._model.device
        self.vocab_size: int = self._model.config.vocab_size
        self.reads = Reads(self._weight_bytes(), None)
        self._output: Any = None

    def options(self, form: str) -> dict[str, Any]:
        """What from_pretrained is to be told; here `form` is torch's name of a type."""
        import torch

        return {"dtype": getattr(torch, form), "attn_implementation": "sdpa"}

    def start(self, *prompts: Tokens) -> None:
        """See Runner."""
        self._forward(self._tensor(prompts), None)

    def step(self) -> None:
        """See Stepper."""
        token = self._output.logits[:, -1].argmax(-1, keepdim=True)
        self._forward(token, self._output.past_key_values)

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """See Scorer."""
        found: list[NDArray[np.float32]] = []
        for first in range(0, len(texts), TOGETHER):
            ids = self._tensor(texts[first : first + TOGETHER])
            with self._torch.inference_mode():
                logits = self._model(ids, use_cache=False).logits[:, :-1].float()
                scores = self._torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])
            found += list(scores[..., 0].cpu().numpy())
        return found

    def _tensor(self, prompts: Sequence[Tokens]) -> Any:
        return self._torch.from_numpy(np.stack(prompts).astype(np.int64)).to(self._device)

    def _forward(self, ids: Any, past: Any) -> None:
        with self._torch.inference_mode():
            self._output = self._model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        if self._device.type == "cuda":  # which has only been told what to do
            self._torch.cuda.synchronize()

    def _weight_bytes(self) -> int:
        """All parameters, but the embedding only if it is the head too."""
        embedding = self._model.get_input_embeddings().weight
        tied = embedding is self._model.get_output_embeddings().weight
        return sum(_bytes(p) for p in self._model.parameters() if tied or p is not embedding)


def _bytes(parameter: Any) -> int:
    """With the scales of bitsandbytes' 4 bits; those of 8 bits are one for a whole row."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.nbytes + (0 if state is None else state.absmax.nbytes))
