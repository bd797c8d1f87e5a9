"""An adapter of a model in peft's layout, opened: its tensors by what they change.

Source: huggingface/peft, utils/save_and_load.py (names), tuners/lora/layer.py (sums).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import final

from ..errors import CheckpointError, quote
from ..files.closing import Closing
from ..files.positional import PositionalFile
from .adapter_config import AdapterConfig, read_adapter_config
from .checkpoint import read_tensors
from .merged import Held
from .tensor import SourceTensor

WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # as peft, in this order
_OUTSIDE = "base_model.model."
_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.default)?(?P<bias>\.bias)?(?:\.weight)?",
    re.DOTALL,
)
# What stands in the names of whole tensors: of modules that are adapted or replaced.
_WRAPPERS = re.compile(r"\.base_layer(?=\.)|\.modules_to_save(?:\.default)?(?=\.)")


@dataclass
class Adapted:
    """The tensors that change one module: `a` [rank, in], `b` [out, rank], of B what is added to
    the module's bias [out], and DoRA's magnitudes [out]."""

    module: str
    is_embedding: bool = False
    a: SourceTensor | None = None
    b: SourceTensor | None = None
    bias: SourceTensor | None = None
    magnitude: SourceTensor | None = None

    def matrices(self) -> tuple[SourceTensor, SourceTensor]:
        """Return A and B, which are matrices of one rank; CheckpointError where they are not."""
        a, b = self.a, self.b
        if a is None or b is None:
            raise CheckpointError(f"{quote(self.module)} lacks a matrix: fetch the adapter again")
        if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1] or not a.shape[0]:
            raise CheckpointError(
                f"tensors {quote(a.name)} and {quote(b.name)} have the shapes {list(a.shape)} and "
                f"{list(b.shape)}, which are not those of a product: fetch the adapter again"
            )
        return a, b


@final
class Adapter(Closing):
    """An adapter in open files. Use it as a context manager.

    `modules` are what it adapts, by their names in the model that it was trained with, `saved` the
    tensors that it replaces, likewise; `files` lists what was read.
    """

    def __init__(self, folder: Path) -> None:
        """Open the adapter in `folder`.

        Raises CheckpointError when there is none, or when it is damaged, empty, or of a kind that
        cannot be merged; NotADirectoryError when `folder` is none.
        """
        self.folder = folder
        self.held = Held()
        self.modules: dict[str, Adapted] = {}
        self.saved: dict[str, SourceTensor] = {}
        if not folder.is_dir():
            raise NotADirectoryError(
                f"{folder} is no folder: give one with adapter_config.json and its weights"
            )
        self.config: AdapterConfig = read_adapter_config(folder)
        path = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
        if path is None:
            raise CheckpointError(
                f"{folder} has neither {' nor '.join(WEIGHT_FILES)}: fetch the adapter's weights"
            )
        self.files = [self.config.path, path]
        self._file = PositionalFile(path, CheckpointError)
        try:
            for name, tensor in read_tensors(self._file).items():
                self._add(name, tensor)
            self._check()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file of weights."""
        self._file.close()

    def _add(self, name: str, tensor: SourceTensor) -> None:
        inside = name.removeprefix(_OUTSIDE)
        match = _PART.fullmatch(inside)
        if match is None:
            if ".original_module." in inside:
                return  # the base's own
            whole = _WRAPPERS.sub("", inside)
            if "lora_" in whole or not whole.endswith((".weight", ".bias")):
                raise CheckpointError(
                    f"tensor {quote(name)} of {self.folder} is none of a LoRA adapter: merge it "
                    "with peft's merge_and_unload first"
                )
            if self.saved.setdefault(whole, tensor) is not tensor:
                self._twice(name, self.saved[whole].name)
            return
        found = self.modules.setdefault(match["module"], Adapted(match["module"]))
        part = match["part"].removeprefix("lora_").removeprefix("embedding_").lower()
        part = {"magnitude_vector": "magnitude"}.get(part, part)
        part = "bias" if match["bias"] else part
        found.is_embedding = found.is_embedding or "embedding" in match["part"]
        if (other := getattr(found, part)) is not None:
            self._twice(name, other.name)
        setattr(found, part, tensor)

    def _twice(self, first: str, second: str) -> None:
        raise CheckpointError(
            f"tensors {quote(first)} and {quote(second)} of {self.folder} have the same place: "
            "save the adapter again"
        )

    def _check(self) -> None:
        if not self.modules and not self.saved:
            raise CheckpointError(f"{self.files[1]} has no tensors: fetch the adapter again")
        for module, found in self.modules.items():
            wanted = ["a", "b", "magnitude"] if self.config.is_dora else ["a", "b"]
            missing = [part for part in wanted if getattr(found, part) is None]
            if missing:
                raise CheckpointError(
                    f"{self.files[1]} lacks a tensor of {quote(module)}, its {missing[0]}: fetch "
                    "the adapter again"
                )
            if found.magnitude is not None and not self.config.is_dora:
                raise CheckpointError(
                    f"{self.files[1]} has magnitudes, as DoRA has, and {self.files[0].name} does "
                    "not say use_dora: fetch both from the same revision"
                )
        for module in self.config.saved:
            if not any(name.rpartition(".")[0].endswith(module) for name in self.saved):
                raise CheckpointError(
                    f"{self.files[0]} names {quote(module)} in modules_to_save, and its weights "
                    "have none of it: fetch the adapter again"
                )
