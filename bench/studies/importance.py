"""How much each input of a matrix matters: llama.cpp's "importance matrix", from transformers.

It is the mean square of the input over the tokens of a text. llama.cpp's own program computes the
same, with its own activation function; here it is that of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.gguf_file import gguf_name
from pythia_rt.evaluation.windows import cut


def write_importance(
    folder: Path, destination: Path, tokens: NDArray[np.int32], window: int, threads: int
) -> None:
    """Run the checkpoint over `tokens` and write {GGUF name: mean squares} as a numpy .npz file.

    Raises ImportError without torch and transformers.
    """
    import torch
    import transformers

    torch.set_num_threads(threads)
    maker: Any = transformers.AutoModelForCausalLM  # torch's types hide what this returns
    model = maker.from_pretrained(folder, dtype=torch.float32).eval()
    sums: dict[str, NDArray[np.float64]] = {}

    def add_to(name: str) -> Callable[[Any, Any], None]:
        def add(_: Any, inputs: Any) -> None:
            rows = inputs[0].flatten(0, -2).double()
            sums[name] = sums.get(name, 0.0) + rows.square().sum(0).numpy()

        return add

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(add_to(gguf_name(f"{name}.weight")))
    count = 0
    with torch.inference_mode():
        for part in cut(len(tokens), window, window):
            ids = tokens[part.start : part.stop].astype(np.int64)
            model(torch.from_numpy(ids)[None], use_cache=False)
            count += len(ids)
    means: dict[str, Any] = {name: (s / count).astype(np.float32) for name, s in sums.items()}
    np.savez(destination, **means)
