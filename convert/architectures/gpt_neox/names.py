"""Reads the tensor names of a GPT-NeoX checkpoint, whatever a training put before them.

Names: huggingface/transformers, models/gpt_neox/modeling_gpt_neox.py. As for transformers,
"gpt_neox." may stand or not stand before each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ...errors import CheckpointError, quote
from ...source.tensor import SourceTensor

PREFIX = "gpt_neox."  # of all but the head; a base-model save lacks it
HEADS = ("embed_out.weight", "lm_head.weight")  # transformers 5 renamed the module, not the files

# Modules that wrap another (torch.compile; DDP and DeepSpeed; FSDP; activation checkpointing;
# Lightning Fabric) and thereby stand in the names of its tensors. The model has none of that name.
_WRAPPER = r"(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
_WRAPPERS = re.compile(rf"(?<![^.]){_WRAPPER}")
# `outer` is what the whole model was a part of when it was saved; mostly nothing.
_NAME = re.compile(
    rf"(?P<outer>(?:.*?\.)??)(?:{re.escape(PREFIX)}(?:{_WRAPPER})*)?"
    r"(?P<name>(?:embed_in|layers\.\d+|final_layer_norm|embed_out|lm_head)\..*)",
    re.DOTALL,
)
# The causal mask, its fill value and the rotary frequencies: old saves hold them, we need none.
_BUFFER = re.compile(
    r"(?:.*\.)?(?:layers\.\d+\.attention\.(?:bias|masked_bias)"
    r"|rotary_emb\.(?:inv_freq|original_inv_freq|cos_cached|sin_cached))",
    re.DOTALL,
)


class NeoxTensors(NamedTuple):
    """The tensors of a checkpoint without its old buffers.

    `given` has all by their names in the files; `named` has those that are in a module of the model
    by their names there, without "gpt_neox.".
    """

    given: dict[str, SourceTensor]
    named: dict[str, SourceTensor]

    def find(self, name: str) -> SourceTensor:
        """Return the tensor of this name in the base model; raise CheckpointError without it."""
        if name in self.named:
            return self.named[name]
        shown = PREFIX + name if any(PREFIX in given for given in self.given) else name
        adapters = any(part in given for given in self.given for part in (".lora_", ".base_layer."))
        raise CheckpointError(
            f"tensor {quote(shown)} is missing: "
            + (
                "merge the adapters into the weights first (peft's merge_and_unload)"
                if adapters
                else "fetch the checkpoint again, with all its shards"
            )
        )


def read_names(tensors: Mapping[str, SourceTensor]) -> NeoxTensors:
    """Return the tensors of a checkpoint by what they are in the model.

    A module that all of the model is a part of is taken off. Raises CheckpointError, naming the
    tensors, when only some are a part of it, or when two have the same place.
    """
    given: dict[str, SourceTensor] = {}
    named: dict[str, SourceTensor] = {}
    outer: dict[str, str] = {}  # outer module -> one of its tensors
    twice: tuple[str, str] | None = None
    for full, tensor in tensors.items():
        if _BUFFER.fullmatch(_WRAPPERS.sub("", full)):
            continue
        given[full] = tensor
        match = _NAME.fullmatch(full)
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
    return NeoxTensors(given, named)
