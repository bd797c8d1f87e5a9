"""Converts a checkpoint into a flat file: the steps in their order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pythia_rt import __version__, _core

from .errors import CheckpointError, NoTokenizerWarning, Sentence, quote
from .files.destination import find_place, named_file
from .flatfile import FlatFile
from .flatfile.layout import (
    TEXT_FILES,
    TOKENIZER_FILE,
    Linear,
    is_quantised,
    linears,
    stored_tensors,
    tables,
    vectors,
)
from .flatfile.metadata import (
    KV_BOUND,
    MERGED,
    MLP_SIZE,
    NO_TOKENIZER,
    QUANTISED,
    REPORT,
    VALUE_DIGESTS,
    VERSION,
    metadata_entries,
    to_json,
)
from .flatfile.spec import CHOICES, Spec
from .flatfile.text_facts import TextFacts
from .flatfile.writer import FlatFileWriter
from .merging import ADAPTER, TASK_VECTOR, Merge, Weighted, read_merges
from .opening import Source, open_source
from .plan import Plan
from .progress import Progress
from .quantise.balanced import BalancedWeights, balance_checkpoint
from .quantise.basis import SourceBasis, source_mlp_size
from .quantise.calibration_text import CalibrationText, Text, read_calibration
from .quantise.calibrator import Calibrator, Parts
from .quantise.kv_range import bound_keys_and_values
from .quantise.recipe import check_formats, choose_formats, describe
from .quantise.weights import WeightReader, pack_chunk
from .source.digests import SourceDigests
from .source.drop import check_droppable, drop_weights
from .source.hub import identify, resolve
from .source.tensor import TensorSource
from .text.tokenizer import Vocabulary, build_tokenizer, encode
from .threads import checked_threads

PRODUCER = f"pythia_rt {__version__}"
_NO_DIGEST = "0" * 64  # as long as any, so the header keeps its length

# Measures a new file; is given the file, the paths of its source and of what that is added to, the
# activation that was asked for, and what was merged.
Reporter = Callable[[FlatFile, Path, Path | None, str | None, Sequence[Merge]], Mapping[str, Any]]
_MAX_SIZE = 9e99
_REPORT_BYTES, _REPORT_BYTES_PER_MATRIX = 8192, 64  # the most that a report takes in the header


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    format: str = "q4",
    base: str | Path | None = None,
    revision: str | None = None,
    step: int | None = None,
    keep_source: bool = True,
    embed: str | None = None,
    head: str | None = None,
    attention: str | None = None,
    mlp: str | None = None,
    activation: str | None = None,
    force: bool = False,
    cache_dir: str | Path | None = None,
    threads: int | None = None,
    progress: bool = False,
    report: Reporter | None = None,
    calibrate: Text | None = None,
    calibrate_tokens: int | None = None,
    adapters: Iterable[Weighted] = (),
    task_vectors: Iterable[Weighted] = (),
) -> Path:
    """Convert the checkpoint `source` into the flat file `destination` and return its path.

    `source` is a folder in Hugging Face layout, a GGUF file (the first part of a split one), or a
    hub id, which is downloaded at `revision` into `cache_dir`; `step` is short for the revision
    step{N}, or for that folder of a local one. Without `keep_source` the weights that were
    downloaded, now or before, are deleted when the destination is there, except what other
    revisions share.
    `format` is a recipe: one of quantise.recipe, or a format for all matrices;
    `embed`, `head`, `attention` and `mlp` override what it says about these. `activation` ("gelu",
    "gelu_tanh") overrides the config's. `threads` (default: one per core) pack. An existing
    destination is replaced only with `force`, and only a regular file ever is; a link stays one,
    and its target is written. The weights are streamed: memory does not grow with the model. The
    destination appears complete or, after any exception or kill, not at all. A source without a
    tokenizer gives a model of token ids alone, with a warning.

    `base` is the folder or hub id of the model that the source, a delta, is added to: Alpaca's and
    Vicuna's first weights were published so. Without it a delta is refused.

    `adapters` are folders of LoRA adapters as peft saves them, or pairs (folder, weight), which are
    merged into the weights: W + weight * scaling * B @ A, of all of them, added in float64 and
    rounded once to float32 before anything is quantised. `task_vectors` are fine-tuned models
    likewise, folders, GGUF files or hub ids: W + weight * (theirs - W). What tensors a training
    replaced are weighted so too. docs/embeddings-and-adapters.md says more.

    `report`, for example `pythia_rt.evaluation.reporter()`, is called when all is written and
    before the destination has its name: with the new file, the paths of the source and of `base`
    (or None), `activation`, and the `Merge`s. The JSON object that it returns is kept in the file.
    Its exceptions leave no file.

    `calibrate`, a text (a str), a file of UTF-8 text (a Path) or token ids, improves the quantised
    formats: the weights are rounded so that the layers' outputs change little on the first
    `calibrate_tokens` (default 16384) of it, or that many spread over a longer text. Memory then
    grows with the widest layer, and the last bits of the file may differ between machines.

    Raises CheckpointError for a source that cannot be converted, ValueError for a bad argument,
    FileExistsError for an existing destination, other OSErrors when reading or writing fails.
    """
    target = named_file(destination)
    if activation is not None and activation not in CHOICES["activation"]:
        known = ", ".join(CHOICES["activation"])
        raise ValueError(f"activation {activation!r} is unknown: choose one of {known}")
    n_threads = checked_threads(threads)
    if calibrate is None and calibrate_tokens is not None:
        raise ValueError(
            Sentence(
                "calibrate_tokens has no effect without calibrate: give a text too",
                "--calibrate-tokens has no effect without --calibrate: give a text too",
            )
        )
    components = {"embed": embed, "head": head, "attention": attention, "mlp": mlp}
    check_formats(format, **components)
    merges = read_merges(ADAPTER, adapters)
    find_place(target, force=force)
    calibration = None if calibrate is None else read_calibration(calibrate, calibrate_tokens)
    if not keep_source:
        check_droppable(source)
    path, _ = resolve(source, revision, cache_dir, progress=progress, step=step)
    base_path = None if base is None else resolve(base, None, cache_dir, progress=progress)[0]
    base_folder = base_path.parent if base_path is not None and base_path.is_file() else base_path
    merges += tuple(
        merge._replace(path=resolve(merge.path, None, cache_dir, progress=progress)[0])
        for merge in read_merges(TASK_VECTOR, task_vectors)
    )
    with open_source(path, base_path, merges) as opened:
        files, facts, vocabulary = opened.text
        if report is not None and TOKENIZER_FILE not in files:
            raise CheckpointError(
                f"{opened.no_text}, and a report is measured on text: {opened.text_advice}, or "
                "convert without a report"
            )
        plan = opened.make_plan(activation)
        _check_vocabulary(vocabulary, plan.spec, opened)
        matrices = linears(plan.spec)
        formats = choose_formats(format, matrices, **components)
        _check_not_input(target, [*opened.files, *chain(*opened.merged.values())])
        # Of one checkpoint: sums, and what GGUF holds, can be compared with no other's.
        alone = path.is_dir() and base_path is None and not merges
        digested = opened.tensors if alone else {}
        digests = SourceDigests(opened.folder, opened.files, base_folder, opened.merged, digested)
        recipe = describe(format, **components)
        sequences = _sequences(calibration, plan, formats, files, facts)
        if calibration is not None:
            recipe += " " + calibration.describe(sequences)
        origin, commit = identify(path)
        if base_path is not None:
            base_origin, base_commit = identify(base_path)
            origin += f" + {base_origin}"
            commit += f" + {base_commit}" if commit or base_commit else ""
        for merge in merges:
            times = "" if merge.weight == 1 else f"{merge.weight:g} * "
            origin += f" + {times}{identify(merge.path)[0]}"
        values = {
            "version": str(VERSION),
            "spec": to_json(plan.spec),
            "text": to_json(facts),
            "formats": to_json(formats),
            "recipe": recipe,
            "source": origin,
            "revision": commit,
            "source_digests": to_json(dict.fromkeys(digests.names, _NO_DIGEST)),
            "data_sha256": _NO_DIGEST,
            "producer": PRODUCER,
            KV_BOUND: _number(0.0),
        }
        if plan.spec["mlp"] == "gated":
            values[MLP_SIZE] = str(source_mlp_size(plan))
        if merges:
            values[MERGED] = to_json(
                {m.label: {"name": identify(m.path)[0], "weight": m.weight} for m in merges}
            )
        if digested:
            values[VALUE_DIGESTS] = to_json(digests.no_values())
        if opened.quantised:
            values[QUANTISED] = ", ".join(opened.quantised)
        if vocabulary is None:
            values[NO_TOKENIZER] = opened.lacking
        sizes = {name: len(data) for name, data in files.items()}
        reserve = _REPORT_BYTES + _REPORT_BYTES_PER_MATRIX * len(matrices) if report else 0
        with ExitStack() as stack:
            stack.enter_context(digests)
            # First: how long the file is depends on what balancing does.
            _check_equal(opened, plan)
            balance = balance_checkpoint(opened, plan, formats)
            basis = SourceBasis(opened, plan, formats, balance)
            stored = stored_tensors(plan.spec, formats, basis.stored(), sizes)
            metadata = metadata_entries(values)
            writer = stack.enter_context(
                FlatFileWriter(target, stored, metadata, force=force, reserve=reserve)
            )
            weights = BalancedWeights(opened, plan, balance)
            bound = _write_weights(
                writer, weights, plan, formats, basis, sequences, n_threads, progress
            )
            values[KV_BOUND] = _number(bound)
            for name in TEXT_FILES:
                if name in files:
                    writer.write(name, [files[name]])
            values["source_digests"] = to_json(digests.result())
            if digested:
                values[VALUE_DIGESTS] = to_json(digests.values().stored())
            values["data_sha256"] = writer.data_sha256
            if report is not None:
                made = FlatFile(writer.write_header(metadata_entries(values)))
                values[REPORT] = to_json(report(made, path, base_path, activation, merges))
            writer.finish(metadata_entries(values))
    if not keep_source:
        drop_weights(path)
    return target


def _check_vocabulary(vocabulary: Vocabulary | None, spec: Spec, source: Source) -> None:
    """Refuse the tokenizer of another model, and say what a model without one cannot do.

    Added tokens may lack rows: many fine-tunes have one for padding, which no text ever holds.
    """
    if vocabulary is None:
        warnings.warn(
            f"{source.no_text}, so the model will take and give token ids but no text: "
            f"{source.text_advice} if it is to write text",
            NoTokenizerWarning,
            stacklevel=3,
        )
    elif vocabulary.base > spec["vocab_size"]:
        raise CheckpointError(
            f"{TOKENIZER_FILE} has {vocabulary.base} ids and the embedding {spec['vocab_size']} "
            "rows: give the tokenizer that this model was trained with"
        )


def _check_not_input(target: Path, inputs: list[Path]) -> None:
    if target.exists() and any(target.samefile(path) for path in inputs):
        raise ValueError(f"{target} is a file of the source: choose another destination")


def _sequences(
    calibration: CalibrationText | None,
    plan: Plan,
    formats: dict[str, str],
    files: dict[str, bytes],
    facts: TextFacts,
) -> list[NDArray[np.int32]]:
    """Return the sequences of tokens to calibrate with; none without a calibration."""
    if calibration is None:
        return []
    if not any(is_quantised(form) for name, form in formats.items() if name != "embed"):
        raise ValueError(
            "there is nothing to calibrate in formats that do not quantise: choose a quantised "
            "format or leave the calibration out"
        )
    if TOKENIZER_FILE not in files:
        return calibration.sequences(plan.spec, None)
    tokenizer = build_tokenizer(files[TOKENIZER_FILE], facts)
    return calibration.sequences(plan.spec, lambda text: encode(tokenizer, facts, text))


def _check_equal(source: TensorSource, plan: Plan) -> None:
    """Refuse a source that has two of what its config says is one."""
    reader = WeightReader(source)
    for first, second in plan.equal:
        if not reader.equal(first, second):
            raise CheckpointError(
                f"tensor {quote(second)} differs from {quote(first)}, which config.json says it "
                "equals: correct tie_word_embeddings"
            )


def _write_weights(
    writer: FlatFileWriter,
    weights: BalancedWeights,
    plan: Plan,
    formats: dict[str, str],
    basis: SourceBasis,
    sequences: list[NDArray[np.int32]],
    threads: int,
    progress: bool,
) -> float:
    """Write all of `plan` and what takes it back, in the order of `layout.stored_tensors`.

    Returns what no entry of the model's keys and values exceeds.
    """
    names = (*plan.vectors, *plan.tables, *plan.linears)
    total, count = sum(weights.size(name) for name in names), len(names)
    with Progress(total, count, enabled=progress) as bar:
        for name in vectors(plan.spec):
            writer.write(name, [weights.vector(name).view(np.uint8).data])
            bar.add_bytes(weights.size(name))
            bar.add_tensor()
        for table in tables(plan.spec):
            writer.write(table.name, (rows.data for rows in weights.table(table.name)))
            bar.add_bytes(weights.size(table.name))
            bar.add_tensor()
        calibrator = Calibrator(plan, formats, weights, sequences, threads) if sequences else None
        for matrix in linears(plan.spec):
            form = formats[matrix.name]
            if calibrator is not None and calibrator.packs(matrix.name):
                packed = calibrator.pack(matrix.name, bar.add_bytes)
            else:
                packed = _pack(weights, plan, matrix, form, threads, bar)
            _write_matrix(writer, matrix, form, packed)
            bar.add_tensor()
    for name, data in basis.tensors():
        writer.write(name, [data])
    for name in weights.rescaled:  # since they were written
        writer.rewrite(name, weights.vector(name).view(np.uint8).data)
    return bound_keys_and_values(plan.spec, weights)


def _number(value: float) -> str:
    """A size as text of one length, for which the header has room before it is known."""
    return f"{min(value, _MAX_SIZE):.6e}"


def _pack(
    weights: BalancedWeights, plan: Plan, matrix: Linear, form: str, threads: int, bar: Progress
) -> Iterator[Parts]:
    """Pack one matrix chunk by chunk."""
    row_bytes = weights.size(matrix.name) // matrix.rows
    for chunk in weights.chunks(matrix):
        yield pack_chunk(form, chunk, matrix, plan.linears[matrix.name], threads)
        bar.add_bytes(chunk.rows * row_bytes)


def _write_matrix(
    writer: FlatFileWriter, matrix: Linear, form: str, packed: Iterator[Parts]
) -> None:
    """Write one matrix from the parts of its chunks: weights stream through, small scales wait."""
    first, *others = [part for part, _, _ in _core.packed_layout(form, matrix.rows, matrix.columns)]
    waiting: dict[str, list[memoryview]] = {part: [] for part in others}

    def weights() -> Iterator[memoryview]:
        for weight, *rest in packed:
            for part, piece in zip(others, rest, strict=True):
                waiting[part].append(piece.data)
            yield weight.data

    writer.write(f"{matrix.name}.{first}", weights())
    for part, pieces in waiting.items():
        writer.write(f"{matrix.name}.{part}", pieces)
