"""One package per architecture, found by the `model_type` of the config: add one to add one."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from ..errors import CheckpointError, quote
from ..plan import Plan
from ..source.tensor import SourceTensor


class Architecture(Protocol):
    """What each of them offers."""

    def make_plan(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, SourceTensor],
        *,
        n_tokens: int | None,
        activation: str | None,
        eos_ids: Sequence[int] = (),
    ) -> Plan:
        """Return the plan for a checkpoint with this config.json and these tensors.

        `n_tokens` is the number of ids of the tokenizer, None without one; `activation` overrides
        the config's; `eos_ids` are those of the tokens that end a text. Raises CheckpointError,
        naming the key or the tensor, when something is unknown, contradictory, missing, too many or
        of the wrong shape.
        """
        ...


def names() -> list[str]:
    """Return every known `model_type`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a config.json; raise CheckpointError when it is unknown."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in names():
        shown = quote(model_type) if isinstance(model_type, str) else "not given"
        raise CheckpointError(
            f"the model_type of config.json is {shown}, known ones are {', '.join(names())}: "
            "choose a model of one of these"
        )
    return cast(Architecture, importlib.import_module(f"{__name__}.{model_type}"))
