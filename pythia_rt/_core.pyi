"""
The C++ core of pythia_rt: packing, the decoder, the sampler.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions

__all__: list[str] = [
    "Draft",
    "Edits",
    "Judged",
    "Layer",
    "Linear",
    "MappedRange",
    "Model",
    "Norm",
    "PAGE_POSITIONS",
    "Pace",
    "Prefixes",
    "SUM_ROWS",
    "Sampler",
    "SamplingOption",
    "Session",
    "SpecField",
    "Table",
    "Wake",
    "Writer",
    "Written",
    "add_up",
    "bits_per_weight",
    "cuda_device_name",
    "cuda_unavailable",
    "default_threads",
    "divergence",
    "divergence_from_shares",
    "encode",
    "feed_back",
    "fit_scales",
    "format_names",
    "forward",
    "isa_names",
    "judge",
    "kv_format_names",
    "levels",
    "linears",
    "lookup_draft",
    "model_draft",
    "norms",
    "pack",
    "pack_codes",
    "packed_layout",
    "run",
    "sampling_options",
    "score",
    "selected_isa",
    "spec_fields",
    "tables",
    "token_stats",
    "top",
    "unpack",
    "validate_spec",
    "write",
]

class MappedRange:
    """
    Keeps a read of a mapped file that was cut short from ending the process.
    """
    def __init__(self, buffer: typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]) -> None:
        """
        The buffer's memory, which must outlive this. Missing pages of it read as zeros.
        """
    @property
    def is_damaged(self) -> bool:
        """
        Whether a page was missing when it was read.
        """

class SpecField:
    """
    What may stand in a field of a spec.
    """
    @property
    def choices(self) -> list[str]:
        """
        All values, where only a few are known.
        """
    @property
    def least(self) -> float:
        """
        The least whole number; a number is larger. 0 where the type is neither.
        """
    @property
    def most(self) -> float:
        """
        The largest whole number; a number is smaller.
        """
    @property
    def name(self) -> str:
        """
        Its key.
        """
    @property
    def type(self) -> str:
        """
        As in an annotation: 'str', 'int', 'list[int]', 'float' or 'bool'.
        """
    @property
    def what(self) -> str:
        """
        What it says of a model, in a few words.
        """

class Norm:
    """
    A norm of a model.
    """
    @property
    def bias(self) -> bool:
        """
        Whether a vector is added; all have one that they multiply by.
        """
    @property
    def layer(self) -> int:
        """
        -1 outside of the layers.
        """
    @property
    def name(self) -> str:
        """
        In the flat file, before its vectors' names.
        """
    @property
    def role(self) -> str:
        """
        Its name in its layer.
        """
    @property
    def size(self) -> int:
        """
        Entries of its vectors.
        """

class Linear:
    """
    A weight matrix of a model; the embedding is one, row by token.
    """
    @property
    def bias(self) -> bool:
        """
        Whether a vector of `rows` entries is added.
        """
    @property
    def columns(self) -> int:
        """
        Its inputs.
        """
    @property
    def component(self) -> str:
        """
        The component of the model, for which a recipe may choose a format.
        """
    @property
    def layer(self) -> int:
        """
        -1 outside of the layers.
        """
    @property
    def name(self) -> str:
        """
        In the flat file, before its parts' names.
        """
    @property
    def reads(self) -> str:
        """
        The norm or matrix whose result it multiplies, maybe through attention or
        the activation; '' where a token chooses its row.
        """
    @property
    def role(self) -> str:
        """
        Its name in its layer.
        """
    @property
    def rows(self) -> int:
        """
        Its outputs.
        """

class Table:
    """
    A matrix of f32 that is looked up, not multiplied, stored row by row.
    """
    @property
    def columns(self) -> int:
        """
        Entries of a row.
        """
    @property
    def name(self) -> str:
        """
        In the flat file.
        """
    @property
    def rows(self) -> int:
        """
        A vector has one.
        """
    @property
    def shared(self) -> bool:
        """
        Whether every layer reads it; such a
        table follows from the config alone.
        """

class SamplingOption:
    """
    What an option of a Sampler that is a number may be.
    """
    @property
    def least(self) -> int | float:
        """
        An int where only whole numbers may be.
        """
    @property
    def most(self) -> int | float:
        """
        It and `least` are allowed.
        """
    @property
    def name(self) -> str:
        """
        Its keyword.
        """
    @property
    def range(self) -> str:
        """
        Both in words, after "must be".
        """

class Sampler:
    """
    Chooses tokens from logits; the same seed gives the same tokens.
    """
    def __init__(
        self,
        *,
        n_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: collections.abc.Mapping[int, float] = {},
        seed: int = 0,
    ) -> None:
        """
        Raises ValueError that names the first option out of its range.
        """
    def accept_prompt(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32]) -> None:
        """
        Adds prompt tokens [n] to what the repetition penalty has seen.
        """
    def allow(self, mask: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32]) -> None:
        """
        Has the next call of sample, whether it fails or not, draw only ids whose bit is set:
        bit i % 32 of word i // 32 of the mask [ceil(n_tokens / 32)] for the id i.
        """
    def sample(self, logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32]) -> int:
        """
        Draws a token from logits [vocab_size] and remembers it.
        """

class Model:
    """
    Weights, bound to a processor. Many threads may share one.
    """
    def __init__(
        self,
        spec: dict[str, typing.Any],
        formats: collections.abc.Mapping[str, str],
        tensors: collections.abc.Mapping[
            str, typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]
        ],
        *,
        threads: int = 0,
        device: str = "cpu",
        gpu_layers: int | None = None,
    ) -> None:
        """
        Checks that `tensors` (name to buffer, kept alive) are what `spec` asks for.

        0 threads: as many as default_threads(). On the device 'cuda' the weights are copied to
        it, or those of the first `gpu_layers` layers. Raises ValueError that names what is
        wrong, RuntimeError where there is no such device, MemoryError where it has no room.
        """
    def set_left_out(
        self,
        keys: collections.abc.Mapping[int, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]],
        values: collections.abc.Mapping[
            int, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]
        ],
    ) -> None:
        """
        Tells what the model leaves out of keys and values by layer, float32 [n_kv_heads *
        head_dim], of all that it leaves out. Scores that are seen or edited have the keys'; of
        the values' a row of an edited pattern that does not sum to 1 mixes more or less. No
        other value depends on it. Raises ValueError for another size, RuntimeError in the middle
        of a pass.
        """
    @property
    def bytes_per_token(self) -> int:
        """
        Bytes of weights that decoding one token reads.
        """
    @property
    def cache_budget(self) -> int | None:
        """
        Bytes that they may have; None for what there is. Who needs more gets a MemoryError.
        """
    @cache_budget.setter
    def cache_budget(self, arg1: int | None) -> None: ...
    @property
    def cache_bytes(self) -> int:
        """
        Bytes of these pages.
        """
    @property
    def cache_pages(self) -> int:
        """
        Pages of 128 positions that the caches of its sessions hold, shared ones once.
        """
    @property
    def device(self) -> str:
        """
        'cpu', or 'cuda' where that has all layers or the first ones.
        """
    @property
    def gpu_layers(self) -> int:
        """
        How many layers, from the first on, the device 'cuda' runs.
        """
    @property
    def isa(self) -> str:
        """
        Instruction set that runs it, of the device that has its first layers.
        """
    @property
    def points(self) -> list[tuple[str, bool, int]]:
        """
        What run() can see: (name, whether each layer has one, values of a token, or -1 where these
        are [n_heads, keys]).
        """
    @property
    def spec(self) -> dict[str, typing.Any]:
        """
        The spec it was made from.
        """
    @property
    def threads(self) -> int:
        """
        Threads that a pass uses.
        """

class Session:
    """
    One sequence: its cache, and the logits after its last token.
    """
    def __init__(self, model: Model, *, capacity: int = 0, kv_format: str = "f16") -> None:
        """
        Room for `capacity` tokens (0: the model's context), cached in one of
        kv_format_names().
        """
    def append(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32]) -> None:
        """
        Appends tokens [n], which wait for a pass: see write() of the module.
        """
    def append_page(
        self, bytes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8], count: int
    ) -> None:
        """
        Becomes `count` tokens longer by a page that a session which had come as far has read.
        """
    def fork(self) -> Session:
        """
        Another session that has come as far. Both share the pages of their caches until one
        writes into a page.
        """
    def logits(
        self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32]
    ) -> numpy.typing.NDArray[numpy.float32]:
        """
        Appends tokens [n]; returns the logits [n, vocab_size] after each.
        """
    def prefill(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32]) -> None:
        """
        Appends tokens [n]; the logits after the last one are kept.
        """
    def read_page(self, index: int) -> numpy.typing.NDArray[numpy.uint8]:
        """
        The bytes of a page: [layer][head][keys | values | key scales | value scales], zero
        where there is no position yet.
        """
    def rewind(self, position: int) -> None:
        """
        Forgets everything after the first `position` tokens.
        """
    def run(self) -> None:
        """
        Runs the tokens that wait; the logits after the last one are kept.
        """
    def step(self, sampler: Sampler) -> tuple[int, float]:
        """
        Samples the next token: (id, log-probability under the model's raw distribution).

        Raises ValueError when there are no logits yet or no room is left.
        """
    @property
    def capacity(self) -> int:
        """
        Tokens that it has room for.
        """
    @property
    def is_ready(self) -> bool:
        """
        Whether the next token can be sampled: nothing waits, and there are logits.
        """
    @property
    def kv_format(self) -> str:
        """
        The number format of its cache.
        """
    @property
    def last_logits(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        A copy of the kept logits [vocab_size].
        """
    @property
    def page_bytes(self) -> int:
        """
        Bytes of one page of its cache.
        """
    @property
    def pages(self) -> int:
        """
        Pages of 128 positions that its cache holds.
        """
    @property
    def position(self) -> int:
        """
        Tokens so far, those that wait for a pass included.
        """
    @property
    def waiting(self) -> int:
        """
        Tokens that wait for a pass.
        """

class Edits:
    """
    Changes to the values at points of a model, in one text.
    """
    def __init__(
        self, model: Model, items: collections.abc.Sequence[tuple[typing.Any, ...]]
    ) -> None:
        """
        In this order. An item is (point, layer, positions, scale, shift): x becomes
        scale * x + shift, float32 [width] both, and shift also [positions, width]; where the
        scale is 0 nothing is left of x. Or (point, layer, positions, function):
        function(rows, positions) is called in each pass for the text's rows, float32
        [n, width], writable, at positions int64 [n], and changes them in place; what it
        raises stops the run.

        The layer is -1 for a point in none. `positions` of the text, int64, increase; None:
        all of them. Raises ValueError for what the model does not have and what does not fit.
        """

class Draft:
    """
    Guesses what comes next in one text, which it never changes.
    """

class Judged:
    """
    Tokens [n] and how likely the model finds them, before any sampling step.
    """
    @property
    def logprobs(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        float32 [n].
        """
    @property
    def tokens(self) -> numpy.typing.NDArray[numpy.int32]: ...
    @property
    def top_ids(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        The likeliest in each one's place, the likeliest first: int32 [n, top].
        """
    @property
    def top_logprobs(self) -> numpy.typing.NDArray[numpy.float32]:
        """
        Theirs: float32 [n, top].
        """

class Written(Judged):
    """
    New tokens, and how many guesses led to them.
    """
    @property
    def accepted(self) -> int:
        """
        Those of them that were right.
        """
    @property
    def proposed(self) -> int:
        """
        Tokens that the draft proposed.
        """

class Pace:
    """
    What passes take here, as measured, and how many rows of prompts fit into one.
    """
    def __init__(self, seconds: float | None = None) -> None:
        """
        `seconds` between two tokens of a text while prompts are read; None: 1.6 times what a
        pass without prompts takes, at least 0.01. Infinity: prompts fill every pass.
        """

class Wake:
    """
    Ends write() after the pass at hand.
    """
    def __init__(self) -> None: ...
    def set(self) -> None:
        """
        From any thread.
        """

class Writer:
    """
    A text that is being written: see write() of the module.
    """
    def __init__(
        self,
        session: typing.Any,
        sampler: typing.Any,
        *,
        max_tokens: int,
        end_ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] = ...,
        watch: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32] | None = None,
        top: int = 0,
        echo: bool = False,
        draft: typing.Any = None,
        hook: typing.Any = None,
        edits: typing.Any = None,
        after: Writer | None = None,
    ) -> None:
        """
        Continues what is in the session and waits there, with at most max_tokens tokens, 0 to
        read only, up to one of end_ids.

        `watch`, uint32 [vocab_size / 32], has a bit for each id after which write() is to
        return. `top` likeliest tokens are named at each place; with `echo` also at those of
        the tokens that wait. A hook has the flags `masks` and `changes`, which say whether
        allowed() -> uint32 bits or None and change(logits) are called before each token, and
        accept(token), called after it; what it raises ends this text alone. `edits` are Edits, made
        in all passes of this text; what they raise ends it likewise, but a pass with guesses is
        taken back first, and the next one has none. `after` is the writer that has read what is in
        the session, or in the one it is a fork of, with the same edits: those of scores and
        patterns know of it what they have to.
        """
    def take(self) -> Written:
        """
        What was written since the last call.
        """
    def take_echo(self) -> Judged:
        """
        What was read since the last call, but for the first token.
        """
    @property
    def error(self) -> typing.Any:
        """
        What made it fail, an exception; or None.
        """
    @property
    def has_ended(self) -> bool:
        """
        It has all its tokens, has written one of end_ids, or has failed.
        """
    @property
    def n_tokens(self) -> int:
        """
        Tokens that it has written.
        """

class Prefixes:
    """
    Pages of what sessions have read, by its tokens. Sessions whose tokens begin alike
    share them. Many threads may use one.
    """
    def __init__(self, model: Model, kv_format: str, budget_bytes: int) -> None:
        """
        For caches in one of kv_format_names(). Holds pages of so many bytes, each counted once;
        beyond that the least recently used are dropped.
        """
    def adopt(
        self,
        session: Session,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        namespace: bytes = b"",
    ) -> int:
        """
        An empty session becomes as long as the longest known beginning of the tokens [n], n - 1
        at most: what is after it is to be appended. Returns how long.

        Pages are shared until the session writes into them; the bits are those of reading the
        tokens. Raises ValueError for a session that is not empty, or of another model.
        """
    def clear(self) -> None:
        """
        Drops all.
        """
    def drop(self, bytes: int) -> int:
        """
        Drops pages of so many bytes, first those that no session holds, the least recently used
        first. Returns the bytes that it no longer holds: 0 if it had none.
        """
    def keep(
        self,
        session: Session,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        namespace: bytes = b"",
    ) -> None:
        """
        Remembers the session's pages of its first tokens [n], or of those of them that its
        cache has, which must be the session's.
        """
    @property
    def bytes(self) -> int:
        """
        Bytes of these pages.
        """
    @property
    def n_pages(self) -> int:
        """
        Pages that it holds.
        """

class Layer:
    """
    One layer of a model, to be run alone.
    """
    def __init__(
        self,
        spec: dict[str, typing.Any],
        formats: collections.abc.Mapping[str, str],
        tensors: collections.abc.Mapping[
            str, typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]
        ],
        *,
        threads: int = 0,
    ) -> None:
        """
        Takes a model's spec, one layer's tensors, whose names lack 'layers.{i}.', and the
        tables that every layer reads.

        Keeps the tensors alive. Raises ValueError that names what is wrong.
        """
    def run(
        self,
        hidden: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
        *,
        capture: bool = False,
    ) -> tuple[numpy.typing.NDArray[numpy.float32], dict[str, numpy.typing.NDArray[numpy.float32]]]:
        """
        What the layer makes of the residual stream [n, hidden_size] of a whole sequence.

        Second, when `capture`: the input [n, columns] of each matrix, by its name.
        """

def add_up(
    source: typing_extensions.Buffer | numpy.typing.NDArray[typing.Any],
    dtype: str,
    gain: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    shift: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    *,
    relative: bool = False,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64] | None,
    numpy.typing.NDArray[numpy.float32],
]:
    """
    Sums over the rows and columns of a row-major matrix W of 'F32', 'F16' or 'BF16'.

    `gain` and `shift` are float32 [columns]. Returns W^2 @ gain, float64 [rows];
    W @ shift likewise, or None; and for each SUM_ROWS rows the sums of W^2 over them,
    float32 [rows / SUM_ROWS, columns]. `relative`: of rows that were divided by the
    first; zeros where that is next to nothing. The order of additions is fixed.
    """

def bits_per_weight(format: str) -> float:
    """
    Stored bits per weight, scales included, padding not.
    """

def cuda_device_name() -> str:
    """
    The CUDA device's name. Raises RuntimeError where there is none.
    """

def cuda_unavailable() -> str:
    """
    Why models cannot run on a CUDA device here, as a sentence without its end; empty if
    they can.
    """

def default_threads() -> int:
    """
    Physical cores that this process may use, its affinity and cgroup quota respected.
    """

def divergence(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    others: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    vocabulary: int,
    *,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
]:
    """
    Of each row of logits to that of `others`, both [n, vocabulary or more]: KL, that of
    `others` to the logits, and Jensen-Shannon of the distributions over the first `vocabulary`
    ids, in nats, float64 [n] each. A logit may be minus infinity; a row with NaN gives NaN.
    """

def divergence_from_shares(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    shares: typing.Annotated[numpy.typing.ArrayLike, numpy.float64],
    *,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.float64],
]:
    """
    The same where `shares` [n, vocab_size], none below 0, are proportional to
    probabilities.
    """

def encode(
    format: str,
    values: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
) -> numpy.typing.NDArray[numpy.uint8]:
    """
    The nearest code of each value, uint8 [rows, columns], given scales of fit_scales.
    """

def feed_back(
    format: str,
    values: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    factor: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    first_scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    units: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.uint8],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
]:
    """
    Quantises a block of columns [rows, at most 64] with error feedback.

    `factor` is the block's part of U, where U'U is the inverse of X'X of the inputs X.
    `first_scales` [rows] and `units` [row_blocks] are as of fit_scales; each scale is
    refitted. Returns codes [rows, columns], scales [rows], and the errors
    [rows, columns]: later columns lose errors @ U[block, later].
    """

def fit_scales(
    format: str,
    values: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    importance: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    threads: int = 0,
) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]:
    """
    Scales [rows, groups of 64 columns] that suit float32 values [rows, columns], rounded to
    what the format stores, and units [row_blocks]. `importance` [columns] weighs the squared
    errors. Quantised formats only: ValueError for others.
    """

def format_names() -> list[str]:
    """
    Names of the weight formats.
    """

def forward(
    sessions: collections.abc.Sequence[Session],
    tokens: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.int32]],
) -> list[numpy.typing.NDArray[numpy.float32]]:
    """
    Appends tokens [n_i] to each session in shared passes; returns each one's logits
    [n_i, vocab_size]. Raises ValueError before anything is appended.
    """

def isa_names() -> list[str]:
    """
    Names of the instruction sets that this processor runs, best first.
    """

def judge(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.bool]]:
    """
    What `score` says of tokens [n] that might each follow a row of logits [vocab_size]:
    their log-probabilities [n] and whether no other is likelier, bool [n].
    """

def kv_format_names() -> list[str]:
    """
    Names of the formats of the KV cache.
    """

def levels(format: str) -> list[int]:
    """
    What each code of a quantised format stands for: value = level * scale.
    """

def linears(spec: dict[str, typing.Any]) -> list[Linear]:
    """
    The weight matrices of a model, in the order of the flat file.
    """

def lookup_draft(
    text: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    predicted: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] = ...,
) -> Draft:
    """
    A draft of what followed the last tokens where they stood before: in `text`, the ids of the
    prompt, in what is written, and in `predicted`.
    """

def model_draft(
    model: Model,
    text: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    *,
    n_tokens: int,
    kv_format: str = "f16",
) -> Draft:
    """
    A draft of what another model finds likeliest after `text`, the ids of the prompt, among the
    first n_tokens ids.
    """

def norms(spec: dict[str, typing.Any]) -> list[Norm]:
    """
    The norms of a model, in the order of the flat file.
    """

def pack(
    format: str,
    source: typing_extensions.Buffer | numpy.typing.NDArray[typing.Any],
    dtype: str,
    rows: int,
    columns: int,
    threads: int = 0,
    *,
    row_factors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    column_factors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
) -> list[numpy.typing.NDArray[numpy.uint8]]:
    """
    Packs a row-major matrix of 'F32', 'F16' or 'BF16' values: the bytes of each part.

    Each value is multiplied by the factor of its column and then of its row, where there are
    any, float32 [columns] and [rows].

    Rows may be packed in chunks whose sizes are multiples of 16, and each part's bytes
    joined. Raises ValueError that names the place of a value that is not finite or too
    large for the format.
    """

def pack_codes(
    format: str,
    codes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8],
    scales: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    units: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
) -> list[numpy.typing.NDArray[numpy.uint8]]:
    """
    Packs codes [rows, columns] with scales and units of fit_scales: the bytes of each
    part, as `pack` gives them.
    """

def packed_layout(format: str, rows: int, columns: int) -> list[tuple[str, str, list[int]]]:
    """
    The stored tensors of a matrix: (part, safetensors type, shape) each, in order.

    Raises ValueError for an unknown format or a shape that cannot be packed.
    """

def run(
    sessions: collections.abc.Sequence[Session],
    tokens: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.int32]],
    *,
    capture: collections.abc.Sequence[tuple[str, int]] = [],
    positions: collections.abc.Sequence[
        typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None
    ]
    | None = None,
    edits: collections.abc.Sequence[typing.Any] | None = None,
    logits: str = "all",
    first_layer: int = 0,
    residuals: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32]]
    | None = None,
    layers: collections.abc.Sequence[int] | None = None,
    end_layer: int | None = None,
    half: bool = False,
    sink: typing.Any = None,
    targets: collections.abc.Sequence[
        tuple[
            typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
            typing.Annotated[numpy.typing.ArrayLike, numpy.int64],
        ]
    ]
    | None = None,
) -> tuple[typing.Any, list[typing.Any]]:
    """
    Appends tokens [n_i] to each session in shared passes, and looks inside: returns the logits
    and what is at each place of `capture`, [wanted tokens of all sessions, width].

    A place is a point's name (Model.points) and its layer, -1 for a point in none. Captured is
    what the passes go on with, after edits; in float32 or, with `half`, in float16, where what
    is too large is infinite. `positions` are of each session the indices of the wanted tokens
    among its `tokens`, int64 that increase, or None for all. With a `sink` nothing is returned:
    sink(index in `capture`, number of the session, positions int64 [n] in it, rows [n, width])
    is called in each pass.

    `edits` are of each session Edits or None. The logits are 'all', a list of [n_i, vocab_size],
    'last', of [1, vocab_size], or 'none': None, and then the final norm runs only if it is
    captured, the head does not, and no logits are kept. The layers that run are those from
    `first_layer` on, up to and without `end_layer`, or `layers` in their order; they begin with
    `residuals` [n_i, hidden_size] of each session, if there are any, instead of the embedding.
    Such a session goes on with the same layers only.

    'scores' and 'pattern' of sessions that were empty are lists, [n_heads, wanted tokens, keys]
    of each session, or in a sink [n_heads, n, keys so far]. Besides points there is
    ('attention_to', layer), float32 [n_heads, tokens of all sessions]: how much of the pattern
    is on `targets`, of each session (starts int64 [n_i + 1], keys int64), where query j is
    asked about the positions keys[starts[j] : starts[j + 1]]. Scores have what the model
    leaves out of keys (Model.set_left_out).

    Raises ValueError before anything is appended, and what edits and the sink raise, which
    stops the run.
    """

def sampling_options() -> list[SamplingOption]:
    """
    The options of a Sampler that are numbers, but for the seed.
    """

def score(
    sessions: collections.abc.Sequence[Session],
    tokens: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.int32]],
    *,
    run_last: bool = True,
) -> list[tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.bool]]]:
    """
    Appends tokens [n_i] to each session in shared passes; returns the log-probability
    [n_i - 1] of each one's tokens but the first, under the model's raw distribution, and
    whether no other was likelier, bool [n_i - 1].

    Without `run_last` the last token is judged all the same, but not appended. The logits are
    not kept. Raises ValueError before anything is appended.
    """

def selected_isa() -> str:
    """
    Name of the instruction set that a new model will use: PYTHIA_RT_ISA, or the best one.

    Raises ValueError, listing the names, where PYTHIA_RT_ISA names none that runs here.
    """

def spec_fields() -> list[SpecField]:
    """
    The fields of a spec, in order.
    """

def tables(spec: dict[str, typing.Any]) -> list[Table]:
    """
    The tables of a model, in the order of the flat file.
    """

def token_stats(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    *,
    threads: int = 0,
) -> tuple[
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float64],
    numpy.typing.NDArray[numpy.int32],
    numpy.typing.NDArray[numpy.int32],
]:
    """
    What rows of finite logits [n, vocab_size] say of the tokens [n] after them: their
    log-probabilities, as `score` gives them, the distributions' entropies in nats, how many
    tokens were likelier, and the likeliest one, the lowest id of equals; all [n]. `threads`:
    0 for one per core.
    """

def top(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], count: int
) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.float32]]:
    """
    The `count` likeliest ids of every row of logits [n, vocab_size], int32 [n, count],
    the likeliest first and of equals the lower id, and their log-probabilities.
    """

def unpack(
    format: str,
    parts: collections.abc.Sequence[typing_extensions.Buffer | numpy.typing.NDArray[typing.Any]],
    rows: int,
    columns: int,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    The values [rows, columns] of a packed matrix, as float32.
    """

def validate_spec(spec: dict[str, typing.Any]) -> None:
    """
    Raises ValueError, with a few words, for a dictionary that is no valid spec.
    """

def write(
    writers: collections.abc.Sequence[Writer],
    *,
    pace: Pace,
    wake: Wake | None = None,
    seconds: float = 0.02,
    max_rows: int = 0,
) -> list[int]:
    """
    Runs passes over all texts until one of them has ended or written a token that it watches
    for, `seconds` have gone, or `wake` was set; returns the indices of such texts.

    Texts that wait for one token come first, then prompts in order, in passes of at most
    `max_rows` rows (0: as many as a pass takes). Raises MemoryError where the cache has no
    room, and then the texts are as they were after the last pass.
    """

PAGE_POSITIONS: int = 128
SUM_ROWS: int = 64
