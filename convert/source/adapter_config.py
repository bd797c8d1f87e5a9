"""An adapter's adapter_config.json: what of it says how its tensors change a model.

Source: huggingface/peft, tuners/lora/config.py, utils/other.py (get_pattern_key).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import CheckpointError, quote
from ..files.json_object import read_json

CONFIG_FILE = "adapter_config.json"
# Options that make of an adapter something else than a sum, each refused by its name.
_OTHER_MATHS = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_qalora",
)  # fmt: skip
# Ways to begin a training that leave the base as it is; others change it when they are loaded.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_MAX_RANK = 1 << 20
# Patterns come from files that anybody may have written: without a repeated group, and with so few
# repeats, matching one with a name takes no time.
_MAX_PATTERN, _MAX_REPEATS = 200, 3
_REPEAT = re.compile(r"[*+?]|\{\d*,?\d*\}")


@dataclass(frozen=True)
class AdapterConfig:
    """How an adapter's tensors change a model; `base` names that model, or is empty.

    `targets` are the modules' names where the file lists them and each of that name is meant.
    `saved` are the modules that are replaced.
    """

    path: Path
    base: str
    rank: int
    alpha: float
    is_rank_stabilised: bool
    is_dora: bool
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    targets: tuple[str, ...]
    saved: tuple[str, ...]

    def scaling(self, module: str, rank: int) -> float:
        """Return what B @ A of `module`, which has the rank `rank`, is multiplied by.

        Raises CheckpointError where the file asks for another rank.
        """
        expected = self.rank if (key := _key(self.ranks, module)) is None else self.ranks[key]
        if rank != expected:
            raise CheckpointError(
                f"{self.path} says that {quote(module)} has the rank {expected}, and its tensors "
                f"have {rank}: fetch both from the same revision"
            )
        alpha = self.alpha if (key := _key(self.alphas, module)) is None else self.alphas[key]
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Return what the adapter_config.json in `folder` says.

    Raises CheckpointError, with a sentence, when it is missing, damaged, of another kind of adapter
    than LoRA, or asks for what no sum of matrices gives.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no {CONFIG_FILE}: give the folder of an adapter that peft saved"
        )
    data = read_json(path, CheckpointError)
    kind = data.get("peft_type")
    if kind != "LORA":
        shown = quote(kind) if isinstance(kind, str) else "no kind that is known"
        raise CheckpointError(
            f"{path} is of {shown}: LoRA, rsLoRA and DoRA are merged here, others with peft's "
            "merge_and_unload first"
        )
    for name in _OTHER_MATHS:
        if data.get(name):
            raise CheckpointError(
                f"{path} asks for {name}, which cannot be merged here: merge it with peft's "
                "merge_and_unload first, if that can be done"
            )
    start = data.get("init_lora_weights")
    if not any(
        start is known or (start == known and type(start) is str) for known in _HARMLESS_STARTS
    ):
        shown = quote(start) if isinstance(start, str) else "something unknown"
        raise CheckpointError(
            f"{path} has init_lora_weights {shown}, which changes the base model itself: convert "
            "the adapter to plain LoRA with peft's path_initial_model_for_weight_conversion"
        )
    if data.get("bias", "none") not in ("none", "all", "lora_only"):
        _invalid(path, "bias")
    base = data.get("base_model_name_or_path")
    targets, all_of_them = (
        data.get("target_modules"),
        not (data.get("layers_to_transform") is not None or data.get("exclude_modules")),
    )
    return AdapterConfig(
        path,
        base if isinstance(base, str) else "",
        _rank(path, "r", data.get("r", 8)),
        _number(path, "lora_alpha", data.get("lora_alpha", 8)),
        data.get("use_rslora") is True,
        data.get("use_dora") is True,
        {k: _rank(path, "rank_pattern", v) for k, v in _patterns(path, data, "rank_pattern")},
        {k: _number(path, "alpha_pattern", v) for k, v in _patterns(path, data, "alpha_pattern")},
        # A regular expression names no module by itself: the tensors do.
        _names(path, "target_modules", [] if isinstance(targets, str) else targets)
        if all_of_them
        else (),
        _names(path, "modules_to_save", data.get("modules_to_save")),
    )


def _key(patterns: Mapping[str, Any], module: str) -> str | None:
    """Return the first pattern that the end of the module's name matches, as peft does."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)


def _patterns(path: Path, data: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    found = data.get(name) or {}
    if not isinstance(found, dict):
        _invalid(path, name)
    for key in found:
        # Within a class of characters nothing repeats, and an escaped sign is one character.
        plain = re.sub(r"\\.|\[[^\]]*\]", "x", key)
        repeats = len(_REPEAT.findall(plain))
        if len(key) > _MAX_PATTERN or repeats > _MAX_REPEATS or re.search(r"\)\s*[*+?{]", plain):
            raise CheckpointError(
                f"{path} has in {name} the pattern {quote(key)}, which may take forever to match: "
                "name the modules themselves"
            )
        try:
            re.compile(key)
        except (re.error, OverflowError, RecursionError):
            _invalid(path, name)
    return list(found.items())


def _names(path: Path, name: str, values: Any) -> tuple[str, ...]:
    found = [] if values is None else values
    if not isinstance(found, list) or not all(isinstance(value, str) for value in found):
        _invalid(path, name)
    return tuple(found)


def _rank(path: Path, name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_RANK:
        _invalid(path, name)
    return value


def _number(path: Path, name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= 1e9:
        _invalid(path, name)
    return float(value)


def _invalid(path: Path, name: str) -> NoReturn:
    raise CheckpointError(f"{path} has no valid {name}: fetch it again")
