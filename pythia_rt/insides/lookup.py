"""From what a caller names to the places of a model."""

from __future__ import annotations

import fnmatch
import functools
import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pythia_rt.convert.errors import quote, shown
from pythia_rt.insides.names import (
    BY_NAME,
    NO_POINTS,
    PARTS_OF_LAYER,
    POINTS,
    SHORT,
    SHORT_OF_PART,
    Place,
    Point,
    canonical,
    theirs,
)

if TYPE_CHECKING:
    from pythia_rt.convert.flatfile.spec import Spec

Name = str | tuple[str, int] | tuple[str, int, str]
Capture = Name | Callable[[str], bool] | Iterable[Name | Callable[[str], bool]]

_MOST_LAYERS = 512  # of a model that is not known yet
_IN_LAYER = re.compile(r"(layers|blocks)\.(-?\d+)\.(.+)")
_SHORT = re.compile(r"([a-z_]+?)(\d+)([a-z]+\d?)?")  # k6, scale4ln1
_OTHERS = {(p.in_layers, other): p.name for p in POINTS for other in p.others}


class Names:
    """The places of a model, by any of their names."""

    def __init__(self, spec: Spec) -> None:
        """Of the model that has this spec."""
        self._spec = spec
        self._n_layers = spec["n_layers"]

    def find(self, name: Name) -> Place:
        """The place of a name, or of a tuple (point, layer). Layers below 0 count from the end.

        Raises ValueError for a name that is none, with the near ones, and for a point that the
        model does not have, with the reason.
        """
        return self._checked(*self._parsed(name), name)

    def select(
        self, capture: Capture, runs: Callable[[Place], bool] = lambda place: True
    ) -> list[Place]:
        """The places of names, tuples, globs and predicates, each once, in the order they are
        named. A predicate gets each place by our name and by TransformerLens'; it and globs choose
        among the places for which `runs` is true."""
        if isinstance(capture, str) or callable(capture) or _is_place(capture):
            capture = (capture,)  # type: ignore[assignment]
        if not isinstance(capture, Iterable):
            raise ValueError(f"capture must list names of points, not {shown(capture)}")
        chosen: dict[Place, None] = {}
        for item in capture:
            chosen.update(dict.fromkeys(self._of_item(item, runs)))
        return list(chosen)

    @functools.cached_property
    def all(self) -> dict[Place, list[str]]:
        """Every place that the model has, with its names, ours first."""
        last = self._n_layers  # behind the layers
        before = ("embed", "pos_embed", "embed_norm")
        places: dict[Place, list[str]] = {}
        for layer in range(-1, last + 1):
            for point in POINTS:
                if point.in_layers:
                    is_here = 0 <= layer < last
                else:
                    is_here = layer == (-1 if point.name in before else last)
                if is_here and self._why_not(point) is None:
                    place = Place(point.name, layer if point.in_layers else -1)
                    places[place] = [canonical(place), *theirs(point, layer)]
        return places

    def _why_not(self, point: Point) -> str | None:
        return point.why_not(self._spec)

    def _of_item(self, item: Any, runs: Callable[[Place], bool]) -> list[Place]:
        if callable(item):
            return [
                place
                for place, names in self.all.items()
                if runs(place) and any(map(item, names[:2]))
            ]
        if isinstance(item, str) and _is_glob(item):
            every = [
                place
                for place, names in self.all.items()
                if any(fnmatch.fnmatchcase(name, item) for name in names)
            ]
            # Where none of them runs, the caller says of the first one why.
            found = list(filter(runs, every)) or every
            if not found:
                raise ValueError(
                    f"no point of this model matches {quote(item)}: {self._near(item)}"
                )
            return found
        return [self.find(item)]

    def _parsed(self, name: Any) -> tuple[str, int | None]:
        """The point and the layer, None where no layer is named."""
        if _is_place(name):
            point, layer, *part = name
            return self._short(point, str(part[0]) if part else "", name), operator.index(layer)
        if not isinstance(name, str):
            raise ValueError(
                f"a point is named by a str or a tuple (name, layer), not by {shown(name)}"
            )
        if named := _IN_LAYER.fullmatch(name):
            begin, layer, rest = named.groups()
            if begin == "layers" and rest in BY_NAME:
                return rest, int(layer)
            if begin == "blocks" and (True, rest) in _OTHERS:
                return _OTHERS[True, rest], int(layer)
            if begin == "blocks" and rest in NO_POINTS:
                raise ValueError(f"there is no point {quote(name)}: {NO_POINTS[rest]}")
        elif name in BY_NAME:
            return name, None
        elif (False, name) in _OTHERS:
            return _OTHERS[False, name], None
        elif name in NO_POINTS:
            raise ValueError(f"there is no point {quote(name)}: {NO_POINTS[name]}")
        elif name in ("scale", "normalized"):
            return SHORT[name], None
        elif short := _SHORT.fullmatch(name):
            point, layer, part = short.groups()
            return self._short(point, part or "", name), int(layer)
        raise self._unknown(name)

    def _short(self, point: str, part: str, name: Any) -> str:
        if (point, part) in SHORT_OF_PART:
            return SHORT_OF_PART[point, part]
        if part in ("", *PARTS_OF_LAYER):
            found = point if point in BY_NAME else SHORT.get(point)
            if found is not None and BY_NAME[found].in_layers:
                return found
        raise self._unknown(name)

    def _checked(self, point: str, layer: int | None, name: Any) -> Place:
        line = BY_NAME[point]
        if line.in_layers and layer is None:
            raise ValueError(
                f"the point {_called(name)} is in every layer: name one, as in 'layers.0.{point}'"
            )
        reason = self._why_not(line)
        if reason is not None:
            raise ValueError(f"this model has no point {point}: {reason}")
        if not line.in_layers or layer is None:
            return Place(point, -1)
        if not -self._n_layers <= layer < self._n_layers:
            raise ValueError(
                f"there is no layer {layer} for {_called(name)}: this model has the layers 0 to "
                f"{self._n_layers - 1}"
            )
        return Place(point, layer % self._n_layers)

    def _unknown(self, name: Any) -> ValueError:
        text = name if isinstance(name, str) else f"layers.{name[1]}.{name[0]}"
        return ValueError(f"there is no point {_called(name)}: {self._near(text)}")

    def _near(self, name: str) -> str:
        import difflib  # rarely needed

        named = re.match(r"(?:layers|blocks)\.(-?\d+)\.", name)
        layer = named.group(1) if named else "0"
        names = [
            each.replace(".0.", f".{layer}.", 1)
            for place, of_place in self.all.items()
            if place.layer <= 0
            for each in of_place
        ]
        # The last part tells more than what all names begin with.
        lasts = {each.rpartition(".")[2].removeprefix("hook_"): each for each in reversed(names)}
        last = name.rpartition(".")[2].removeprefix("hook_")
        near = [lasts[each] for each in difflib.get_close_matches(last, lasts, n=2, cutoff=0.7)]
        near += [each for each in difflib.get_close_matches(name, names, n=2) if each not in near]
        if near and "*" not in name:
            return f"near ones are {', '.join(near)}"
        return f"the points are {', '.join(dict.fromkeys(place.point for place in self.all))}"


class NamesOfAnyModel(Names):
    """The places that some model has, for what can be told before there is one."""

    def __init__(self) -> None:
        self._n_layers = _MOST_LAYERS

    def _why_not(self, point: Point) -> str | None:
        return None


def is_name(capture: object) -> bool:
    """Whether it names one point, and is no glob, predicate or list."""
    if isinstance(capture, str):
        return not _is_glob(capture)
    return _is_place(capture)


def _called(name: Any) -> str:
    return quote(name) if isinstance(name, str) else shown(name)


def _is_glob(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _is_place(name: object) -> bool:
    """Whether it is a tuple of a point's name and a layer, and maybe a part of that."""
    if not isinstance(name, tuple) or len(name) not in (2, 3) or not isinstance(name[0], str):
        return False
    try:
        operator.index(name[1])
    except TypeError:  # arrays have the method too
        return False
    return not isinstance(name[1], bool)
