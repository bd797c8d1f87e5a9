"""Checkpoints whose weights are there in a form that cannot be converted, and what to do then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from ..errors import CheckpointError, quote
from .tensor import SourceTensor

# What config.json may say of quantised weights; compressed-tensors has used both names.
_CONFIGS = ("quantization_config", "compression_config")
# How quantisers call what they put beside a weight or in its place: bitsandbytes; GPTQ, AWQ and
# EETQ; compressed-tensors, FP8 and NVFP4; HQQ, AQLM, quanto and torchao.
_STATE = re.compile(
    r".*\.(?:(?:nested_)?(?:absmax|quant_map)|quant_state(?:\..+)?|SCB|CB|weight_format"
    r"|qweight|qzeros|g_idx|scales|weight_(?:scales?|scale_inv|scale_2|global_scale|packed|shape"
    r"|g_idx|zero_point)|(?:input|output|[kqv])_(?:scale|global_scale|zero_point)"
    r"|W_q|codes|codebooks|weight\._(?:data|scale|shift)|_weight_(?:qdata|scale|zero_point))",
    re.DOTALL,
)
# Those that hold codes for numbers, or numbers that need a scale.
_NARROW_DTYPES = ("U8", "I8", "I16", "I32", "I64", "F8_E4M3", "F8_E5M2", "BOOL")


def refuse_quantised(config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> None:
    """Check that `tensors`, without old buffers, are no quantiser's.

    A quantization_config that was left beside 16-bit or 32-bit weights is no reason to refuse them.
    Raises CheckpointError with a sentence that says how the weights are quantised, which tensor
    shows it, and what to do.
    """
    described = [config[key] for key in _CONFIGS if config.get(key) is not None]
    shows = next((name for name in tensors if _STATE.fullmatch(name)), None)
    if shows is None and described:
        shows = next((n for n, tensor in tensors.items() if tensor.dtype in _NARROW_DTYPES), None)
    if shows is None:
        return
    methods = [value.get("quant_method") for value in described if isinstance(value, dict)]
    method = next((f" by {quote(name)}" for name in methods if isinstance(name, str)), "")
    raise CheckpointError(
        f"the weights are quantised already{method}, as tensor {quote(shows)} shows: choose the "
        "original checkpoint, or save this one dequantised to 16 bits first"
    )


def refuse_parts(tensors: Mapping[str, SourceTensor]) -> None:
    """Check that `tensors`, without old buffers, are whole and not what sharded training leaves.

    Raises CheckpointError, naming the tensor, with a sentence that says how to gather the weights.
    """
    for name, tensor in tensors.items():
        if "_flat_param" in name.split("."):
            _refuse_part(name, "is a part of flattened weights")
        if tensor.nbytes == 0:
            _refuse_part(name, f"is empty, its shape is {list(tensor.shape)}")


def _refuse_part(name: str, what: str) -> NoReturn:
    raise CheckpointError(
        f"tensor {quote(name)} {what}, as sharded training leaves it (DeepSpeed ZeRO-3, FSDP): "
        "gather the weights (zero_to_fp32.py, stage3_gather_16bit_weights_on_model_save, FSDP's "
        "full state dict) and save them again"
    )
