"""One module per family of models, found by the `model_type` of the config: add one to add one."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from ..errors import CheckpointError, quote
from .shared.family import Family

# What is known, cannot be converted, and why, for a sentence.
LACKING = {
    "deepseek_v3": "mixtures of experts",
    "gemma": "norms that multiply by 1 + weight",
    "gemma2": "norms of outputs, and scores that are capped",
    "gemma3_text": "norms of queries, keys and outputs",
    "mixformer-sequential": "Phi in its old form, save it with a newer transformers",
    "mixtral": "mixtures of experts",
    "olmo3": "OLMo 2's form with rotations that differ between layers",
    "phi-msft": "Phi in its old form, save it with a newer transformers",
    "phi3": "fused gate and up, and rotations that depend on the length",
    "qwen2_moe": "mixtures of experts",
    "qwen3_moe": "mixtures of experts",
    "smollm3": "layers without positions",
    "stablelm_epoch": "StableLM in its old form, save it with a newer transformers",
}


@cache
def families() -> dict[str, Family]:
    """Return every family by each `model_type` that it has or had."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(__path__):
        family = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FAMILY", None)
        if isinstance(family, Family):
            found |= dict.fromkeys(family.model_types, family)
    return found


def names() -> list[str]:
    """Return every known `model_type`, without old names."""
    return sorted({family.model_types[0] for family in families().values()})


def title(architecture: str) -> str:
    """Return what people call the `architecture` of a spec."""
    return families()[architecture].title if architecture in families() else architecture


def rotates_neighbours(architecture: str) -> bool:
    """Whether models of the `architecture` of a spec rotate neighbouring dimensions together."""
    return architecture in families() and families()[architecture].rotates_neighbours


def find(config: Mapping[str, Any]) -> Family:
    """Return the family of a config.json; raise CheckpointError when it is unknown."""
    model_type = config.get("model_type")
    if model_type is None and isinstance(config.get("architectures"), list):
        model_type = next(
            (
                family.model_types[0]
                for family in families().values()
                if {family.saved_from, *family.old_classes} & set(map(str, config["architectures"]))
            ),
            None,
        )
    if isinstance(model_type, str) and model_type in families():
        return families()[model_type]
    shown = quote(model_type) if isinstance(model_type, str) else "not given"
    if isinstance(model_type, str) and model_type in LACKING:
        shown += f", which this runtime does not have ({LACKING[model_type]})"
    elif isinstance(model_type, str):
        near = difflib.get_close_matches(model_type.lower()[:50], list(families()), cutoff=0.7)
        shown += f" (did you mean {' or '.join(near)}?)" if near else ""
    raise CheckpointError(
        f"the model_type of config.json is {shown}, known ones are {', '.join(names())}: "
        "choose a model of one of these"
    )
