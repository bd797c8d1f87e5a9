"""A run of a model: texts in, values at points and logits out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.convert.errors import shown
from pythia_rt.insides.edits import Edits, Lowered, Lowering, PerText, listed, of_texts
from pythia_rt.insides.inputs import (
    Ids,
    Positions,
    groups,
    read_positions,
    read_texts,
)
from pythia_rt.insides.lookup import Capture, Names
from pythia_rt.insides.names import BY_NAME, Place, canonical
from pythia_rt.insides.result import Run
from pythia_rt.insides.span import Span, read_span, read_start
from pythia_rt.insides.values import Floats, Reading, Values
from pythia_rt.options import one_of
from pythia_rt.overflow import all_finite
from pythia_rt.prompt import Prompt, Prompts

if TYPE_CHECKING:
    from pythia_rt.model import Model

# Gets a point's name, a text's number, positions int64 [n] and values [n, ...].
Sink = Callable[[str, int, NDArray[np.int64], Values], object]

DTYPES = ("f32", "f16")
LOGITS = ("all", "last")
_ROWS_OF_HEAD = 256  # that go through it together


@dataclass(frozen=True)
class _Asked:
    """What each pass of a run is asked."""

    places: list[Place]
    sources: list[Place]  # of the core, each once
    logits: str | None
    dtype: str
    span: Span
    sink: Sink | None
    names: list[str] = field(default_factory=list)


class Runner:
    """A model, as runs see it: its places, and what its values are in the checkpoint's basis."""

    def __init__(self, model: Model) -> None:
        """Raises as `Basis` does for a file that lacks what it takes."""
        self.model = model
        self.spec = model.file.spec
        self.names = Names(self.spec)
        self.reading = Reading(self.spec, model._basis, getattr(model, "weight", None))

    def run(
        self,
        texts: Prompt | Prompts,
        capture: Capture = (),
        *,
        positions: Positions | Sequence[Positions] | None = None,
        stop_after_layer: int | None = None,
        start_at: tuple[int, Any] | None = None,
        edits: Edits | PerText = (),
        layers: Sequence[int] | None = None,
        logits: str | None = "all",
        dtype: str = "f32",
        sink: Sink | None = None,
    ) -> Run:
        """`Model.run`, which says what its arguments are."""
        one_of(DTYPES)("dtype", dtype)
        if logits is not None:
            one_of(LOGITS)("logits", logits)
        if sink is not None and not callable(sink):
            raise ValueError(f"sink must be a function, not {shown(sink)}")
        span = read_span(self.spec["n_layers"], stop_after_layer, start_at, layers)
        if stop_after_layer is not None:
            if logits == "last":
                raise ValueError("a run that stops after a layer has no logits: use logits=None")
            logits = None
        ids, is_batch = read_texts(self.model, texts)
        lengths = [len(text) for text in ids]
        residuals = read_start(start_at, lengths, self.spec["hidden_size"], is_batch=is_batch)
        wanted = read_positions(positions, lengths, is_batch=is_batch)
        places = self.names.select(capture, span.has)
        lowered = self._lowered(edits, lengths, span)
        sources = list(dict.fromkeys(map(self.reading.source, places)))
        span.check(places)
        for place in places:
            self.reading.check_known(place)
        asked = _Asked(places, sources, logits, dtype, span, sink, list(map(canonical, places)))
        values: dict[Place, list[Values]] = {} if sink else {place: [] for place in places}
        found: list[Floats] | None = None if logits is None else []
        together = list(groups(lengths))
        for group in together:
            of_group = slice(group.start, group.stop)
            some_logits, captured = self._pass(
                asked,
                ids[of_group],
                None if positions is None else wanted[of_group],
                lowered[of_group],
                None if residuals is None else residuals[of_group],
                group.start,
            )
            if found is not None:
                found += some_logits
            for place, part in captured.items():
                values[place] += part
        return Run(self.names, ids, wanted, together, values, found, is_batch=is_batch)

    def rows(self, ids: Sequence[Ids], places: Sequence[Place]) -> dict[Place, list[Values]]:
        """What the runtime has at places, in its own basis, of each text [n, width]."""
        for place in places:
            self.reading.check_known(place)
        found: dict[Place, list[Values]] = {place: [] for place in places}
        for group in groups([len(text) for text in ids]):
            some = ids[group.start : group.stop]
            _, captured = _core.run(
                self.sessions(some),
                some,
                capture=[(*place,) for place in places],
                logits="none",
            )
            ends = np.cumsum([len(text) for text in some])[:-1]
            for place, part in zip(places, captured, strict=True):
                is_list = BY_NAME[place.point].shape == "scores"
                found[place] += part if is_list else np.split(part, ends)
        return found

    def last_logits(
        self,
        ids: Sequence[Ids],
        edits: Sequence[Sequence[Lowered]],
        layer: int,
        streams: Sequence[Floats],
    ) -> list[Floats]:
        """The logits [vocab_size] after the last token of each text, from the stream that enters a
        layer on."""
        logits, _ = _core.run(
            self.sessions(ids),
            ids,
            edits=self._core_edits(edits),
            logits="last",
            first_layer=layer,
            residuals=list(streams),
        )
        return [rows[0] for rows in logits]

    def head(self, streams: Floats) -> Floats:
        """The logits [..., vocab_size] of what leaves the last layer [..., hidden]."""
        width, n_layers = self.spec["hidden_size"], self.spec["n_layers"]
        if streams.shape[-1:] != (width,):
            raise ValueError(
                f"streams have the shape {list(streams.shape)} where [..., {width}] is needed"
            )
        rows = streams.reshape(-1, width)
        size = min(_ROWS_OF_HEAD, self.model.max_positions)
        found = np.empty((len(rows), self.spec["vocab_size"]), np.float32)
        for start in range(0, len(rows), size):
            part = np.ascontiguousarray(rows[start : start + size])
            tokens = np.zeros(len(part), np.int32)  # which nothing reads
            (logits,), _ = _core.run(
                self.sessions([tokens]), [tokens], first_layer=n_layers, residuals=[part]
            )
            found[start : start + size] = logits
        return found.reshape(*streams.shape[:-1], self.spec["vocab_size"])

    def attention_to(self, ids: Sequence[Ids], targets: Sequence[Any]) -> list[Floats]:
        """The mass of each head's pattern on the keys that are `targets` of each query, of each
        layer [heads, all texts' tokens]."""
        layers = range(self.spec["n_layers"])
        _, captured = _core.run(
            self.sessions(ids),
            list(ids),
            capture=[("attention_to", layer) for layer in layers],
            targets=list(targets),
            logits="none",
        )
        return captured

    def edits(self, edits: Edits) -> _core.Edits:
        """Those of a text that grows, for a writer of the core. Raises ValueError as `run` does."""
        lowered = Lowering(self.names, self.reading)(listed(edits), 0, None)
        (found,) = self._core_edits([lowered]) or [None]
        return cast("_core.Edits", found)

    def sessions(self, ids: Sequence[Ids]) -> list[_core.Session]:
        """A new one for each text."""
        model = self.model
        model.file.check_unchanged()
        return [
            _core.Session(model._core, capacity=len(text), kv_format=model.kv_format)
            for text in ids
        ]

    def _lowered(
        self, edits: Edits | PerText, lengths: Sequence[int], span: Span
    ) -> list[list[Lowered]]:
        lower = Lowering(self.names, self.reading)
        of_each = [
            lower(each, number, length)
            for number, (each, length) in enumerate(
                zip(of_texts(edits, len(lengths)), lengths, strict=True)
            )
        ]
        for each in of_each:
            span.check([edit.place for edit in each])
        return of_each

    def _pass(
        self,
        asked: _Asked,
        ids: list[Ids],
        wanted: list[NDArray[np.int64]] | None,
        lowered: list[list[Lowered]],
        residuals: list[Floats] | None,
        first_text: int,
    ) -> tuple[list[Floats], dict[Place, list[Values]]]:
        """Run some texts; what is at each place of them, as `Run` takes it."""
        span = asked.span
        half = asked.dtype == "f16" and all(map(self.reading.is_as_run, asked.places))
        logits, rows = _core.run(
            self.sessions(ids),
            ids,
            capture=[(place.point, place.layer) for place in asked.sources],
            positions=wanted,
            edits=self._core_edits(lowered),
            logits=asked.logits or "none",
            first_layer=span.first,
            residuals=residuals,
            layers=span.order,
            end_layer=span.end,
            half=half,
            sink=self._core_sink(asked, first_text),
        )
        if asked.sink is not None:
            return logits or [], {}
        of_source = dict(zip(asked.sources, rows, strict=True))
        uses = [self.reading.source(place) for place in asked.places]
        captured: dict[Place, list[Values]] = {}
        for number, (place, source) in enumerate(zip(asked.places, uses, strict=True)):
            part = of_source[source]
            if BY_NAME[place.point].shape == "scores":
                captured[place] = [in_dtype(each, asked.dtype, place) for each in part]
                continue
            if source in uses[number + 1 :]:
                part = part.copy()  # others come after it, and it may be written over
            captured[place] = [in_dtype(self.reading.values(place, part), asked.dtype, place)]
        return logits or [], captured

    def _core_edits(self, lowered: Sequence[Sequence[Lowered]]) -> list[Any] | None:
        """The core's edits of each text; None where there are none at all."""
        if not any(lowered):
            return None
        for edits in lowered:
            for edit in edits:
                self.reading.check_known(edit.place, is_edited=True)
        return [
            _core.Edits(
                self.model._core,
                [
                    (*edit.place, edit.positions, edit.function)
                    if edit.function is not None
                    else (*edit.place, edit.positions, edit.scale, edit.shift)
                    for edit in edits
                ],
            )
            if edits
            else None
            for edits in lowered
        ]

    def _core_sink(self, asked: _Asked, first_text: int) -> Callable[..., None] | None:
        sink = asked.sink
        if sink is None:
            return None
        of_source: dict[int, list[tuple[Place, str]]] = {}
        for place, name in zip(asked.places, asked.names, strict=True):
            number = asked.sources.index(self.reading.source(place))
            of_source.setdefault(number, []).append((place, name))

        def hand_on(number: int, text: int, positions: NDArray[np.int64], rows: Values) -> None:
            for place, name in of_source[number]:
                if BY_NAME[place.point].shape != "scores":
                    own = rows if self.reading.is_as_run(place) else rows.copy()
                    values = self.reading.values(place, own)
                else:
                    values = rows
                sink(name, first_text + text, positions, in_dtype(values, asked.dtype, place))

        return hand_on


def in_dtype(values: Values, dtype: str, place: Place) -> Values:
    """`values` as float32 or float16. Raises OverflowError where that is too small for them."""
    if dtype != "f16":
        return values
    found: Values = values
    if values.dtype != np.float16:
        with np.errstate(over="ignore"):
            found = values.astype(np.float16)
    if all_finite(found):
        return found
    infinite = np.isinf(found)
    if BY_NAME[place.point].shape == "scores":  # which are -inf where nothing is seen
        infinite &= ~np.isinf(values)
    if infinite.any():
        raise OverflowError(
            f"{canonical(place)} has values that float16 cannot hold, beyond 65504: use dtype='f32'"
        )
    return found
