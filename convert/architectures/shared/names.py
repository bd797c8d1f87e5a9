"""Reads the tensor names of a checkpoint, whatever a training put before them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ...errors import CheckpointError, quote
from ...source.tensor import SourceTensor

# Modules that wrap another (torch.compile; DDP and DeepSpeed; FSDP; activation checkpointing;
# Lightning Fabric) and thereby stand in the names of its tensors. The model has none of that name.
_WRAPPER = r"(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
_WRAPPERS = re.compile(rf"(?<![^.]){_WRAPPER}")


@dataclass(frozen=True)
class Names:
    """How a family calls its tensors.

    As for transformers, one of `prefixes` may stand or not stand before each of them; a base-model
    save has none. `modules` are regular expressions of what follows. `masks` is the module of a
    layer in which old saves have the causal mask and its fill value.
    """

    prefixes: tuple[str, ...]
    modules: tuple[str, ...]
    masks: str | None = None

    @cached_property
    def name(self) -> re.Pattern[str]:
        """A tensor's full name; `outer` is what the whole model was a part of when it was saved."""
        prefix = "|".join(map(re.escape, self.prefixes))
        return re.compile(
            rf"(?P<outer>(?:.*?\.)??)(?:(?:{prefix})(?:{_WRAPPER})*)?"
            rf"(?P<name>(?:{'|'.join(self.modules)})\..*)",
            re.DOTALL,
        )

    def place(self, full: str) -> str | None:
        """Return the name in the model, without prefix, of what is called `full`; None outside."""
        match = self.name.fullmatch(full)
        return None if match is None else _WRAPPERS.sub("", match["name"])

    @cached_property
    def buffer(self) -> re.Pattern[str]:
        """What old saves hold and nobody needs: masks, the frequencies of the rotation."""
        masks = "" if self.masks is None else rf"\w+\.\d+\.{self.masks}\.(?:bias|masked_bias)|"
        return re.compile(
            rf"(?:.*\.)?(?:{masks}"
            r"rotary(?:_emb)?\.(?:inv_freq|original_inv_freq|cos_cached|sin_cached))",
            re.DOTALL,
        )


class Tensors(NamedTuple):
    """The tensors of a checkpoint without its old buffers.

    `given` has all by their names in the files; `named` has those that are in a module of the model
    by their names there, without prefix.
    """

    names: Names
    given: dict[str, SourceTensor]
    named: dict[str, SourceTensor]

    def find(self, name: str) -> SourceTensor:
        """Return the tensor of this name in the base model; raise CheckpointError without it."""
        if name in self.named:
            return self.named[name]
        prefixes = self.names.prefixes
        prefix = next((p for p in prefixes if any(p in given for given in self.given)), "")
        adapters = any(part in given for given in self.given for part in (".lora_", ".base_layer."))
        raise CheckpointError(
            f"tensor {quote(prefix + name)} is missing: "
            + (
                "merge the adapters into the weights first (peft's merge_and_unload)"
                if adapters
                else "fetch the checkpoint again, with all its shards"
            )
        )


def read_names(tensors: Mapping[str, SourceTensor], names: Names) -> Tensors:
    """Return the tensors of a checkpoint by what they are in the model.

    A module that all of the model is a part of is taken off. Raises CheckpointError, naming the
    tensors, when only some are a part of it, or when two have the same place.
    """
    given: dict[str, SourceTensor] = {}
    named: dict[str, SourceTensor] = {}
    outer: dict[str, str] = {}  # outer module -> one of its tensors
    twice: tuple[str, str] | None = None
    for full, tensor in tensors.items():
        if names.buffer.fullmatch(_WRAPPERS.sub("", full)):
            continue
        given[full] = tensor
        match = names.name.fullmatch(full)
        if match is None:
            continue
        outer.setdefault(match["outer"], full)
        name = _WRAPPERS.sub("", match["name"])
        other = named.setdefault(name, tensor)
        if other is not tensor and twice is None:
            twice = (other.name, full)
    if len(outer) > 1:
        (long, first), (short, second) = sorted(list(outer.items())[:2], reverse=True)
        raise CheckpointError(
            f"tensor {quote(first)} has the prefix {quote(long)} and {quote(second)} has "
            f"{quote(short) if short else 'none'}: save the state dict of one model alone"
        )
    if twice is not None:
        raise CheckpointError(
            f"tensors {quote(twice[0])} and {quote(twice[1])} have the same place in the model: "
            "remove the one that does not belong to it"
        )
    return Tensors(names, given, named)
