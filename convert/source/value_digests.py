"""Digests of what tensors hold, by which checkpoints are compared: over values, and over bytes.

In values -0 counts as +0: a save on another device may turn one into the other. Buffers that
trainings leave in their saves (masks of attention, tables of the rotation) are not counted, for
they are equal in any two checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..flatfile.metadata import to_json
from .tensor import MAX_RUN_BYTES, SourceTensor

BLOCK_BYTES = 1 << 20
SHORT = 16  # hexadecimal digits of a digest, where many are kept
_MAX_STORED = 16_000  # bytes of JSON: without the single tensors where they take more
_UNREADABLE = "0" * 64  # of a tensor that does not lie in rows: no model needs it
# A bias of attention is a vector; what is called so and has more dimensions is a mask.
_MASK = re.compile(r"(?:.*\.)?(?:attention|attn|self_attn|self_attention)\.bias", re.DOTALL)
_BUFFER = re.compile(
    r"(?:.*\.)?(?:masked_bias|rotary(?:_emb)?\.(?:inv_freq|original_inv_freq|cos_cached|sin_cached))",
    re.DOTALL,
)
_MINUS_ZERO = {  # by dtype: as what its bytes are read, and -0 in that
    "F16": ("<u2", 1 << 15), "BF16": ("<u2", 1 << 15), "F32": ("<u4", 1 << 31),
    "F64": ("<u8", 1 << 63),
}  # fmt: skip


@dataclass(frozen=True)
class TensorDigest:
    """SHA-256 of one tensor in hexadecimal: over its values, and over where its -0 are too.

    The second tells what the first does not; they are equal where there is no -0.
    """

    values: str
    raw: str
    is_large: bool = True  # a matrix: vectors may well be equal in two checkpoints


@dataclass(frozen=True)
class ValueDigests:
    """Digests of a checkpoint: of all its tensors together and, by name, of each.

    `values` and `raw` are SHA-256 over the lines "name digest" in the order of names.
    """

    values: str
    raw: str
    tensors: Mapping[str, TensorDigest]

    def stored(self) -> dict[str, Any]:
        """Return what a flat file keeps of them: both sums, and what begins those of matrices."""
        short = {n: t.values[:SHORT] for n, t in sorted(self.tensors.items()) if t.is_large}
        found = {"values": self.values, "raw": self.raw, "tensors": short}
        return found if len(to_json(found)) <= _MAX_STORED else {**found, "tensors": {}}


def is_buffer(tensor: SourceTensor) -> bool:
    """Whether a tensor is no weight but a mask or table that any checkpoint of its kind has."""
    return bool(
        _BUFFER.fullmatch(tensor.name) or (_MASK.fullmatch(tensor.name) and len(tensor.shape) > 1)
    )


def digest_tensor(
    tensor: SourceTensor,
    *,
    limit: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> TensorDigest:
    """Return the digests of a tensor: its dtype, its shape and its elements in row-major order.

    With `limit`, of so many bytes from its beginning, rounded up to rows. Memory is taken for a
    block. A tensor that does not lie in rows, or in rows longer than any, which only a pickle may
    hold, has a digest of zeros.
    Raises CheckpointError where the file has become shorter, and OSError.
    """
    large = len(tensor.shape) > 1
    if tensor.strides is not None and (len(tensor.shape) > 2 or tensor.row_bytes > MAX_RUN_BYTES):
        return TensorDigest(_UNREADABLE, _UNREADABLE, large)
    values = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode())
    zeros = hashlib.sha256()  # of where -0 is, which with the values says what the bytes are
    any_zeros = False
    kind, minus_zero = _MINUS_ZERO.get(tensor.dtype, ("u1", -1))
    end = tensor.shape[0] if tensor.shape else 1
    if limit is not None and tensor.row_bytes:
        end = min(end, -(-limit // tensor.row_bytes))
    if tensor.strides is None:  # a row may be as long as the file
        end *= math.prod(tensor.shape[1:])
        tensor = tensor.flattened()
    step = max(1, BLOCK_BYTES // max(1, tensor.row_bytes))
    buffer = np.empty(min(step, end) * tensor.row_bytes, np.uint8)
    done = 0  # elements
    for start in range(0, end, step):
        if stopped():
            break
        stop = min(start + step, end)
        block = buffer[: (stop - start) * tensor.row_bytes]
        tensor.read_rows(start, stop, block.data)
        numbers = block.view(kind)
        if minus_zero >= 0 and (found := numbers == minus_zero).any():
            numbers[found] = 0
            zeros.update((np.flatnonzero(found) + done).astype("<i8").data)
            any_zeros = True
        values.update(block.data)
        done += len(numbers)
    digest = values.hexdigest()
    raw = hashlib.sha256(digest.encode() + zeros.digest()).hexdigest() if any_zeros else digest
    return TensorDigest(digest, raw, large)


def combine(tensors: Mapping[str, TensorDigest]) -> ValueDigests:
    """Return the digests of a checkpoint of these tensors."""

    def together(kind: str) -> str:
        lines = (f"{name} {getattr(tensors[name], kind)}\n" for name in sorted(tensors))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    return ValueDigests(together("values"), together("raw"), tensors)


def undigested(tensors: Mapping[str, SourceTensor]) -> dict[str, Any]:
    """Return what `ValueDigests.stored` will give for these tensors, with zeros for digests."""
    zeros = TensorDigest(_UNREADABLE, _UNREADABLE)
    return combine(
        {name: replace(zeros, is_large=len(t.shape) > 1) for name, t in tensors.items()}
    ).stored()


def digest_values(tensors: Mapping[str, SourceTensor], *, limit: int | None = None) -> ValueDigests:
    """Return the digests of the tensors that are no buffers; see `digest_tensor`."""
    return combine(
        {
            name: digest_tensor(tensor, limit=limit)
            for name, tensor in tensors.items()
            if not is_buffer(tensor)
        }
    )
