"""Balances a model: reads each matrix that follows a shared scale once, layer by layer."""

from __future__ import annotations

from collections.abc import Collection
from typing import final

import numpy as np

from ...flatfile.layout import Linear, linears, norms
from ...flatfile.spec import Spec
from .balance import Balance
from .gains import channel_weight, share_evenly, share_gain
from .heads import Heads
from .parts import values_of
from .source import Source
from .sums import Doubles, Sums, add_up


def solve(spec: Spec, wanted: Collection[str], source: Source) -> Balance:
    """Return the balance of a model of `spec`, read from `source`, with the rewrites `wanted`.

    `wanted` are names of `rewrites`. Raises what `source` raises, and what `source.not_finite`
    returns for the first row with a NaN or Inf.
    """
    solver = _Solver(spec, wanted, source)
    for matrix in linears(spec):
        if matrix.role == "qkv":
            solver.attention(matrix)
        else:
            solver.after_norm(matrix)
    return solver.balance


@final
class _Solver:
    def __init__(self, spec: Spec, wanted: Collection[str], source: Source) -> None:
        self.balance = Balance()
        self._heads = Heads(spec)
        self._norms = {norm.name: norm for norm in norms(spec)}
        self._readers = {matrix.reads: matrix for matrix in linears(spec)}
        self._wanted = wanted
        self._source = source

    def after_norm(self, matrix: Linear) -> None:
        """Balance a matrix against the norm that it reads, if it reads one."""
        norm = matrix.reads
        if norm in self._wanted:
            sums = self._sums_after_norm(norm, matrix)
            if sums is not None:
                self._share_norm(norm, matrix, sums)
                if matrix.bias:
                    bias = f"{matrix.name}.bias"
                    self._store(bias, self._vector(bias) + sums.shifted)

    def attention(self, matrix: Linear) -> None:
        """Balance the matrix of queries, keys and values, the norm before it and what reads it."""
        norm, values = matrix.reads, values_of(matrix)
        if norm not in self._wanted and values not in self._wanted:
            return
        sums = self._sums_after_norm(norm, matrix)
        if sums is None:
            return
        # Of the outputs, but for a share that is the same for all: the inputs are independent.
        squares = sums.rows / matrix.columns
        bias = np.zeros(matrix.rows)
        if matrix.bias:
            bias = self._vector(f"{matrix.name}.bias")
        factors = np.ones(matrix.rows)
        if norm in self._wanted:
            self._share_norm(norm, matrix, sums)
            bias += sums.shifted if matrix.bias else 0
            self._heads.clear_constant_keys(bias)
            factors *= self._heads.score_factors(squares + bias * bias)
        if values in self._wanted:
            self._share_values(self._readers[matrix.name], factors, squares, bias)
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
            self._heads.values(bias)[:] = 0
        columns = self._heads.gather_values(sums.columns / matrix.rows)
        shares = share_evenly(np.sqrt(self._heads.values(outputs)), np.sqrt(columns))
        self._heads.values(factors)[:] = shares
        self.balance.set_factors(matrix.name, columns=1 / self._heads.spread_values(shares))

    def _sums_after_norm(self, norm: str, matrix: Linear) -> Sums | None:
        """Sums of the matrix as it acts on the normalised residual stream, and W @ bias."""
        weight, bias = self._norm_vectors(norm)
        gain = channel_weight(weight, np.zeros_like(bias) if matrix.bias else bias)
        shift = bias if matrix.bias else None
        return add_up(self._source, matrix, gain=gain, shift=shift, relative=True)

    def _share_norm(self, norm: str, matrix: Linear, sums: Sums) -> None:
        weight, bias = self._norm_vectors(norm)
        if matrix.bias:
            bias = np.zeros_like(bias)
        gain = share_gain(channel_weight(weight, bias), sums.columns)
        self._store(f"{norm}.weight", weight * gain.norm)
        if self._norms[norm].bias:
            self._store(f"{norm}.bias", bias * gain.norm)
        self.balance.set_factors(matrix.name, columns=gain.columns)

    def _norm_vectors(self, norm: str) -> tuple[Doubles, Doubles]:
        """The weight and the bias, zeros where the norm has none."""
        weight = self._vector(f"{norm}.weight")
        has_bias = self._norms[norm].bias
        return weight, self._vector(f"{norm}.bias") if has_bias else np.zeros_like(weight)

    def _vector(self, name: str) -> Doubles:
        return self._source.vector(name).astype(np.float64)

    def _store(self, name: str, values: Doubles) -> None:
        self.balance.vectors[name] = values.astype(np.float32)
