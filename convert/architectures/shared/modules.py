"""How a checkpoint holds a matrix, bias or norm of the layout, and which pieces give its rows.

A family maps each of the layout's names to a form: a function that returns the pieces of what is
wanted, with the shapes and dtypes of the tensors checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, final

from ...errors import CheckpointError, quote
from ...flatfile.spec import Spec
from ...plan import Constant, Pieces, Product, Rows, alternate
from .names import Tensors

SOURCE_DTYPES = ("F32", "F16", "BF16")


class Wanted(NamedTuple):
    """What a form must give: `part` ("weight" or "bias") of a module of a layer.

    `layer` is "layers.3." or empty. `columns` are None for a vector; the source has `padding`
    fewer.
    """

    layer: str
    part: str
    rows: int
    columns: int | None
    padding: int


@final
class Sources:
    """The tensors of a checkpoint and which of them were used; `mlp_size` is that of the source."""

    def __init__(self, tensors: Tensors, spec: Spec, mlp_size: int) -> None:
        self.spec, self.mlp_size = spec, mlp_size
        self.used: set[str] = set()
        self._tensors = tensors

    def rows(
        self, module: str, wanted: Wanted, rows: int | None = None, transposed: bool = False
    ) -> Rows:
        """Return all rows of `module`, as many as are wanted or `rows`.

        Raises CheckpointError when the tensor is missing or has another shape or no source's dtype.
        """
        tensor = self._tensors.find(f"{wanted.layer}{module}.{wanted.part}")
        size = wanted.rows if rows is None else rows
        expected: tuple[int, ...] = (size,)
        if wanted.columns is not None:
            expected = (size, wanted.columns - wanted.padding)
        turned = transposed and wanted.columns is not None
        if tensor.shape != (expected[::-1] if turned else expected):
            raise CheckpointError(
                f"tensor {quote(tensor.name)} has the shape {list(tensor.shape)} and config.json "
                f"asks for {list(expected[::-1] if turned else expected)}: fetch both from the "
                "same revision"
            )
        if tensor.dtype not in SOURCE_DTYPES:
            raise CheckpointError(
                f"tensor {quote(tensor.name)} is {tensor.dtype}: save the checkpoint as "
                f"{', '.join(SOURCE_DTYPES)} first"
            )
        self.used.add(tensor.name)
        return Rows(tensor.name, 0, size, transposed=turned, padding=wanted.padding)

    def has(self, module: str, wanted: Wanted) -> bool:
        """Whether the checkpoint has what is wanted of `module`."""
        return f"{wanted.layer}{module}.{wanted.part}" in self._tensors.named


Form = Callable[[Sources, Wanted], Pieces]


def whole(module: str) -> Form:
    """The rows of one module, as they are."""
    return lambda sources, wanted: (sources.rows(module, wanted),)


def conv1d(module: str) -> Form:
    """The same of a module that stores its matrix as [in, out]."""
    return lambda sources, wanted: (sources.rows(module, wanted, transposed=True),)


def constant_norm() -> Form:
    """A norm without tensors: weights of 1, biases of 0."""
    return lambda sources, wanted: (Constant(float(wanted.part == "weight"), wanted.rows),)


def every_head(module: str) -> Form:
    """One head's norm, which is that of every head."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        dim = sources.spec["head_dim"]
        return (sources.rows(module, wanted, dim),) * (wanted.rows // dim)

    return pieces


def norm_per_head(module: str) -> Form:
    """A norm for each head, module.0, module.1 ...; without biases in the source, zeros."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        if wanted.part == "bias":
            return (Constant(0, wanted.rows),)
        dim = sources.spec["head_dim"]
        heads = range(wanted.rows // dim)
        return tuple(sources.rows(f"{module}.{head}", wanted, dim) for head in heads)

    return pieces


def heads_as_rows(module: str) -> Form:
    """A norm for each head, the rows of one module [heads, head_dim]; without biases, zeros."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        if wanted.part == "bias":
            return (Constant(0, wanted.rows),)
        dim = sources.spec["head_dim"]
        return (sources.rows(module, wanted._replace(columns=dim), wanted.rows // dim),)

    return pieces


def gated(gate: str, up: str) -> Form:
    """Two modules for a gated MLP's first matrix."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        size = sources.mlp_size
        return alternate(sources.rows(gate, wanted, size), sources.rows(up, wanted, size))

    return pieces


def separate(q: str, k: str, v: str, *, interleaved: bool = False) -> Form:
    """Three modules for queries, keys and values.

    `interleaved`: the source rotates dimensions 2i and 2i + 1 of a head together, so the even ones
    of the rotated dimensions of q and k come first, then the odd ones, then the others.
    """

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        spec = sources.spec
        keys = spec["n_kv_heads"] * spec["head_dim"]
        queries, *others = (
            sources.rows(module, wanted, rows)
            for module, rows in ((q, spec["n_heads"] * spec["head_dim"]), (k, keys), (v, keys))
        )
        if not interleaved:
            return (queries, *others)
        return (*halves(queries, spec), *halves(others[0], spec), others[1])

    return pieces


_SELF_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
SELF_ATTENTION = separate(*_SELF_ATTENTION)
INTERLEAVED_SELF_ATTENTION = separate(*_SELF_ATTENTION, interleaved=True)


def halves(rows: Rows, spec: Spec) -> Iterator[Rows]:
    """Yield the rows of heads whose rotated dimensions are interleaved in their usual order."""
    for start in range(rows.start, rows.stop, spec["head_dim"]):
        rotated, stop = start + spec["rotary_dim"], start + spec["head_dim"]
        yield rows._replace(start=start, stop=rotated, step=2)
        yield rows._replace(start=start + 1, stop=rotated, step=2)
        if rotated < stop:
            yield rows._replace(start=rotated, stop=stop)


def grouped(module: str) -> Form:
    """One module that holds, per head of keys, the queries that read it, the key and the value."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        rows, spec = sources.rows(module, wanted), sources.spec
        group, dim = spec["n_heads"] // spec["n_kv_heads"], spec["head_dim"]
        # Whose rows of a group, in heads: its queries, its key, its value.
        parts = ((0, group), (group, group + 1), (group + 1, group + 2))
        return tuple(
            rows._replace(start=(start + first) * dim, stop=(start + last) * dim)
            for first, last in parts
            for start in range(0, spec["n_kv_heads"] * (group + 2), group + 2)
        )

    return pieces


def megatron(attention: str) -> dict[str, str | Form]:
    """A layer's matrices as Megatron-LM names and fuses them, as do families that began with it."""
    return {
        "qkv": grouped(f"{attention}.query_key_value"),
        "attn_out": f"{attention}.dense",
        "mlp_up": "mlp.dense_h_to_4h",
        "mlp_down": "mlp.dense_4h_to_h",
    }


def either(first: str, second: str) -> Form:
    """The first module, or the second where there is no first."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        there = sources.has(first, wanted)
        return (sources.rows(first if there else second, wanted),)

    return pieces


def from_row(module: str, first: int) -> Form:
    """The rows of a module from `first` on."""

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        return (sources.rows(module, wanted, wanted.rows + first)._replace(start=first),)

    return pieces


def projected(
    module: str, width: int, factor: str, *, transposed: bool = False, otherwise: str = ""
) -> Form:
    """The rows of a module, `width` entries each, times the matrix of another or its transpose.

    `otherwise` takes the place of `module` where that is not there.
    """

    def pieces(sources: Sources, wanted: Wanted) -> Pieces:
        there = not otherwise or sources.has(module, wanted)
        rows = sources.rows(module if there else otherwise, wanted._replace(columns=width))
        columns = wanted.columns or 0
        shape = (columns, width) if transposed else (width, columns)
        other = sources.rows(factor, Wanted("", "weight", *shape, 0))
        return (Product(rows, other.tensor, transposed),)

    return pieces
