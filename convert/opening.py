"""Opens what is converted, a checkpoint's folder or a GGUF file: from here on they are alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import architectures
from .architectures.shared import deltas
from .architectures.shared.changes import Changes
from .architectures.shared.family import Family
from .errors import CheckpointError, Sentence, quote
from .flatfile.layout import TOKENIZER_FILE
from .gguf.families import FACTORS, read_family
from .gguf.file import GgufFile
from .gguf.tokenizer import read_text, special_ids
from .merging import ADAPTER, Merge
from .plan import Plan
from .source.adapter import Adapter
from .source.checkpoint import Checkpoint
from .source.hub import identify
from .source.meta import PARAMS_FILE
from .source.tensor import SourceTensor
from .text.metas_tokenizer import build_metas_tokenizer
from .text.text_files import Text, read_text_files, resolve_end_ids, resolve_text


@dataclass(frozen=True)
class Source:
    """An open source: its tensors, and what its files say.

    `files` are all that were read; `lacking` and `no_text` say that there is no tokenizer, where
    there is none, without and with the source's path, and `text_advice` what to do then;
    `merged` are the files that were merged into it, by the labels of what they are of; `quantised`
    has the formats in which GGUF stored what is read as floats.
    """

    path: Path
    tensors: Mapping[str, SourceTensor]
    files: list[Path]
    config: Mapping[str, Any]
    family: Family
    text: Text
    eos_ids: Sequence[int]
    lacking: str
    no_text: str
    text_advice: str
    quantised: list[str] = field(default_factory=list)
    merged: Mapping[str, list[Path]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that `files` are in."""
        return self.path.parent if self.path.is_file() else self.path

    @property
    def layout(self) -> str:
        """By what rules its tensors are named and ordered."""
        if self.path.is_file():
            return "a GGUF file"
        is_metas = any(file.name == PARAMS_FILE for file in self.files)
        return "a folder of Meta's" if is_metas else "a folder of transformers"

    def make_plan(self, activation: str | None) -> Plan:
        """Return the plan for the source; see `Family.make_plan`."""
        vocabulary = self.text.vocabulary
        try:
            return self.family.make_plan(
                self.config,
                self.tensors,
                n_tokens=None if vocabulary is None else vocabulary.total,
                eos_ids=self.eos_ids,
                activation=activation,
            )
        except CheckpointError as reason:
            if self.path.is_file():
                raise _of_gguf(self.path, reason) from None
            raise


@contextmanager
def open_source(
    path: Path, base: Path | None = None, merges: Sequence[Merge] = ()
) -> Iterator[Source]:
    """Open the checkpoint in the folder `path`, or the GGUF file there, with `base` added to it.

    What `merges` name is merged into the sum. Raises CheckpointError when any of them is damaged
    or unknown, or a delta, which is no model, without its base, or where they do not fit;
    ValueError where two are the same.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(_open_whole(path) if base is None else _open_sum(path, base))
        yield _merge(opened, merges, stack) if merges else opened


@contextmanager
def _open_whole(path: Path) -> Iterator[Source]:
    with _open(path) as opened:
        if _is_delta(opened):
            why = (
                f"{path} is a delta, as its name and its final norm show: its weights are only "
                "what a training changed, so convert it with the model that it is added to,"
            )
            raise CheckpointError(Sentence(f"{why} base=", f"{why} --base"))
        yield opened


def _merge(source: Source, merges: Sequence[Merge], stack: ExitStack) -> Source:
    """Return `source` with what `merges` name, in files that `stack` closes."""
    changes = Changes(source.family, source.config, source.tensors)
    files: dict[str, list[Path]] = {}
    for given in merges:
        if given.kind == ADAPTER:
            if source.layout != "a folder of transformers":
                raise CheckpointError(
                    f"{source.path} is {source.layout}, whose tensors lie otherwise than an "
                    "adapter's: convert the checkpoint in transformers' layout with it"
                )
            adapter = stack.enter_context(Adapter(given.path))
            _warn_of_another_base(adapter, source)
            changes.add_adapter(adapter, given.weight)
            files[given.label] = adapter.files
            continue
        if given.path.exists() and given.path.samefile(source.path):
            raise ValueError(f"{given.path} is both source and task vector: it adds nothing")
        tuned = stack.enter_context(_open_whole(given.path))
        if (tuned.layout, tuned.family.title) != (source.layout, source.family.title):
            raise CheckpointError(
                f"{given.path} is {tuned.layout} of {tuned.family.title}, and the source "
                f"{source.layout} of {source.family.title}: give two that are alike"
            )
        changes.add_difference(tuned.config, tuned.tensors, given.weight)
        files[given.label] = tuned.files
    tensors, config = changes.apply()
    return replace(source, tensors=tensors, config=config, merged=files)


def _warn_of_another_base(adapter: Adapter, source: Source) -> None:
    """Names differ for many good reasons, and shapes are compared anyway."""
    trained, ours = adapter.config.base, identify(source.path)[0]
    if trained and _last(trained) not in (_last(ours), _last(str(source.path))):
        warnings.warn(
            f"the adapter {adapter.folder} says that it was trained with {quote(trained)}, and is "
            f"merged into {ours}",
            stacklevel=5,
        )


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


@contextmanager
def _open_sum(delta: Path, base: Path) -> Iterator[Source]:
    if base.samefile(delta):
        raise ValueError(f"{base} is both source and base: give the model that the delta is for")
    with _open(delta) as changed, _open(base) as whole:
        if whole.family is not changed.family:
            raise CheckpointError(
                f"the base {base} is of the family {whole.family.title} and the delta of "
                f"{changed.family.title}: give the base that the delta is made for"
            )
        if _is_delta(whole):
            raise CheckpointError(
                f"the base {base} is a delta too, as its name and its final norm show: give the "
                "whole model that the delta is made for"
            )
        tensors = deltas.add_base(changed.family, changed.tensors, whole.tensors)
        yield replace(changed, tensors=tensors, files=changed.files + whole.files)


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    if path.is_file():
        with GgufFile(path) as file:
            yield _read_gguf(file)
    else:
        with Checkpoint(path) as checkpoint:
            yield _read_folder(path, checkpoint)


def _is_delta(source: Source) -> bool:
    names = [identify(source.path)[0], str(source.config.get("_name_or_path", ""))]
    return deltas.is_delta(source.family, names, source.tensors)


def _read_folder(folder: Path, checkpoint: Checkpoint) -> Source:
    config = checkpoint.read_config()
    read = read_text_files(folder)
    family = architectures.find(config)
    built = build_metas_tokenizer(read, config) if checkpoint.is_metas else None
    return Source(
        folder,
        checkpoint.tensors,
        [checkpoint.config_file, *(folder / name for name in read), *checkpoint.files],
        config,
        family,
        resolve_text(read, config, built),
        resolve_end_ids(read, config),
        f"its folder has no {TOKENIZER_FILE}",
        f"{folder} has no {TOKENIZER_FILE}",
        "add the file and convert again",
    )


def _read_gguf(file: GgufFile) -> Source:
    try:
        config, family = read_family(file.metadata, file.tensors)
        text, lacking = read_text(file.metadata)
        config |= special_ids(file.metadata)
        eos_ids = resolve_end_ids({}, config)
    except CheckpointError as reason:
        raise _of_gguf(file.path, reason) from None
    return Source(
        file.path,
        {name: tensor for name, tensor in file.tensors.items() if name != FACTORS},
        file.files,
        config,
        family,
        text,
        eos_ids,
        f"its GGUF file has none that can be rebuilt ({lacking})",
        f"{file.path} has no tokenizer that can be rebuilt ({lacking})",
        "convert the checkpoint that it was made of",
        file.quantised,
    )


def _of_gguf(path: Path, reason: CheckpointError) -> CheckpointError:
    """Return the error for a GGUF file whose metadata stand for a config.json."""
    return CheckpointError(f"{path}, read as a checkpoint: {reason}")
