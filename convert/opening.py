"""Opens what is converted, a checkpoint's folder or a GGUF file: from here on they are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import architectures
from .architectures.shared.family import Family
from .errors import CheckpointError
from .files.json_object import read_json
from .flatfile.layout import TOKENIZER_FILE
from .gguf.families import FACTORS, read_family
from .gguf.file import GgufFile
from .gguf.tokenizer import read_text, special_ids
from .plan import Plan
from .source.checkpoint import CONFIG_FILE, Checkpoint
from .source.tensor import SourceTensor
from .text.text_files import Text, read_text_files, resolve_end_ids, resolve_text


@dataclass(frozen=True)
class Source:
    """An open source: its tensors, and what its files say.

    `files` are all that were read; `no_text` says that there is no tokenizer, where there is none,
    and `text_advice` what to do then;
    `quantised` has the formats in which GGUF stored what is read as floats.
    """

    path: Path
    tensors: Mapping[str, SourceTensor]
    files: list[Path]
    config: Mapping[str, Any]
    family: Family
    text: Text
    eos_ids: Sequence[int]
    no_text: str
    text_advice: str
    quantised: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The folder that `files` are in."""
        return self.path.parent if self.path.is_file() else self.path

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
def open_source(path: Path) -> Iterator[Source]:
    """Open the checkpoint in the folder `path`, or the GGUF file there.

    Raises CheckpointError when it is damaged or unknown.
    """
    if path.is_file():
        with GgufFile(path) as file:
            yield _read_gguf(file)
    else:
        with Checkpoint(path) as checkpoint:
            yield _read_folder(path, checkpoint)


def _read_folder(folder: Path, checkpoint: Checkpoint) -> Source:
    config = read_json(folder / CONFIG_FILE, CheckpointError)
    read = read_text_files(folder)
    family = architectures.find(config)
    return Source(
        folder,
        checkpoint.tensors,
        [folder / name for name in (CONFIG_FILE, *read)] + checkpoint.files,
        config,
        family,
        resolve_text(read, config),
        resolve_end_ids(read, config),
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
        f"{file.path} has no tokenizer that can be rebuilt ({lacking})",
        "convert the checkpoint that it was made of",
        file.quantised,
    )


def _of_gguf(path: Path, reason: CheckpointError) -> CheckpointError:
    """Return the error for a GGUF file whose metadata stand for a config.json."""
    return CheckpointError(f"{path}, read as a checkpoint: {reason}")
