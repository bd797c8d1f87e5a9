"""From what a flat file's weights make of a point to what the checkpoint's make of it, and back.

A quantised file is balanced (convert/quantise/balancing): it computes the same function, and what
is between two of its matrices is scaled, channel by channel, and moved by constants. And whatever
the file, the runtime leaves a constant out of the keys (csrc/model/weights.cc). The file says what
takes that back (convert/flatfile/basis.py).
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from pythia_rt.convert.errors import FlatFileError, MissingBasis
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.flatfile.basis import (
    KEY_CONSTANT,
    KEYS,
    MLP,
    VALUE_CONSTANT,
    VALUES,
    source_name,
)
from pythia_rt.convert.plan import TILE
from pythia_rt.convert.quantise.balancing import rewrites

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
NORMS = ("attn_norm", "mlp_norm", "final_norm")


class Affine(NamedTuple):
    """What a point's values [..., width] are in the checkpoint: scale * value + shift.

    Both are float32 [width], in the order of the runtime's channels. A scale of 0 marks a channel
    that the checkpoint itself makes constant, by a gain of 0: the file has nothing of it, and its
    matrices do not read it.
    """

    scale: Floats
    shift: Floats

    def to_checkpoint(self, values: NDArray[Any]) -> NDArray[Any]:
        """The checkpoint's values of the runtime's [..., width]."""
        return values * self.scale + self.shift

    def to_runtime(self, values: NDArray[np.floating]) -> Floats:
        """The runtime's values of the checkpoint's [..., width].

        Raises ValueError where a channel that is constant in the checkpoint is another there.
        """
        return self.edit(np.zeros_like(self.scale), values)[1]

    def edit(
        self, scale: NDArray[np.floating], shift: NDArray[np.floating]
    ) -> tuple[Floats, Floats]:
        """What to do with the runtime's values to make c -> scale * c + shift of the checkpoint's.

        `scale` is [width], `shift` [..., width]; so are those that are returned. Raises ValueError
        where that changes a channel that is constant in the checkpoint.
        """
        fixed = self.scale == 0
        moved: Doubles = (np.asarray(scale, np.float64) - 1) * self.shift + shift
        if (moved[..., fixed] != 0).any():
            channel = np.flatnonzero((moved != 0).reshape(-1, len(fixed)).any(axis=0) & fixed)[0]
            raise ValueError(
                f"channel {channel} is constant here, since the checkpoint's gain is 0, and this "
                "quantised file does not read it: edit it in a file of format f32"
            )
        factor = np.where(fixed, 1, self.scale).astype(np.float64)
        kept = np.where(fixed, 1, scale).astype(np.float32)
        return kept, (moved / factor).astype(np.float32)


@final
class Basis:
    """What the values at the points of a file's model are in the checkpoint it came from.

    `of` is exact up to float32 rounding: what is left is what quantising did.
    """

    def __init__(self, file: FlatFile) -> None:
        """Raises FlatFileError where what the file says of it cannot be."""
        self._file, self._spec = file, file.spec
        self._stored = file.basis
        self._done = rewrites(file.spec, file.formats)
        for name, values in self._stored.items():
            good = np.isfinite(values).all() and (name not in (KEYS, VALUES, MLP) or values.all())
            if not good:
                raise FlatFileError(
                    f"{file.path} contradicts itself, its {name} is no basis: convert its source "
                    "again"
                )

    @property
    def is_known(self) -> bool:
        """Whether the file says all that this takes: all but those of older versions do."""
        return bool(self._stored or not self._done) and self._file.source_mlp_size is not None

    def of(self, point: str, layer: int = -1) -> Affine | None:
        """Return what takes `point` of `layer` (-1: of none) back; None where all is as it was.

        `point` is a name of csrc/forward/points.inc. The channels keep the runtime's order, see
        `order`. Scores are not affine in their own values: see `key_constant`. Raises MissingBasis,
        naming the point, for a quantised file without its basis.
        """
        if point in NORMS:
            return self._norm(point, layer)
        if point in ("q", "rot_q"):
            keys = self._factors(KEYS, f"layers.{layer}.scores", point, layer)
            return None if keys is None else _scaled(self._spread(keys))
        if point in ("k", "rot_k"):
            return self._keys(point, layer)
        if point in ("v", "z"):
            return self._values(point, layer)
        if point in ("mlp_pre", "mlp_post"):
            inside = self._factors(MLP, f"layers.{layer}.mlp", point, layer)
            if inside is None:
                return None
            return _scaled(1 / (self._halves(inside) if point == "mlp_pre" else inside))
        return None

    def key_constant(self, layer: int, *, runtime: bool = False, point: str = "k") -> Floats:
        """Return what the runtime leaves out of the keys of `layer`: float32 [n_kv_heads*head_dim].

        In the checkpoint's basis; with `runtime` in that of the runtime's own keys, so that
        score_scale * (q . constant) of the runtime's q is what scores lack. Rotated dimensions are
        0. Raises MissingBasis, naming `point`.
        """
        spec = self._spec
        heads, dim, rotated = spec["n_kv_heads"], spec["head_dim"], spec["rotary_dim"]
        constant = np.zeros((heads, dim), np.float32)
        factors = self._factors(KEYS, f"layers.{layer}.scores", point, layer)
        if spec["qkv_bias"] and spec["qk_norm"] == "none" and rotated < dim:
            if factors is None:
                first = spec["n_heads"] * dim
                bias = self.vector(f"layers.{layer}.qkv.bias", first + heads * dim)[first:]
                constant[:, rotated:] = bias.reshape(heads, dim)[:, rotated:]
            else:
                stored = self._of_layer(KEY_CONSTANT, point, layer)
                constant[:, rotated:] = stored.reshape(heads, dim - rotated)
        if runtime and factors is not None:
            constant *= factors.reshape(heads, dim)
        return constant.reshape(-1)

    def value_constant(self, layer: int) -> Floats | None:
        """Return what the runtime leaves out of the values of `layer`, float32 [n_kv_heads *
        head_dim] in the basis of its own values; None for nothing. Raises MissingBasis."""
        back = self.of("v", layer)
        if back is None or not back.shift.any():
            return None
        constant: Floats = back.shift / back.scale
        return constant

    def left_out(self) -> tuple[dict[int, Floats], dict[int, Floats]]:
        """Return what the runtime leaves out of keys and values by layer, in its own basis; of each
        as far as the file says it."""
        keys: dict[int, Floats] = {}
        values: dict[int, Floats] = {}
        for layer in range(self._spec["n_layers"]):
            with contextlib.suppress(MissingBasis):
                constant = self.key_constant(layer, runtime=True)
                if constant.any():
                    keys[layer] = constant
            with contextlib.suppress(MissingBasis):
                lacking = self.value_constant(layer)
                if lacking is not None:
                    values[layer] = lacking
        return keys, values

    def order(self, point: str) -> NDArray[np.int64] | None:
        """Return which of the runtime's channels of `point` each of the checkpoint's is.

        None where they are alike. Else the checkpoint's values are values[..., order]: where a
        family rotates neighbouring dimensions of a head (GPT-J), and inside a gated MLP, whose gate
        and up alternate and are filled up in the file; mlp_pre then is all of gate, all of up.
        Raises MissingBasis for a file that does not say how wide that is.
        """
        spec = self._spec
        if point in ("q", "k", "rot_q", "rot_k", "norm_q", "norm_k"):
            n_heads = spec["n_heads" if point.endswith("q") else "n_kv_heads"]
            return self._neighbours(n_heads)
        if point not in ("mlp_pre", "mlp_post") or spec["mlp"] == "plain":
            return None
        width = self._file.source_mlp_size
        if width is None:
            raise self._missing(point)
        inside = np.arange(width)
        if point == "mlp_post":
            return None if width == spec["mlp_size"] else inside
        gate = inside // TILE * 2 * TILE + inside % TILE
        return np.concatenate([gate, gate + TILE])

    def outputs(self, role: str, layer: int) -> Affine | None:
        """Return what takes back what the file's matrix of `role` puts out, its bias included.

        The runtime does not add all of that: see `key_constant`.
        """
        if role == "mlp_up":
            return self.of("mlp_pre", layer)
        parts = [self.of(point, layer) for point in ("q", "k", "v")] if role == "qkv" else []
        if len(parts) == 3 and KEYS not in self._stored:
            parts[1] = None  # it is in the file's bias
        if all(part is None for part in parts):
            return None
        keys = self._spec["n_kv_heads"] * self._spec["head_dim"]
        sizes = (self._spec["n_heads"] * self._spec["head_dim"], keys, keys)
        known = [
            part or Affine(np.ones(size, np.float32), np.zeros(size, np.float32))
            for part, size in zip(parts, sizes, strict=True)
        ]
        return Affine(*map(np.concatenate, zip(*known, strict=True)))

    def source(self, role: str, part: str, layer: int) -> Floats | None:
        """Return what the file keeps of a vector of the checkpoint, None where it keeps nothing.

        `part` is "weight" or "bias" of a norm or a matrix of `role`, in the runtime's order.
        """
        stored = self._stored.get(source_name(role, part))
        return stored if stored is None or layer < 0 else stored[layer]

    def vector(self, name: str, size: int) -> Floats:
        """Return the first `size` entries of a vector or table of the file."""
        return self._file.tensors[name].view(np.float32)[:size]

    def _norm(self, point: str, layer: int) -> Affine | None:
        name = point if layer < 0 else f"layers.{layer}.{point}"
        scales = self._norm_scales(name, point)
        if scales is None:
            return None
        shift = np.zeros(len(scales), np.float32)
        if source_name(point, "bias") in self._stored:
            # A bias that did not move was scaled as the gain was.
            bias = self.vector(f"{name}.bias", len(shift))
            shift = np.where(bias == 0, self._of_layer(source_name(point, "bias"), point, layer), 0)
        return Affine(scales.astype(np.float32), shift.astype(np.float32))

    def _norm_scales(self, name: str, point: str) -> Doubles | None:
        """What a norm's outputs, without what is constant in them, are multiplied by."""
        role, layer = name.rpartition(".")[2], int(name.split(".")[1]) if "." in name else -1
        if source_name(role, "weight") not in self._stored:
            if name in self._done:
                raise self._missing(point, layer)
            return None
        scales: Doubles = np.zeros(self._spec["hidden_size"])
        for part in ("bias", "weight"):
            if source_name(role, part) in self._stored:
                ours = self.vector(f"{name}.{part}", len(scales)).astype(np.float64)
                theirs = self._of_layer(source_name(role, part), point, layer)
                np.divide(theirs, ours, out=scales, where=ours != 0)
        return scales

    def _keys(self, point: str, layer: int) -> Affine | None:
        constant = self.key_constant(layer, point=point)
        factors = self._factors(KEYS, f"layers.{layer}.scores", point, layer)
        if factors is None:
            return Affine(np.ones_like(constant), constant) if constant.any() else None
        return Affine((1 / factors).astype(np.float32), constant)

    def _values(self, point: str, layer: int) -> Affine | None:
        factors = self._factors(VALUES, f"layers.{layer}.values", point, layer)
        if factors is None:
            return None
        constant = np.zeros(len(factors), np.float32)
        if self._spec["qkv_bias"] and self._spec["attn_out_bias"]:
            constant = self._of_layer(VALUE_CONSTANT, point, layer)
        back = Affine((1 / factors).astype(np.float32), constant)
        return back if point == "v" else Affine(*map(self._spread, back))

    def _spread(self, values: Floats) -> Floats:
        """Of each head of queries what is given of the keys' and values' that it reads."""
        heads = values.reshape(self._spec["n_kv_heads"], -1)
        group = self._spec["n_heads"] // self._spec["n_kv_heads"]
        return np.repeat(heads, group, axis=0).reshape(-1)

    def _halves(self, inside: Floats) -> Floats:
        """Of the outputs of the MLP's first matrix what is given of its inside: a gate has 1."""
        if self._spec["mlp"] == "plain":
            return inside
        tiles = np.ones((len(inside) // TILE, 2, TILE), np.float32)
        tiles[:, 1] = inside.reshape(-1, TILE)
        return tiles.reshape(-1)

    def _neighbours(self, n_heads: int) -> NDArray[np.int64] | None:
        # Only this asks what a spec came from.
        from pythia_rt.convert.architectures import rotates_neighbours

        dim, rotated = self._spec["head_dim"], self._spec["rotary_dim"]
        if rotated == 0 or not rotates_neighbours(self._spec["architecture"]):
            return None
        order = np.arange(dim)
        order[0:rotated:2] = np.arange(rotated // 2)
        order[1:rotated:2] = np.arange(rotated // 2, rotated)
        return (np.arange(n_heads)[:, None] * dim + order).reshape(-1)

    def _factors(self, name: str, rewrite: str, point: str, layer: int) -> Floats | None:
        """The factors `name` of a layer; None where `rewrite` was not done."""
        if name not in self._stored and rewrite not in self._done:
            return None
        return self._of_layer(name, point, layer)

    def _of_layer(self, name: str, point: str, layer: int) -> Floats:
        if name not in self._stored:
            raise self._missing(point, layer)
        values = self._stored[name]
        return values if layer < 0 else values[layer]

    def _missing(self, point: str, layer: int = -1) -> MissingBasis:
        where = point if layer < 0 else f"{point} of layer {layer}"
        return MissingBasis(
            f"{self._file.path} was written by an older pythia_rt and does not say what takes "
            f"{where} back to the checkpoint's values: convert its source again"
        )


def _scaled(scale: NDArray[Any]) -> Affine:
    return Affine(scale.astype(np.float32), np.zeros(len(scale), np.float32))
