"""Balances a model: reads each matrix that follows a shared scale once, layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import numpy as np

from ...flatfile.basis import KEY_CONSTANT, KEYS, MLP, VALUE_CONSTANT, VALUES
from ...flatfile.layout import Linear, linears, norms
from ...flatfile.spec import Spec
from .balance import Balance
from .gains import channel_weight, share_evenly, share_gain
from .heads import Heads
from .inside import Inside
from .rewrites import mlp_of, scores_of, values_of
from .source import Source
from .sums import Doubles, Sums, add_up


def solve(spec: Spec, wanted: Collection[str], source: Source) -> Balance:
    """Return the balance of a model of `spec`, read from `source`, with the rewrites `wanted`.

    `wanted` are names of `rewrites`. Raises what `source` raises, and what `source.not_finite`
    returns for the first row with a NaN or Inf.
    """
    solver = _Solver(spec, wanted, source)
    for matrix in linears(spec):
        solver.balance_norm(matrix.reads)
        solver.absorb(matrix)
        if matrix.role == "qkv":
            solver.balance_attention(matrix)
        if matrix.role == "mlp_up":
            solver.balance_mlp(matrix)
    return solver.balance


@final
class _Solver:
    def __init__(self, spec: Spec, wanted: Collection[str], source: Source) -> None:
        self.balance = Balance()
        self._heads, self._inside = Heads(spec), Inside(spec)
        self._norms = {norm.name: norm for norm in norms(spec)}
        self._readers: dict[str, list[Linear]] = {}  # by what they read
        for matrix in linears(spec):
            self._readers.setdefault(matrix.reads, []).append(matrix)
        self._wanted = wanted
        self._source = source
        # Of the readers of each norm that a reader has come to; None where they are too large.
        self._sums: dict[str, dict[str, Sums] | None] = {}

    def balance_norm(self, norm: str) -> None:
        """Balance a norm against all matrices that read it, when the first of them comes.

        They share the factors of their columns: a channel weighs what it weighs in all of them.
        """
        if norm not in self._wanted or norm in self._sums:
            return
        readers = self._readers[norm]
        moves = self._bias_moves(norm)
        found = {matrix.name: self._sums_after_norm(matrix, moves) for matrix in readers}
        known = {name: sums for name, sums in found.items() if sums is not None}
        self._sums[norm] = known if len(known) == len(readers) else None
        if self._sums[norm] is None:
            return
        weight, bias = self._norm_vectors(norm)
        if moves:
            bias = np.zeros_like(bias)
        first, *others = (known[matrix.name].columns for matrix in readers)
        gain = share_gain(channel_weight(weight, bias), sum(others, first))
        self._store(f"{norm}.weight", weight * gain.norm)
        if self._norms[norm].bias:
            self._store(f"{norm}.bias", bias * gain.norm)
        for matrix in readers:
            self.balance.set_factors(matrix.name, columns=gain.columns)

    def absorb(self, matrix: Linear) -> None:
        """Give `matrix` the bias of the norm that it reads, if that has been balanced and moves."""
        sums = (self._sums.get(matrix.reads) or {}).get(matrix.name)
        if sums is not None and self._bias_moves(matrix.reads):
            self._store(f"{matrix.name}.bias", self._bias(matrix, sums))

    def balance_attention(self, matrix: Linear) -> None:
        """Balance the matrix of queries, keys and values within itself and with what reads it."""
        scores, values = scores_of(matrix), values_of(matrix)
        if scores not in self._wanted and values not in self._wanted:
            return
        sums = self._known_sums(matrix)
        if sums is None:
            return
        # Of the outputs, but for a share that is the same for all: the inputs are independent.
        squares = sums.rows / matrix.columns
        bias = self._bias(matrix, sums)
        factors = np.ones(matrix.rows)
        if scores in self._wanted:
            self._record(KEY_CONSTANT, matrix, self._heads.take_constant_keys(bias))
            factors *= self._heads.score_factors(squares + bias * bias)
            self._record(KEYS, matrix, self._heads.keys(factors))
        if values in self._wanted:
            (reader,) = self._readers[matrix.name]
            self._share_values(reader, factors, squares, bias)
        self.balance.set_factors(matrix.name, rows=factors)
        if matrix.bias:
            self._store(f"{matrix.name}.bias", bias * factors)

    def _share_values(
        self, matrix: Linear, factors: Doubles, squares: Doubles, bias: Doubles
    ) -> None:
        """Balance values against `matrix`, which reads them, and move their bias into its own.

        The weights of attention sum to 1, so a constant in the values is one in its outputs.
        """
        constant = self._heads.spread_values(self._heads.values(bias))
        sums = add_up(self._source, matrix, shift=constant if matrix.bias else None)
        if sums is None:
            return
        outputs = squares if matrix.bias else squares + bias * bias  # what is left in the values
        if matrix.bias:
            self._store(f"{matrix.name}.bias", self._vector(f"{matrix.name}.bias") + sums.shifted)
            self._record(VALUE_CONSTANT, matrix, self._heads.values(bias))
            self._heads.values(bias)[:] = 0
        columns = self._heads.gather_values(sums.columns / matrix.rows)
        shares = share_evenly(np.sqrt(self._heads.values(outputs)), np.sqrt(columns))
        self._heads.values(factors)[:] = shares
        self._record(VALUES, matrix, shares)
        self.balance.set_factors(matrix.name, columns=1 / self._heads.spread_values(shares))

    def balance_mlp(self, matrix: Linear) -> None:
        """Balance the MLP's first matrix, or the half that a gate multiplies, with its second."""
        if mlp_of(matrix) not in self._wanted:
            return
        (reader,) = self._readers[matrix.name]
        sums, after = self._known_sums(matrix), add_up(self._source, reader)
        if sums is None or after is None:
            return
        # The inputs are independent, and a norm makes their mean square 1.
        bias = self._bias(matrix, sums)
        inside = self._inside.squares(sums.rows, bias)
        shares = share_evenly(np.sqrt(inside), np.sqrt(after.columns))
        self._record(MLP, matrix, shares)
        factors = self._inside.row_factors(shares)
        self.balance.set_factors(matrix.name, rows=factors)
        self.balance.set_factors(reader.name, columns=1 / shares)
        if matrix.bias:
            self._store(f"{matrix.name}.bias", bias * factors)

    def _known_sums(self, matrix: Linear) -> Sums | None:
        """Sums of a matrix whose norm had its turn: those found then, if it was balanced."""
        if matrix.reads in self._sums:
            return (self._sums[matrix.reads] or {}).get(matrix.name)
        return self._sums_after_norm(matrix, moves=False)

    def _bias(self, matrix: Linear, sums: Sums) -> Doubles:
        """The bias of a matrix, with that of its norm if it moves; zeros where it has none."""
        if not matrix.bias:
            return np.zeros(matrix.rows)
        bias = self._vector(f"{matrix.name}.bias")
        return bias + sums.shifted  # zeros where nothing moves

    def _sums_after_norm(self, matrix: Linear, moves: bool) -> Sums | None:
        """Sums of the matrix as it acts on the normalised residual stream, and W @ bias.

        Or as it acts on the stream itself. The norm's bias is a part of its gain if it stays.
        """
        if matrix.reads not in self._norms:
            return add_up(self._source, matrix, relative=True)
        weight, bias = self._norm_vectors(matrix.reads)
        gain = channel_weight(weight, np.zeros_like(bias) if moves else bias)
        return add_up(self._source, matrix, gain=gain, shift=bias if moves else None, relative=True)

    def _bias_moves(self, norm: str) -> bool:
        """Whether the bias of a norm moves into those of what reads it: where all have one."""
        return self._norms[norm].bias and all(matrix.bias for matrix in self._readers[norm])

    def _norm_vectors(self, norm: str) -> tuple[Doubles, Doubles]:
        """The weight and the bias, zeros where the norm has none."""
        weight = self._vector(f"{norm}.weight")
        has_bias = self._norms[norm].bias
        return weight, self._vector(f"{norm}.bias") if has_bias else np.zeros_like(weight)

    def _vector(self, name: str) -> Doubles:
        return self._source.vector(name).astype(np.float64)

    def _store(self, name: str, values: Doubles) -> None:
        self.balance.vectors[name] = values.astype(np.float32)

    def _record(self, name: str, matrix: Linear, values: Doubles) -> None:
        """What takes a rewrite back, in the layer of `matrix`."""
        self.balance.basis[name, matrix.layer] = values.astype(np.float32)
