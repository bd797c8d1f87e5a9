"""Model: a checkpoint ready to write text."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.chat.methods import Chatting
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.devices import check_available, make_core_model
from pythia_rt.embedding import Embedding
from pythia_rt.engine.prepare import continue_session
from pythia_rt.generating import Generating
from pythia_rt.insides.methods import Insides
from pythia_rt.loading import Loading, LoadingOptions
from pythia_rt.options import replaced, whole_number_from
from pythia_rt.overflow import first_not_finite, why_not_finite
from pythia_rt.prompt import Prompt, token_ids
from pythia_rt.sampling import Sampling
from pythia_rt.saved_session import SavedSession
from pythia_rt.scoring.methods import Scoring
from pythia_rt.session import Session
from pythia_rt.stream import Stream
from pythia_rt.suggested import suggested_sampling
from pythia_rt.tokenizer import Tokenizer
from pythia_rt.writing import Writing, begin_writing

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.convert.merging import Weighted
    from pythia_rt.insides.basis import Basis

# The largest half is 65504; the bound is that of the weights before they were quantised.
_LARGEST_IN_F16 = 60000.0
DEMO_FOLDER = Path(__file__).parent / "demo"


class Model(Chatting, Embedding, Generating, Insides, Scoring):
    """A model in memory. Made by `from_pretrained`, `load` or `demo`.

    May be used from several Python threads at once: every call has its own key-value cache, and
    the global interpreter lock is released while the model computes.
    """

    def __init__(
        self,
        file: FlatFile,
        loading: Loading | None = None,
        **options: Unpack[LoadingOptions],
    ):
        """Build the model from an open flat file; the constructors named above call this.

        `copy` has no effect here: the file is open, as a copy or not. Raises what `load` does.
        """
        if not isinstance(file, FlatFile):
            kind = type(file).__name__
            raise ValueError(f"a Model is made by Model.load(path), for example, not of a {kind}")
        loading = _available(loading, options)
        self._file = file
        self._read_tokenizer: Tokenizer | None = None
        self._read_basis: Basis | None = None
        # Whoever asks for f32 weights wants exact logits: an f16 cache moves them by 5e-4. And some
        # models have keys or values that halves cannot hold.
        fits = file.kv_bound is None or file.kv_bound < _LARGEST_IN_F16
        natural = "f16" if fits and set(file.formats.values()) != {"f32"} else "f32"
        self._kv_format = loading.kv_format or natural
        self._core = make_core_model(file, loading)

    # Read when it is first needed: that takes longer than all the rest of loading. Two threads may
    # both do it: the lock of functools.cached_property hangs in a child that is forked meanwhile.
    @property
    def _tokenizer(self) -> Tokenizer | None:
        if self._read_tokenizer is None and self._file.tokenizer is not None:
            self._read_tokenizer = Tokenizer(self._file.tokenizer, self._file.text)
        return self._read_tokenizer

    # Made when somebody first looks inside, and likewise without a lock. The core is told then what
    # it leaves out of keys and values, before a pass has scores that anybody sees.
    @property
    def _basis(self) -> Basis:
        if self._read_basis is None:
            from pythia_rt.insides.basis import Basis  # few need it

            basis = Basis(self._file)
            self._core.set_left_out(*basis.left_out())
            self._read_basis = basis
        return self._read_basis

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        loading: Loading | None = None,
        *,
        revision: str | None = None,
        step: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        format: str = "q4",
        local_files_only: bool = False,
        keep_source: bool = True,
        progress: bool = True,
        adapters: Sequence[Weighted] = (),
        **options: Unpack[LoadingOptions],
    ) -> Model:
        """Load a Hugging Face checkpoint, a hub id or a local folder, or a GGUF file.

        Downloads only the files it needs, converts them to a flat file of `format` and keeps that
        in the cache (`cache_dir`, else $PYTHIA_RT_CACHE, else ~/.cache/pythia_rt), so the next
        call loads at once. With `local_files_only` nothing is downloaded. `step` is short for the
        revision step{N} of a training, or for that folder of a local one. Without `keep_source` the
        downloaded weights are deleted when the flat file is there. `adapters` are merged
        into the weights, folders or pairs (folder, weight): see `pythia_rt.convert.convert`.

        Options are the fields of `Loading` (threads, kv_format, copy, device, gpu_layers), which
        says what they do; they replace those of `loading`.

        Raises CheckpointError for a checkpoint that cannot be converted, ValueError for a bad
        argument, OSError for files that cannot be fetched, read or written, MemoryError where there
        is no room for a copy or on the device, RuntimeError where the device cannot be used.
        """
        from pythia_rt.cache import open_checkpoint  # a flat file needs none of it

        besides = (
            *("revision", "step", "cache_dir", "format", "local_files_only", "keep_source"),
            *("progress", "adapters"),
        )
        loading = _available(loading, options, besides)  # before minutes of conversion
        if not Path(name_or_folder).expanduser().exists():
            from pythia_rt.convert.source.steps import chosen
            from pythia_rt.suites.known import warn_if_wrong

            # Before gigabytes come.
            warn_if_wrong(os.fspath(name_or_folder), chosen(revision, step) or "main")
        file = open_checkpoint(
            os.fspath(name_or_folder),
            revision=revision,
            step=step,
            cache_dir=cache_dir,
            format=format,
            keep_source=keep_source,
            threads=loading.threads,
            local_files_only=local_files_only,
            progress=progress,
            copy=loading.copy,
            adapters=adapters,
        )
        model = cls(file, loading)
        _ = model.tokenizer  # a checkpoint whose tokenizer is damaged is refused here
        return model

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        loading: Loading | None = None,
        **options: Unpack[LoadingOptions],
    ) -> Model:
        """Load a flat file; the options are those of `from_pretrained`.

        Raises FlatFileError if it is not one, OSError if it cannot be read, MemoryError if there is
        no room for a copy or on the device, RuntimeError where the device cannot be used,
        ValueError for a bad argument.
        """
        loading = _available(loading, options)  # before gigabytes are copied
        return cls(FlatFile(Path(path).expanduser(), copy=loading.copy), loading)

    @classmethod
    def demo(
        cls,
        loading: Loading | None = None,
        *,
        format: str = "q4",
        cache_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[LoadingOptions],
    ) -> Model:
        """Load the bundled demo model, a small GPT-NeoX trained on technical English.

        It is converted on first use and cached as in `from_pretrained`. If the cache cannot be
        written, it is converted in a temporary folder, with a warning.
        """
        loading = _available(loading, options, ("format", "cache_dir"))

        def load(cache: str | os.PathLike[str] | None) -> Model:
            return cls.from_pretrained(
                DEMO_FOLDER, loading, format=format, cache_dir=cache, progress=False
            )

        try:
            return load(cache_dir)
        except OSError as error:
            warnings.warn(
                f"the demo model is converted anew in a temporary folder, since the cache cannot "
                f"be written ({error}): set PYTHIA_RT_CACHE to a folder that can",
                stacklevel=2,
            )
        # The mapping outlives the folder, so nothing is left behind on the disk.
        with tempfile.TemporaryDirectory(prefix="pythia_rt-") as temporary:
            return load(temporary)

    @property
    def spec(self) -> dict[str, Any]:
        """What the model is made of: the flat file's spec.

        `_core.spec_fields()` says what its keys mean.
        """
        return dict(self._file.spec)

    @property
    def formats(self) -> dict[str, str]:
        """The weight format of each linear layer, by name."""
        return dict(self._file.formats)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The model's tokenizer; None if its checkpoint had none."""
        return self._tokenizer

    @property
    def suggested_sampling(self) -> Sampling:
        """What the model's authors suggest, for `model.generate(prompt, model.suggested_sampling)`.

        It is never used unless it is asked for. The values are those of generation_config.json, our
        defaults where it gives none or one that no option takes; do_sample false is temperature 0.
        """
        return suggested_sampling(self._file.text["sampling"])

    @property
    def max_positions(self) -> int:
        """The model's context: how many tokens fit into one sequence, prompt and new text."""
        return int(self._file.spec["max_positions"])

    @property
    def threads(self) -> int:
        """How many threads compute."""
        return self._core.threads

    @property
    def isa(self) -> str:
        """The instruction set in use: one of `_core.isa_names()`, or "sm_90" of a CUDA device."""
        return self._core.isa

    @property
    def device(self) -> str:
        """ "cpu", or "cuda" where a CUDA device runs all layers or the first `gpu_layers`."""
        return self._core.device

    @property
    def gpu_layers(self) -> int:
        """How many layers, from the first on, run on the CUDA device."""
        return self._core.gpu_layers

    @property
    def kv_format(self) -> str:
        """The number format of the key-value cache: one of `_core.kv_format_names()`."""
        return self._kv_format

    @property
    def file(self) -> FlatFile:
        """The flat file it runs from: metadata, formats and packed tensors."""
        return self._file

    def __repr__(self) -> str:
        about = self._file.metadata
        return f"<pythia_rt.Model of {about['source']} in {about['recipe']}, {self.runs_on}>"

    @property
    def runs_on(self) -> str:
        """What computes, in words: "avx512, 4 threads", or "cuda sm_90, 12 of 24 layers, ..."."""
        processor = f"{self.threads} threads"
        if self.device == "cpu":
            return f"{self.isa}, {processor}"
        layers = int(self._file.spec["n_layers"])
        if self.gpu_layers == layers:
            return f"{self.device} {self.isa}"
        return f"{self.device} {self.isa} for {self.gpu_layers} of {layers} layers, {processor}"

    def weight(self, name: str) -> NDArray[np.float32]:
        """A weight of the checkpoint, dequantised, float32; docs/interpretability.md lists them.

        `name` is ours, as "layers.3.q.weight" [heads, head_dim, hidden_size], or TransformerLens',
        as "blocks.3.attn.W_Q" [heads, hidden_size, head_dim]; layers below 0 count from the end.
        What conversion reordered, scaled and moved is taken back: of a file in f32 it is exactly
        the checkpoint's, and so are gains and biases of a quantised one, whose matrices are as near
        as they were rounded. Files of versions that did not keep biases give them nearly.

        Raises ValueError for a name that the model does not have, with the near ones, and
        MissingBasis for a quantised file that was written before files said what this takes.
        """
        from pythia_rt.insides.weights import Weights

        self.file.check_unchanged()
        return Weights(self.file).get(name)

    def logits(self, tokens: Prompt) -> NDArray[np.float32]:
        """Logits after each of `tokens` (token ids, or a str): float32 [n, vocab_size].

        Rows of the vocabulary beyond the tokenizer's ids are padding and are included here.
        Raises ValueError and RuntimeError as `generate` does.
        """
        ids = self._ids(tokens)
        self._check_length(len(ids))
        logits = self.new_session(len(ids)).logits(ids)
        row = first_not_finite(logits)
        if row is not None:
            raise self._not_finite(ids[: row + 1])
        return logits

    def _write(
        self,
        ids: NDArray[np.int32],
        sampling: Sampling,
        capacity: int | None = None,
        cached: int = 0,
    ) -> Writing:
        """What continues `ids`, of which so many were read before, in a session of `capacity`, by
        default of the whole context."""
        self._check_length(len(ids))
        return begin_writing(
            ids,
            sampling,
            self._file.spec,
            self._tokenizer,
            capacity=self.max_positions if capacity is None else capacity,
            cached=cached,
            not_finite=self._not_finite,
        )

    def _ids(self, prompt: Prompt) -> NDArray[np.int32]:
        # Reading the tokenizer takes longer than many a pass: ids need none.
        tokenizer = self._tokenizer if isinstance(prompt, str) else None
        return token_ids(prompt, tokenizer, self._vocab_size)

    def _continue(
        self,
        session: _core.Session,
        ids: NDArray[np.int32],
        sampling: Sampling,
        capacity: int,
        cached: int,
    ) -> Stream:
        """What continues `ids`, which are in a session, some of them still to be read."""
        return continue_session(self, session, self._write(ids, sampling, capacity, cached))

    def _session_ids(self, text: Prompt, is_first: bool) -> NDArray[np.int32]:
        if is_first or not isinstance(text, str) or self._tokenizer is None:
            return self._ids(text)
        return self._ids(self._tokenizer.encode(text, continues=True))

    @property
    def _vocab_size(self) -> int:
        return int(self._file.spec["vocab_size"])

    def session(self, *, capacity: int | None = None) -> Session:
        """A text that is read, written, taken back and continued bit by bit: see `Session`.

        `capacity` bounds its tokens; the default is the model's context. Memory is taken as tokens
        come. Raises ValueError for a bad argument.
        """
        capacity = self._room(capacity)
        return Session(self.new_session(capacity), self._file, self._session_ids, self._continue)

    def load_session(self, path: str | os.PathLike[str], *, capacity: int | None = None) -> Session:
        """A session that `Session.save` wrote, from this model, as it was.

        Raises SessionFileError where the file is none, is damaged, newer, or of another model;
        OSError where it cannot be read; ValueError where it has more than `capacity` tokens.
        """
        with SavedSession(Path(path).expanduser(), self._file) as saved:
            core = self.new_session(self._room(capacity), kv_format=saved.kv_format)
            saved.restore(core)
            return Session(core, self._file, self._session_ids, self._continue, saved.tokens)

    def _room(self, capacity: int | None) -> int:
        if capacity is None:
            return self.max_positions
        return whole_number_from(1, self.max_positions, "tokens")("capacity", capacity)

    def new_session(self, capacity: int, *, kv_format: str | None = None) -> _core.Session:
        """An empty sequence of the core, with room for `capacity` tokens of key-value cache.

        The cache's format is the model's where `kv_format` names no other.
        """
        self._file.check_unchanged()
        return _core.Session(self._core, capacity=capacity, kv_format=kv_format or self._kv_format)

    def _not_finite(self, tokens: NDArray[np.int32], edited: bool = False) -> RuntimeError:
        return RuntimeError(
            f"the model's logits after token {len(tokens)} are not finite: "
            f"{why_not_finite(self, tokens, edited=edited)}"
        )

    def _check_length(self, n_tokens: int) -> None:
        if n_tokens > self.max_positions:
            raise ValueError(
                f"{n_tokens} tokens do not fit into the context of {self.max_positions}: "
                "shorten the text"
            )


def _available(
    loading: Loading | None, options: LoadingOptions, besides: Sequence[str] = ()
) -> Loading:
    """How to load, all checked: that there is such a device too."""
    chosen = replaced(Loading, loading, options, besides=besides)
    check_available(chosen.device)
    return chosen
