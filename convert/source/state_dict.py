"""Finds the state dict in what a file of torch.save holds: bare, or within a training's state.

Lightning saves {"state_dict": ..., "epoch": ...}, DeepSpeed {"module": ...}, many a training loop
{"model": ..., "optimizer": ...}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError, quote
from .unpickler import TensorView

# Of dictionaries around the state dict. The tensors of an optimizer lie deeper.
MAX_NESTING = 2


def state_dict(value: Any, where: str) -> dict[str, TensorView]:
    """Return the state dict that `value` is or, as the only one, holds; see MAX_NESTING.

    `where` begins the sentences. Raises CheckpointError where there is none, or several.
    """
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds no state dict: save model.state_dict() alone")
    if not value or _is_state_dict(value):
        return value
    level = {id(value): ("", value)}
    for _ in range(MAX_NESTING):
        # By identity: a pickle can hold one dictionary in a million places.
        level = {
            id(inner): (f"{path}.{key}" if path else str(key), inner)
            for path, outer in level.values()
            for key, inner in outer.items()
            if isinstance(inner, dict)
        }
        found = [(path, inner) for path, inner in level.values() if _is_state_dict(inner)]
        if len(found) > 1:
            raise CheckpointError(
                f"{where} holds several state dicts, {quote(found[0][0])} and "
                f"{quote(found[1][0])}: save the one to be converted alone"
            )
        if found:
            return found[0][1]
    name = next(key for key, inner in value.items() if not isinstance(inner, TensorView))
    raise CheckpointError(
        f"{where} holds {quote(str(name))}, which is not a tensor: "
        "save model.state_dict() alone, without optimizer or nesting"
    )


def all_views(value: Any) -> Iterator[TensorView]:
    """Yield every tensor in dictionaries, lists and tuples, however deep, each container once."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorView):
            yield item
        elif isinstance(item, (dict, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)


def _is_state_dict(value: dict[Any, Any]) -> bool:
    """Whether `value` holds tensors by name and nothing else."""
    return bool(value) and all(
        isinstance(name, str) and isinstance(tensor, TensorView) for name, tensor in value.items()
    )
