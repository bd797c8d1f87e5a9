"""OpenVINO GenAI on a checkpoint that optimum-intel exports."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.likelihood import log_likelihoods
from bench.peers.protocol import Reads, Source, Tokens

PACKAGES = ("openvino", "openvino_genai")
FORMATS = ("int8", "int4")
EXPORT = Path(__file__).parent / "openvino_export.py"
READ_TOGETHER = 4096  # tokens of a pass


class OpenVino:
    """A Stepper, by the engine that batches sequences, and a Scorer, by the plain runtime."""

    def __init__(self, source: Source, form: str):
        """Export and load the checkpoint."""
        import openvino_genai

        self._genai, self._threads = openvino_genai, source.threads
        self._folder = source.folder / f"openvino-{form}"
        _export(source.checkpoint, self._folder, form.removeprefix("int"))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False  # the same prompt is read again and again
        scheduler.max_num_batched_tokens = READ_TOGETHER
        scheduler.max_num_seqs = max(source.room.sequences, 1)
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(self._folder), scheduler, "CPU", self._properties
        )
        self._greedy = openvino_genai.GenerationConfig()
        self._greedy.max_new_tokens = max(source.room.one, source.room.each)
        self._greedy.ignore_eos = True
        self._greedy.do_sample = False
        self._running: list[Any] = []
        weakref.finalize(self, _stop, self._pipeline, self._running)  # it complains otherwise
        self._count = 0
        self.vocab_size = int(self._model.outputs[0].partial_shape[2].get_length())
        self.reads = Reads(None, None)

    def start(self, *prompts: Tokens) -> None:
        """See Runner."""
        _stop(self._pipeline, self._running)
        self._running += [self._request(prompt) for prompt in prompts]
        self._wait()

    def step(self) -> None:
        """See Stepper."""
        self._pipeline.step()
        self._wait()

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """See Scorer."""
        found = []
        for text in texts:
            self._plain.reset_state()
            inputs = {
                "input_ids": text[None].astype(np.int64),
                "attention_mask": np.ones((1, len(text)), np.int64),
                "position_ids": np.arange(len(text))[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            logits = self._plain.infer(inputs, share_inputs=True, share_outputs=True)[0]
            found.append(log_likelihoods(logits[0], text, self._threads))
        return found

    @property
    def _properties(self) -> dict[str, Any]:
        return {"INFERENCE_NUM_THREADS": self._threads}

    @cached_property
    def _model(self) -> Any:
        import openvino

        return openvino.Core().read_model(str(self._folder / "openvino_model.xml"))

    @cached_property
    def _plain(self) -> Any:
        import openvino

        compiled = openvino.Core().compile_model(self._model, "CPU", self._properties)
        return compiled.create_infer_request()

    def _request(self, prompt: Tokens) -> Any:
        import openvino

        self._count += 1
        tensor = openvino.Tensor(prompt[None].astype(np.int64))
        return self._pipeline.add_request(self._count, tensor, self._greedy)

    def _wait(self) -> None:
        """Until every sequence has its next token, which a long prompt needs several passes for."""
        for request in self._running:
            while not request.can_read():
                self._pipeline.step()
            request.read()


def _stop(pipeline: Any, requests: list[Any]) -> None:
    """End the requests, and forget them."""
    for request in requests:
        request.stop()
    requests.clear()
    while pipeline.has_non_finished_requests():
        pipeline.step()


def _export(checkpoint: Path, folder: Path, bits: str) -> None:
    """In a process of its own, by another Python where OPTIMUM_PYTHON names one."""
    command = [os.environ.get("OPTIMUM_PYTHON", sys.executable), EXPORT, checkpoint, folder, bits]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"optimum-intel could not export it: {''.join(last)}")
