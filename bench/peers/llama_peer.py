"""llama.cpp on a GGUF file of the checkpoint, through the C interface in llama-cpp-python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers import llama
from bench.peers.likelihood import log_likelihoods
from bench.peers.protocol import Reads, Source, Tokens
from bench.studies.weight_bits import gguf_tensors

PACKAGES = ("llama_cpp", "gguf")
FORMATS = ("Q4_0", "Q4_K_M", "Q8_0")
CHUNK = 512  # tokens of a physical batch, llama.cpp's default
ALL_LAYERS = 0x7FFFFFFF  # what llama-cpp-python makes of n_gpu_layers=-1


class LlamaCpp:
    """A Stepper and a Scorer."""

    def __init__(self, source: Source, form: str):
        """Convert, quantise and load the checkpoint."""
        import llama_cpp

        self._lib, self._room, self._threads = llama_cpp, source.room, source.threads
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        on_device = source.device == "cuda"
        if on_device and b"CUDA" not in llama_cpp.llama_print_system_info():
            raise RuntimeError("llama-cpp-python was built without CUDA")
        path = _convert(source.checkpoint, source.folder, form)
        weights = sum(t.bytes for t in gguf_tensors(path) if t.kind != "embedding")
        self.reads = Reads(weights, None)
        parameters = llama_cpp.llama_model_default_params()
        # Said in both cases: a build with CUDA takes devices by itself.
        parameters.n_gpu_layers = ALL_LAYERS if on_device else 0
        if on_device:  # the first one alone; without any this mode is refused
            parameters.split_mode = llama_cpp.LLAMA_SPLIT_MODE_NONE
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self._model:
            raise RuntimeError("llama.cpp could not load the file")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._made: dict[int, Any] = {}  # contexts, by how many sequences run together
        self._context: Any = None
        self._positions: list[int] = []
        self._outputs: list[int] = []  # where in the last batch each sequence's logits are

    def start(self, *prompts: Tokens) -> None:
        """See Runner."""
        self._use(len(prompts))
        self._positions = [0] * len(prompts)
        self._run(prompts)

    def step(self) -> None:
        """See Stepper."""
        rows = [self._logits(i) for i in self._outputs]
        self._run([np.array([row.argmax()], np.int32) for row in rows])

    def score(self, texts: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        """See Scorer."""
        found = []
        for text in texts:
            self._use(1)
            self._positions = [0]
            self._run([text], every=True)
            values = self._lib.llama_get_logits(self._context)
            logits = np.ctypeslib.as_array(values, (len(text), self.vocab_size))
            found.append(log_likelihoods(logits, text, self._threads))
        return found

    def _use(self, sequences: int) -> None:
        """Take the context for so many sequences, empty."""
        if sequences not in self._made:
            parameters = self._lib.llama_context_default_params()
            parameters.n_ctx = parameters.n_batch = sequences * self._room.of(sequences)
            parameters.n_ubatch = CHUNK
            parameters.n_seq_max = sequences
            parameters.n_threads = parameters.n_threads_batch = self._threads
            context = self._lib.llama_init_from_model(self._model, parameters)
            if not context:
                raise RuntimeError("llama.cpp could not make a context")
            self._made[sequences] = context
        self._context = self._made[sequences]
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _run(self, inputs: Sequence[Tokens], *, every: bool = False) -> None:
        """Append tokens to each sequence; logits after its last one, or after `every` one."""
        total = sum(map(len, inputs))
        batch = self._lib.llama_batch_init(total, 0, 1)
        batch.n_tokens = total
        place = 0
        self._outputs = []
        for sequence, tokens in enumerate(inputs):
            for token in tokens.tolist():
                batch.token[place] = token
                batch.pos[place] = self._positions[sequence]
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = every
                self._positions[sequence] += 1
                place += 1
            batch.logits[place - 1] = True
            self._outputs.append(place - 1)
        failed = self._lib.llama_decode(self._context, batch)
        self._lib.llama_batch_free(batch)
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        # Returns before the work is done, unless somebody looks.
        self._lib.llama_synchronize(self._context)

    def _logits(self, place: int) -> NDArray[np.float32]:
        values = self._lib.llama_get_logits_ith(self._context, place)
        return np.ctypeslib.as_array(values, (self.vocab_size,))


def _convert(checkpoint: Path, folder: Path, form: str) -> Path:
    """A GGUF file of `form`; the one of 32-bit floats behind it is written once."""
    from bench.peers.gguf_file import write_gguf

    whole = folder / "f32.gguf"
    if not whole.exists():
        write_gguf(checkpoint, whole)
    path = folder / f"{form}.gguf"
    llama.quantise(whole, path, form)
    return path
