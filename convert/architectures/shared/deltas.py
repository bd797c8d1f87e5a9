"""Deltas: checkpoints that hold what a training changed, and what they are added to.

Published where the base may not be. Alpaca's (tatsu-lab/stanford_alpaca, weight_diff.py) is F32 and
is added in f32; rows that only it has were trained from the mean of the base's. Vicuna's and others
(lm-sys/FastChat, fastchat/model/apply_delta.py and its version 0.1) are F16 and are added in f16,
the base rounded to that; rows that only they have were trained from zeros.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from ...errors import CheckpointError, quote
from ...source.summed import DTYPES, add, mean_row, read_as
from ...source.tensor import SourceTensor
from .family import Family
from .modules import SOURCE_DTYPES
from .names import Tensors, read_names

_NAME = re.compile(r"(?<![a-z])(?:delta|wdiff|weight[-_]?diff)(?![a-z])", re.IGNORECASE)
# The mean size of a final norm's weights: about 0.01 in deltas, and around 1 or above in models.
_SMALL = 0.1


def is_delta(family: Family, names: list[str], tensors: Mapping[str, SourceTensor]) -> bool:
    """Whether a checkpoint is a delta: one of its names says so and its weights agree."""
    if not any(_NAME.search(name) for name in names):
        return False
    size = _final_norm(family, read_names(tensors, family.names))
    return size is not None and size < _SMALL


def add_base(
    family: Family, delta: Mapping[str, SourceTensor], base: Mapping[str, SourceTensor]
) -> dict[str, SourceTensor]:
    """Return the tensors of the model that `delta` was made of, by their names there.

    The embedding and the head may have more rows than those of `base`. Nothing is read but their
    means and the final norms. Raises CheckpointError, naming the tensor, where the two do not fit,
    or where the delta is none.
    """
    of_delta, of_base = (read_names(tensors, family.names) for tensors in (delta, base))
    changed, whole = _final_norm(family, of_delta), _final_norm(family, of_base)
    if changed is not None and whole is not None and changed > whole / 2:
        raise CheckpointError(
            "the source is no delta, its final norm is as large as that of the base: it is a model "
            "of its own, so convert it without a base"
        )
    for name, tensor in of_base.named.items():
        if name not in of_delta.named:
            raise _unlike(tensor.name, "is in the base and not in the delta")
    grows = {f"{name}.weight" for name in (family.modules["embed"], *family.heads)}
    found = dict(delta)
    for name, tensor in of_delta.named.items():
        if name not in of_base.named:
            raise _unlike(tensor.name, "is in the delta and not in the base")
        found[tensor.name] = _sum(tensor, of_base.named[name], may_grow=name in grows)
    return found


def _sum(delta: SourceTensor, base: SourceTensor, may_grow: bool) -> SourceTensor:
    if delta.dtype not in DTYPES or base.dtype not in SOURCE_DTYPES:
        wrong = delta if delta.dtype not in DTYPES else base
        raise CheckpointError(
            f"tensor {quote(wrong.name)} is {wrong.dtype}: deltas are added in "
            f"{' or '.join(DTYPES)}, to bases in {', '.join(SOURCE_DTYPES)}"
        )
    if delta.shape == base.shape and delta.shape:
        return add(delta, base)
    same_width = len(delta.shape) == 2 == len(base.shape) and delta.shape[1] == base.shape[1]
    if not may_grow or not same_width or delta.shape[0] < base.shape[0]:
        raise _unlike(
            delta.name, f"has the shape {list(delta.shape)} and {list(base.shape)} in the base"
        )
    return add(delta, base, mean_row(base) if delta.dtype == "F32" else None)


def _final_norm(family: Family, tensors: Tensors) -> float | None:
    """The mean size of its weights; None where there is none to be read."""
    tensor = tensors.named.get(f"{family.modules.get('final_norm')}.weight")
    if tensor is None or tensor.dtype not in SOURCE_DTYPES or len(tensor.shape) != 1:
        return None
    return float(np.abs(read_as(tensor, 0, tensor.shape[0], "F32")).mean())


def _unlike(name: str, what: str) -> CheckpointError:
    return CheckpointError(f"tensor {quote(name)} {what}: give the base that the delta is made for")
