"""Walks a model layer by layer on sequences of tokens and quantises each for what it will see.

Two residual streams go through the layers: that of the exact model, and that of the model as it has
been quantised so far. A layer is quantised for the inputs of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core

from ..errors import CheckpointError, quote
from ..flatfile.layout import Linear, is_quantised, linears, norms, tables, vectors
from ..plan import Plan, source_of
from .balanced import BalancedWeights
from .balancing import rewrites
from .feedback import ErrorFeedback, Inputs
from .measured import Between, choose_scales, describe_reader, some_rows, some_tokens

# Sequences whose inputs are multiplied together: adding to a product costs as much as reading many
# tokens.
_BATCH = 4

Parts = list[NDArray[np.uint8]]  # of a packed matrix, see `_core.packed_layout`
Hidden = list[NDArray[np.float32]]  # [tokens, hidden_size] of each sequence


class Calibrator:
    """Packs the matrices of the layers and the head, which must be asked for in file order.

    Memory: one layer in f32 and its inputs' products (two matrices [columns, columns] for each of
    its matrices), and the residual streams of the calibration tokens.
    """

    def __init__(
        self,
        plan: Plan,
        formats: Mapping[str, str],
        weights: BalancedWeights,
        sequences: Sequence[NDArray[np.int32]],
        threads: int,
    ) -> None:
        self._plan = plan
        self._formats = formats
        self._weights = weights
        self._threads = threads
        self._linears = {matrix.name: matrix for matrix in linears(plan.spec)}
        balanced = rewrites(plan.spec, formats)
        self._norms = {norm.name: norm for norm in norms(plan.spec)}
        # Of the norms whose scale may be divided with them, what reads it.
        self._readers = {
            name: [matrix for matrix in self._linears.values() if matrix.reads == name]
            for name in self._norms
            if name in balanced
        }
        # What every layer reads.
        self._shared = {
            table.name: np.concatenate(list(weights.table(table.name)))
            for table in tables(plan.spec)
            if table.shared
        }
        self._packed: dict[str, Parts] = {}  # matrices of the current layer, until asked for
        self._exact, self._quantised = self._embed(sequences)

    def packs(self, name: str) -> bool:
        """Whether the matrix `name` is one that inputs can improve, or on the way to one."""
        matrix = self._linears[name]
        return matrix.layer >= 0 or (matrix.role == "head" and self._is_quantised(name))

    def pack(self, name: str, add_bytes: Callable[[int], None]) -> Iterator[Parts]:
        """Yield the parts of a matrix, in chunks of rows; `add_bytes` counts bytes of the source.

        Raises CheckpointError when a value is not finite or does not fit the format.
        """
        if name == "head":
            yield from self._pack_head(add_bytes)
            return
        if name not in self._packed:
            prefix = name.removesuffix(self._linears[name].role)
            self._packed = self._pack_layer(prefix, add_bytes)
        yield self._packed.pop(name)

    def _is_quantised(self, name: str) -> bool:
        return is_quantised(self._formats[name])

    def _embed(self, sequences: Sequence[NDArray[np.int32]]) -> tuple[Hidden, Hidden]:
        """Return both streams before the first layer."""
        tokens, places = np.unique(np.concatenate(sequences), return_inverse=True)
        exact = self._weights.rows(self._linears["embed"], tokens)
        form = self._formats["embed"]
        rows, columns = exact.shape
        parts = _core.pack(form, exact, "F32", rows, columns, self._threads)
        quantised = _core.unpack(form, parts, rows, columns)
        ends = np.cumsum([len(sequence) for sequence in sequences])[:-1]
        pieces = np.split(places.reshape(-1), ends)
        streams = [exact[p] for p in pieces], [quantised[p] for p in pieces]
        for stream in streams:
            for i, hidden in enumerate(stream):
                if self._plan.spec["learned_positions"]:
                    self._add_positions(hidden)
                if self._plan.spec["embed_norm"]:
                    stream[i] = self._norm("embed_norm", hidden)
        return streams

    def _add_positions(self, hidden: NDArray[np.float32]) -> None:
        """Add their positions' rows to those of a sequence."""
        first = 0
        for rows in self._weights.table("embed_positions"):
            part = hidden[first : first + len(rows)]
            part += rows[: len(part)]
            first += len(rows)
            if first >= len(hidden):
                break

    def _pack_layer(self, prefix: str, add_bytes: Callable[[int], None]) -> dict[str, Parts]:
        """Return the packed matrices of a layer, and take both streams through it."""
        matrices = [m for m in self._linears.values() if m.name.startswith(prefix)]
        values = {m.name: self._weights.values(m) for m in matrices}
        exact = {
            m.name: _core.pack("f32", values[m.name], "F32", m.rows, m.columns) for m in matrices
        }
        fixed = self._vectors(prefix)
        layer = self._layer(prefix, {m.name: "f32" for m in matrices}, exact, fixed)
        inputs, samples = self._measure(layer, prefix, matrices)
        del layer, exact
        feedbacks: dict[str, ErrorFeedback] = {}
        for norm, sample in samples.items():
            readers = {m.name: values[m.name][some_rows(m.rows)] for m in self._readers[norm]}
            known = {name: inputs.pop(name) for name in readers}
            found, scales = self._share(norm, sample, known, readers)
            feedbacks |= found
            if scales is not None:
                for name in readers:
                    values[name] /= scales
        fixed = self._vectors(prefix)
        packed: dict[str, Parts] = {}
        for matrix in matrices:
            name = matrix.name
            if name in inputs:
                feedbacks[name] = self._feedback(name, inputs.pop(name))
            packed[name] = self._pack_matrix(matrix, values.pop(name), feedbacks.pop(name, None))
            add_bytes(self._weights.size(name))
        layer = self._layer(
            prefix, {m.name: self._formats[m.name] for m in matrices}, packed, fixed
        )
        self._quantised = [layer.run(hidden)[0] for hidden in self._quantised]
        return packed

    def _vectors(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """The vectors of a layer by their names within it."""
        return {
            name.removeprefix(prefix): self._weights.vector(name)
            for name in vectors(self._plan.spec)
            if name.startswith(prefix)
        }

    def _share(
        self,
        norm: str,
        sample: NDArray[np.float32],
        inputs: Mapping[str, Inputs],
        rows: Mapping[str, NDArray[np.float32]],
    ) -> tuple[dict[str, ErrorFeedback], NDArray[np.float32] | None]:
        """Divide a norm's scale anew with its readers, of which `inputs` and some `rows` are given.

        Returns how they are quantised then, and what their columns are divided by, if anything.
        """
        found, readers = {}, []
        for name, known in inputs.items():
            found[name] = self._feedback(name, known)
            readers.append(describe_reader(self._formats[name], rows[name], known, found[name]))
        between = Between(np.diag(known.gram) / known.tokens, sample)  # all see the same
        scales = choose_scales(between, readers)
        if scales is not None:
            self._weights.rescale(self._norms[norm], self._readers[norm], scales)
            for feedback in found.values():
                feedback.rescale(scales)
        return found, scales

    def _layer(
        self,
        prefix: str,
        formats: Mapping[str, str],
        packed: Mapping[str, Parts],
        fixed: Mapping[str, NDArray[np.float32]],
    ) -> _core.Layer:
        tensors: dict[str, NDArray[np.uint8] | NDArray[np.float32]] = dict(fixed) | self._shared
        for name, parts in packed.items():
            layout = _core.packed_layout(
                formats[name], self._linears[name].rows, self._linears[name].columns
            )
            for (part, _, _), data in zip(layout, parts, strict=True):
                tensors[f"{name.removeprefix(prefix)}.{part}"] = data
        short = {name.removeprefix(prefix): form for name, form in formats.items()}
        number = int(prefix.split(".")[1])
        windows = self._plan.spec["windows"][number : number + 1]
        alone = self._plan.spec | {"n_layers": 1, "windows": windows}
        return _core.Layer(dict(alone), short, tensors, threads=self._threads)

    def _measure(
        self, layer: _core.Layer, prefix: str, matrices: Sequence[Linear]
    ) -> tuple[dict[str, Inputs], dict[str, NDArray[np.float32]]]:
        """Run the exact layer on both streams: what its matrices see. The exact stream moves on.

        Returns the inputs by matrix and, by norm that balancing may change, some of its outputs.
        """
        first_readers = {
            readers[0].name: norm
            for norm, readers in self._readers.items()
            if norm.startswith(prefix)
        }
        samples: dict[str, list[NDArray[np.float32]]] = {n: [] for n in first_readers.values()}
        inputs = {m.name: Inputs(m.columns) for m in matrices if self._is_quantised(m.name)}
        for start in range(0, len(self._exact), _BATCH):
            batch = range(start, min(start + _BATCH, len(self._exact)))
            exact, seen = [], []
            for index in batch:
                self._exact[index], captured = layer.run(self._exact[index], capture=True)
                exact.append(captured)
                seen.append(layer.run(self._quantised[index], capture=True)[1])
            for name, norm in first_readers.items():
                for captured in seen:
                    samples[norm].append(some_tokens(captured[name.removeprefix(prefix)]).copy())
            for name, known in inputs.items():
                short = name.removeprefix(prefix)
                # Taken out of the batch: there are only ever one matrix's inputs twice.
                known.add(
                    np.concatenate([captured.pop(short) for captured in seen]),
                    np.concatenate([captured.pop(short) for captured in exact]),
                )
        return inputs, {norm: np.concatenate(found) for norm, found in samples.items()}

    def _pack_matrix(
        self, matrix: Linear, values: NDArray[np.float32], feedback: ErrorFeedback | None
    ) -> Parts:
        if feedback is None:
            form = self._formats[matrix.name]
            return _core.pack(form, values, "F32", matrix.rows, matrix.columns, self._threads)
        return self._quantise(feedback, matrix.name, values)

    def _feedback(self, name: str, inputs: Inputs) -> ErrorFeedback:
        try:
            return ErrorFeedback(self._formats[name], inputs)
        except np.linalg.LinAlgError:
            tensor = source_of(self._plan.linears[name])
            raise CheckpointError(
                f"the inputs of tensor {quote(tensor)} overflow on the "
                "calibration text: the checkpoint is damaged, or convert without calibration"
            ) from None

    def _quantise(self, feedback: ErrorFeedback, name: str, values: NDArray[np.float32]) -> Parts:
        form = self._formats[name]
        try:
            return _core.pack_codes(form, *feedback.quantise(values, self._threads))
        except ValueError as reason:
            tensor = source_of(self._plan.linears[name])
            raise CheckpointError(
                f"tensor {quote(tensor)} does not fit the format {form} ({reason}): "
                "choose another format"
            ) from None

    def _pack_head(self, add_bytes: Callable[[int], None]) -> Iterator[Parts]:
        """Quantise the head chunk by chunk, since it may be larger than all of a layer."""
        head = self._linears["head"]
        inputs = Inputs(head.columns)
        sample = []
        for seen, exact in zip(self._quantised, self._exact, strict=True):
            if self._plan.spec["final_norm"]:
                seen, exact = (self._norm("final_norm", hidden) for hidden in (seen, exact))
            sample.append(some_tokens(seen))
            inputs.add(seen, exact)
        self._quantised, self._exact = [], []
        if head.reads in self._readers:
            rows = self._weights.rows(head, some_rows(head.rows))
            found, _ = self._share(
                head.reads, np.concatenate(sample), {"head": inputs}, {"head": rows}
            )
            feedback = found["head"]
        else:
            feedback = self._feedback("head", inputs)
        row_bytes = self._weights.size("head") // head.rows
        for chunk in self._weights.chunks(head):
            yield self._quantise(feedback, "head", self._weights.decode(head, chunk))
            add_bytes(chunk.rows * row_bytes)

    def _norm(self, name: str, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
        spec = self._plan.spec
        (norm,) = (norm for norm in norms(spec) if norm.name == name)
        match spec["norm"]:
            case "layer":
                hidden = hidden - hidden.mean(axis=1, keepdims=True)
            case "rms":
                pass
            case other:
                raise ValueError(f"nobody has said what a norm {other!r} is")
        mean_square = np.square(hidden).mean(axis=1, keepdims=True)
        normed = hidden / np.sqrt(mean_square + np.float32(spec["norm_eps"]))
        result: NDArray[np.float32] = normed * self._weights.vector(f"{name}.weight")[: norm.size]
        if norm.bias:
            result += self._weights.vector(f"{name}.bias")[: norm.size]
        return result
