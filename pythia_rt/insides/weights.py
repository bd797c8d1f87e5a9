"""The weights of a flat file as its checkpoint has them, by our names and by TransformerLens'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.errors import quote, shown
from pythia_rt.convert.flatfile import FlatFile
from pythia_rt.convert.flatfile.basis import UNREAD
from pythia_rt.convert.flatfile.layout import Linear, linears, norms, tables
from pythia_rt.insides.basis import Affine, Basis

Floats = NDArray[np.float32]
IN_LAYER = "layers.N."


class Line(NamedTuple):
    """A weight: our name, its shape, what it is; TransformerLens' name, and which axes it has."""

    name: str
    shape: str
    meaning: str
    other: str = ""
    axes: tuple[int, ...] = ()


def _norm(name: str, what: str, other: str = "") -> tuple[Line, Line]:
    """The gain and the bias of a norm."""
    return (
        Line(f"{name}.weight", "[hidden]", f"gain of {what}", other and f"{other}.w"),
        Line(f"{name}.bias", "[hidden]", "its bias", other and f"{other}.b"),
    )


def _heads(name: str, n: str, what: str) -> tuple[Line, Line]:
    """The matrix and the bias of queries, keys or values."""
    attn = f"blocks.N.attn.{{}}_{name.upper()}"
    return (
        Line(f"layers.N.{name}.weight", f"[{n}, head_dim, hidden]", f"makes {what} of attn_norm",
             attn.format("W"), (0, 2, 1)),
        Line(f"layers.N.{name}.bias", f"[{n}, head_dim]", "its bias", attn.format("b")),
    )  # fmt: skip


def _mlp(name: str, shape: str, what: str, other: str) -> tuple[Line, Line]:
    """A matrix of the MLP and its bias."""
    rows = shape.strip("[]").split(",")[0]
    return (
        Line(f"layers.N.{name}.weight", shape, what, f"blocks.N.mlp.W_{other}", (1, 0)),
        Line(f"layers.N.{name}.bias", f"[{rows}]", "its bias", f"blocks.N.mlp.b_{other}"),
    )


# THE table of weights.
WEIGHTS: tuple[Line, ...] = (
    Line("embed.weight", "[vocab, hidden]", "the embedding", "embed.W_E", (0, 1)),
    Line("embed_positions.weight", "[positions, hidden]", "what each position adds to it",
         "pos_embed.W_pos", (0, 1)),
    *_norm("embed_norm", "the embedding's norm"),
    *_norm("layers.N.attn_norm", "the norm before attention, or after it", "blocks.N.ln1"),
    *_norm("layers.N.mlp_norm", "the norm before the MLP, or after it", "blocks.N.ln2"),
    Line("layers.N.q_norm.weight", "[heads * head_dim]", "gain of the queries' norm, each head's"),
    Line("layers.N.q_norm.bias", "[heads * head_dim]", "its bias"),
    Line("layers.N.k_norm.weight", "[kv_heads * head_dim]", "gain of the keys' norm, each head's"),
    Line("layers.N.k_norm.bias", "[kv_heads * head_dim]", "its bias"),
    *_heads("q", "heads", "queries"),
    *_heads("k", "kv_heads", "keys"),
    *_heads("v", "kv_heads", "values"),
    Line("layers.N.o.weight", "[hidden, heads, head_dim]", "makes attn_out of z",
         "blocks.N.attn.W_O", (1, 2, 0)),
    Line("layers.N.o.bias", "[hidden]", "its bias", "blocks.N.attn.b_O"),
    *_mlp("mlp_gate", "[mlp, hidden]", "makes the gate of mlp_norm", "gate"),
    *_mlp("mlp_up", "[mlp, hidden]", "makes mlp_pre of mlp_norm, or what a gate multiplies", "in"),
    *_mlp("mlp_down", "[hidden, mlp]", "makes mlp_out of mlp_post", "out"),
    *_norm("final_norm", "the norm before the head", "ln_final"),
    Line("head.weight", "[vocab, hidden]",
         "makes logits of final_norm; a tied one is the embedding", "unembed.W_U", (1, 0)),
    Line("head.bias", "[vocab]", "its bias", "unembed.b_U"),
)  # fmt: skip


@final
class Weights:
    """The weights of a file. Everything is dequantised when it is asked for, and a copy."""

    def __init__(self, file: FlatFile) -> None:
        """Raises FlatFileError where what the file says of its basis cannot be."""
        self._file, self._spec = file, file.spec
        self._basis = Basis(file)
        self._linears = {matrix.name: matrix for matrix in linears(file.spec)}
        self._norms = {norm.name: norm for norm in norms(file.spec)}
        self._tables = {table.name: table for table in tables(file.spec)}

    def names(self) -> list[str]:
        """Return our names of all weights that the file has."""
        return [name for name, _ in self._known()]

    def get(self, name: str) -> Floats:
        """See `Model.weight`."""
        line, layer, is_ours = self._find(name)
        found = self._value(*_role(line.name), layer)
        return found if is_ours or not line.axes else found.transpose(line.axes)

    def matrix(self, name: str) -> tuple[Floats, Floats]:
        """Return a matrix of the file, and the bias that goes with it, in the checkpoint's basis.

        The bias is zeros where it has none, and not quite the checkpoint's: the two make of the
        checkpoint's values what the file makes of its own. Where the file computes so (W x + b) +
        ho of x = (c - h) / s, they are so W / s, and so b + ho less that times h. Both have the
        runtime's order.
        """
        values = self._matrix(name)
        return values, self._bias(name, values)

    def _matrix(self, name: str) -> Floats:
        matrix = self._linears[name]
        form = self._file.formats[matrix.name]
        layout = _core.packed_layout(form, matrix.rows, matrix.columns)
        parts = [self._file.tensors[f"{matrix.name}.{part}"] for part, _, _ in layout]
        values: Floats = _core.unpack(form, parts, matrix.rows, matrix.columns)
        after = self._basis.outputs(matrix.role, matrix.layer)
        if after is not None:
            values *= after.scale[:, None]
        before = self._before(matrix)
        if before is not None:
            # Of a channel that is constant in the checkpoint, or not read, the file has nothing.
            live = (before.scale != 0) & (before.scale != 1 / UNREAD)
            values *= np.divide(1, before.scale, out=np.zeros_like(before.scale), where=live)
        return values

    def _bias(self, name: str, values: Floats | None = None) -> Floats:
        """The bias beside `values`, which are made only where it takes them."""
        matrix = self._linears[name]
        bias = np.zeros(matrix.rows, np.float32)
        if matrix.bias:
            bias = self._basis.vector(f"{matrix.name}.bias", matrix.rows).copy()
        after = self._basis.outputs(matrix.role, matrix.layer)
        if after is not None:
            bias = bias * after.scale + after.shift
        before = self._before(matrix)
        if before is not None and before.shift.any():
            bias = bias - (self._matrix(name) if values is None else values) @ before.shift
        return bias

    def _before(self, matrix: Linear) -> Affine | None:
        """What takes back what a matrix reads."""
        read = matrix.reads.rpartition(".")[2]
        return self._basis.of(_READS.get(read, read), matrix.layer)

    def _find(self, name: str) -> tuple[Line, int, bool]:
        """The line of a name, its layer, and whether the name is ours."""
        if not isinstance(name, str):
            raise ValueError(f"a weight is named by a str, not by {shown(name)}")
        general, layer = name, -1
        if match := re.fullmatch(r"(layers|blocks)\.(-?\d{1,9})\.(.+)", name):
            begin, number, rest = match.groups()
            general, layer, last = f"{begin}.N.{rest}", int(number), self._spec["n_layers"]
            if not -last <= layer < last:
                raise ValueError(
                    f"there is no layer {layer} for {quote(name)}: this model has the layers 0 to "
                    f"{last - 1}"
                )
            layer %= last
        in_layer = general != name
        for line in WEIGHTS:
            if line.name.startswith(IN_LAYER) != in_layer:
                continue
            # Outside of layers theirs are known by their last part too, as the bridge has them.
            last_part = "" if in_layer else line.other.rpartition(".")[2]
            is_ours = general in (line.name, line.name.removesuffix(".weight"))
            if is_ours or (general and general in (line.other, last_part)):
                if not self._has(*_role(line.name), layer):
                    raise ValueError(
                        f"this model has no {quote(name)}: it has {', '.join(self._roles())}"
                    )
                return line, layer, is_ours
        raise ValueError(f"there is no weight {quote(name)}: {self._near(name, layer)}")

    def _near(self, name: str, layer: int) -> str:
        import difflib  # rarely needed

        names = [each for pair in self._known(max(layer, 0)) for each in pair if each]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.7)
        if near:
            return f"near ones are {', '.join(near)}"
        return f"there are {', '.join(self._roles())}"

    def _roles(self) -> list[str]:
        return [line.name for line in WEIGHTS if self._has(*_role(line.name), 0)]

    def _known(self, only: int | None = None) -> Iterator[tuple[str, str]]:
        """Yield our name and theirs of what there is, of all layers or of one."""
        layers = range(self._spec["n_layers"]) if only is None else [only]
        for line in WEIGHTS:
            for layer in layers if line.name.startswith(IN_LAYER) else [-1]:
                if self._has(*_role(line.name), layer):
                    yield line.name.replace("N", str(layer)), line.other.replace("N", str(layer))

    def _has(self, role: str, part: str, layer: int) -> bool:
        prefix = f"layers.{layer}." if layer >= 0 else ""
        if (norm := self._norms.get(prefix + role) or self._norms.get(role)) is not None:
            return part == "weight" or norm.bias
        if role in ("mlp_gate", "mlp_up") and self._spec["mlp"] != "gated":
            return role == "mlp_up" and (part == "weight" or self._spec["mlp_bias"])
        if role == "embed_positions":
            return role in self._tables
        if role == "head" and self._spec["tied_head"]:
            return part == "weight"
        matrix = self._linears.get(_MATRICES.get(role, role).replace("N", str(max(layer, 0))))
        return matrix is not None and (part == "weight" or matrix.bias)

    def _value(self, role: str, part: str, layer: int) -> Floats:
        spec, prefix = self._spec, f"layers.{layer}." if layer >= 0 else ""
        if prefix + role in self._norms:
            return self._of_norm(prefix + role, role, part, layer)
        if role == "embed_positions":
            rows, columns = self._tables[role].rows, self._tables[role].columns
            return np.array(self._basis.vector(role, rows * columns)).reshape(rows, columns)
        if role == "head" and spec["tied_head"]:
            role = "embed"
        name = _MATRICES.get(role, role).replace("N", str(layer))
        values = self._of_matrix(name, part)
        dim = spec["head_dim"]
        if role in ("q", "k", "v"):
            ends = np.cumsum([spec["n_heads"], spec["n_kv_heads"], spec["n_kv_heads"]]) * dim
            values = np.split(values, ends[:-1])["qkv".index(role)]
            values = _ordered(values, self._basis.order(role))
            return values.reshape(-1, dim, *values.shape[1:])
        if role == "o" and part == "weight":
            return values.reshape(len(values), -1, dim)
        if role in ("mlp_gate", "mlp_up"):
            values = _ordered(values, self._basis.order("mlp_pre"))
            if spec["mlp"] == "gated":
                values = np.split(values, 2)[("mlp_gate", "mlp_up").index(role)]
        if role == "mlp_down" and part == "weight":
            values = _ordered(values.T, self._basis.order("mlp_post")).T
        return np.ascontiguousarray(values)

    def _of_norm(self, name: str, role: str, part: str, layer: int) -> Floats:
        self._basis.of(role, layer)  # raises where the file should have the source's
        stored = self._basis.source(role, part, layer)
        if stored is None:
            stored = self._basis.vector(f"{name}.{part}", self._norms[name].size)
        return np.array(stored)

    def _of_matrix(self, name: str, part: str) -> Floats:
        matrix = self._linears[name]
        stored = self._basis.source(matrix.role, part, matrix.layer)
        if stored is not None:
            return np.array(stored)
        # A bias that the file does not keep comes back by weights that are rounded.
        return self._matrix(name) if part == "weight" else self._bias(name)


# Our parts of matrices of the file, and the points that matrices read where it is no norm.
_MATRICES = {
    **dict.fromkeys(("q", "k", "v"), "layers.N.qkv"),
    "o": "layers.N.attn_out",
    **dict.fromkeys(("mlp_gate", "mlp_up"), "layers.N.mlp_up"),
    "mlp_down": "layers.N.mlp_down",
}
_READS = {"qkv": "z", "mlp_up": "mlp_post"}


def _role(name: str) -> tuple[str, str]:
    role, _, part = name.removeprefix(IN_LAYER).rpartition(".")
    return role, part


def _ordered(rows: Floats, order: NDArray[np.int64] | None) -> Floats:
    return rows if order is None else rows[order]


def table() -> str:
    """The weights as a table of Markdown, for the documents."""
    lines = ["| weight | shape | what it is | TransformerLens | its shape |", "|---" * 5 + "|"]
    for line in WEIGHTS:
        parts = line.shape.strip("[]").split(", ")
        axes = line.axes or range(len(parts))
        other = f"`{line.other}` | [{', '.join(parts[i] for i in axes)}]" if line.other else " | "
        lines.append(f"| `{line.name}` | {line.shape} | {line.meaning} | {other} |")
    return "\n".join(lines)
