"""Runs a model, and its reference in lockstep, over a text, and gathers what was measured."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pythia_rt import _core
from pythia_rt.convert.errors import quote
from pythia_rt.convert.exact import open_exactly
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.evaluation.measures import NotFiniteError, Tally
from pythia_rt.evaluation.result import MAX_TEXT, Comparison, Evaluation, Side
from pythia_rt.evaluation.summary import compare, perplexity
from pythia_rt.evaluation.text import Text, read_tokens
from pythia_rt.evaluation.weights import relative_errors
from pythia_rt.evaluation.windows import Window, check_max_tokens, choose, cut
from pythia_rt.model import Model
from pythia_rt.overflow import why_not_finite

# Tokens of one pass: the logits of two models stay below 110 MB for 50 thousand ids.
_PIECE = 256
# What makes two models the same one; the other choices in the spec may be what is compared.
_SAME = (
    "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_size", "mlp_size", "vocab_size",
    "norm", "block", "embed_norm", "final_norm", "mlp", "rotary_dim", "learned_positions",
    "qk_norm", "score_scale", "score_bias", "windows", "tied_head", "qkv_bias", "attn_out_bias",
    "mlp_bias", "head_bias",
)  # fmt: skip


def evaluate(
    model: Model | str | os.PathLike[str],
    text: Text,
    *,
    reference: Model | str | os.PathLike[str] | None = None,
    window: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    weights: bool = True,
    threads: int | None = None,
    kv_format: str | None = None,
    reference_kv_format: str | None = None,
    revision: str | None = None,
    step: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Measure how well `model` predicts `text` and how far it is from `reference`.

    `model` is a Model or a flat file. `text` is a str, token ids, or a path object of a UTF-8 file;
    only its first `max_tokens` tokens count. `reference` is a Model, a flat file or a checkpoint, a
    folder or a hub id (at `revision` or `step`, downloaded into `cache_dir`), which is converted
    into a temporary file of its own number type, without loss.

    The text is cut into windows of `window` tokens (by default 512, or the context if that is
    shorter), each read from its start, `stride` tokens (by default `window`) apart; the last one
    may be shorter. In the first window all tokens count, in every later one the last `stride`, so
    that no token counts twice. With `stride` below `window` every token after the first is
    predicted, from at least `window - stride` tokens before it where there are so many; with
    disjoint windows the first token of each is not, having nothing before it. The perplexity is
    over the predicted tokens. The comparison is over the distributions after each token that
    counts, those at the end of a window included.

    Distributions are over the whole vocabulary, the padding rows beyond the tokenizer's ids
    included, and are measured in float64. Memory does not grow with the vocabulary times the text.

    With `weights` the weight matrices are compared too. `threads` and `kv_format` are those of
    Model.load, for models given as paths; the reference's cache is `reference_kv_format`, by
    default "f32", to be exact.

    Raises ValueError for bad arguments, texts, or a reference that is another model, and for logits
    that are not finite; FlatFileError, CheckpointError and OSError as loading and converting do.
    """
    check_max_tokens(max_tokens)
    if isinstance(reference, Model) and reference_kv_format is not None:
        raise ValueError("reference_kv_format is for a reference given as a path: this is a Model")
    judged = _load(model, threads, kv_format)
    window, stride = choose(window, stride, judged.max_positions)
    vocab_size = int(judged.spec["vocab_size"])
    tokens = read_tokens(text, judged.tokenizer, vocab_size, max_tokens)
    truth = None
    if isinstance(reference, Model):
        truth = reference
    elif reference is not None:
        file = _open_reference(
            reference,
            threads=threads,
            revision=revision,
            step=step,
            cache_dir=cache_dir,
            progress=progress,
        )
        truth = Model(file, threads=threads, kv_format=reference_kv_format or "f32")
    if truth is not None:
        _check_same(judged, truth, window)

    tally = Tally(window)
    windows = cut(len(tokens), window, stride)
    models = [judged] if truth is None else [judged, truth]
    with tqdm(
        total=sum(w.new for w in windows), desc="evaluating", unit="token", disable=not progress
    ) as bar:
        sessions = [m.new_session(min(window, len(tokens))) for m in models]
        for part in windows:
            _run_window(tally, sessions, part, tokens, models)
            bar.update(part.new)
    return _gather(tally, judged, truth, tokens, stride, weights=weights)


def _load(
    model: Model | str | os.PathLike[str], threads: int | None, kv_format: str | None
) -> Model:
    if not isinstance(model, Model):
        return Model.load(model, threads=threads, kv_format=kv_format)
    if threads is not None or kv_format is not None:
        raise ValueError("threads and kv_format are for a model given as a path: this is a Model")
    return model


def _open_reference(
    reference: str | os.PathLike[str],
    *,
    threads: int | None,
    revision: str | None,
    step: int | None,
    cache_dir: str | os.PathLike[str] | None,
    progress: bool,
) -> FlatFile:
    path = Path(reference).expanduser()
    if path.is_file():
        if revision is not None:
            raise ValueError(f"{path} is a file, which has no revisions: leave revision out")
        if step is not None:
            raise ValueError(f"{path} is a file, which has no steps: leave step out")
        return FlatFile(path)
    return open_exactly(
        os.fspath(reference),
        revision=revision,
        step=step,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        threads=threads,
        progress=progress,
    )


def _check_same(model: Model, reference: Model, window: int) -> None:
    """Raise ValueError where the two are not the same model in different formats."""
    for key in _SAME:
        if model.spec[key] != reference.spec[key]:
            raise ValueError(
                f"the reference is another model, its {key} is {reference.spec[key]} and not "
                f"{model.spec[key]}: give the checkpoint that the file was made from, or another "
                "file of it"
            )
    if window > reference.max_positions:
        raise ValueError(
            f"window {window} is longer than the reference's context of {reference.max_positions} "
            "tokens: choose a shorter one"
        )
    ours, theirs = _vocabulary(model.file), _vocabulary(reference.file)
    if ours and theirs and ours != theirs:
        raise ValueError(
            "the reference has another tokenizer, so the same ids are other texts to it: give the "
            "checkpoint that the file was made from, or another file of it"
        )


def _vocabulary(file: FlatFile) -> object:
    """What a tokenizer's ids stand for: files of different versions may say it differently."""
    if file.tokenizer is None:
        return None
    added = {token["id"]: token["content"] for token in file.text["added_tokens"]}
    return json.loads(file.tokenizer)["model"]["vocab"], added


def _run_window(
    tally: Tally,
    sessions: list[_core.Session],
    part: Window,
    tokens: NDArray[np.int32],
    models: list[Model],
) -> None:
    ids = tokens[part.start : part.stop]
    for session in sessions:
        session.rewind(0)
        if part.first_row:
            session.prefill(ids[: part.first_row])
    for begin in range(part.first_row, len(ids), _PIECE):
        end = min(begin + _PIECE, len(ids))
        logits = [session.logits(ids[begin:end]) for session in sessions]
        try:
            tally.add(
                logits[0],
                logits[1] if len(logits) > 1 else None,
                ids[begin + 1 : end + 1],
                begin,
                max(0, part.first_new - begin),
            )
        except NotFiniteError as error:
            culprit = models[error.side]
            why = why_not_finite(
                culprit,
                ids[: begin + error.row + 1],
                option="reference_kv_format" if error.side else "kv_format",
            )
            raise ValueError(
                f"{'the reference' if error.side else 'the model'} ({culprit.file.path.name}) has "
                f"logits that are not finite after token {part.start + begin + error.row} of the "
                f"text, so nothing can be measured: {why}"
            ) from None


def _gather(
    tally: Tally,
    model: Model,
    reference: Model | None,
    tokens: NDArray[np.int32],
    stride: int,
    *,
    weights: bool,
) -> Evaluation:
    losses = np.concatenate(tally.losses)
    comparison, divergences = None, None
    if reference is not None:
        divergences = np.concatenate(tally.divergences)
        comparison = _compare(tally, model, reference, weights=weights)
    counts = tally.position_count
    with np.errstate(invalid="ignore"):
        position_losses = tally.position_loss / counts
    return Evaluation(
        model=_side(model),
        tokens=len(tokens),
        tokens_sha256=hashlib.sha256(tokens.astype("<i4").tobytes()).hexdigest(),
        window=tally.window,
        stride=stride,
        predicted=len(losses),
        compared=0 if divergences is None else len(divergences),
        perplexity=perplexity(losses),
        comparison=comparison,
        token_divergences=divergences,
        position_losses=position_losses,
    )


def _compare(tally: Tally, model: Model, reference: Model, *, weights: bool) -> Comparison:
    errors = relative_errors(model.file, reference.file) if weights else None
    return compare(tally, _side(reference), errors)


def _side(model: Model) -> Side:
    metadata = model.file.metadata
    return Side(
        source=_shown(metadata["source"]),
        recipe=_shown(metadata["recipe"]),
        data_sha256=_shown(metadata["data_sha256"]),
        isa=model.isa,
        kv_format=model.kv_format,
    )


def _shown(text: str) -> str:
    return text if text.isprintable() and len(text) <= 120 else quote(text)[:MAX_TEXT]
