"""What adapters and task vectors add to a model: whose tensors they are, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, final

from ...errors import CheckpointError, quote
from ...source.adapter import Adapted, Adapter
from ...source.merged import Addition, Change, Directed, LowRank, Replacement, merge
from ...source.tensor import SourceTensor, same
from .config import Config
from .family import Family
from .modules import SOURCE_DTYPES
from .names import read_names


@final
class Changes:
    """What is added to the tensors of a model, by their names there."""

    def __init__(
        self, family: Family, config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]
    ) -> None:
        self._family, self._config, self._given = family, config, tensors
        self._named = read_names(tensors, family.names).named
        self._embedding = f"{family.modules['embed']}.weight"
        self._heads = [f"{head}.weight" for head in family.heads]
        self._is_tied = _is_tied(family, config)
        self._changes: dict[str, list[Change]] = {}

    def add_adapter(self, adapter: Adapter, weight: float) -> None:
        """Add `weight` times an adapter.

        Raises CheckpointError, naming the tensor, where the model has not what it changes or the
        shapes do not fit.
        """
        adapted = set()
        for module, parts in adapter.modules.items():
            name = self._place(f"{module}.weight", adapter)
            adapted.add(name)
            self._add(name, self._sum(name, parts, adapter, weight))
            if parts.bias is not None:
                where = self._place(f"{module}.bias", adapter)
                rank = parts.matrices()[0].shape[0]
                factor = weight * adapter.config.scaling(module, rank)
                self._fit(where, parts.bias, self._base(where, parts.bias, adapter).shape)
                self._add(where, Addition(parts.bias, factor))
        for given, tensor in adapter.saved.items():
            name = self._place(given, adapter)
            self._fit(name, tensor, self._base(name, tensor, adapter).shape)
            self._add(name, Replacement(tensor, weight))
            adapted.add(name)
        for target in adapter.config.targets:
            self._check_target(target, adapted, adapter)

    def add_difference(
        self, config: Mapping[str, Any], tensors: Mapping[str, SourceTensor], weight: float
    ) -> None:
        """Add `weight` times what a training changed; `tensors` and `config` are what it made.

        Raises CheckpointError, naming the tensor, where names or shapes differ.
        """
        tuned = read_names(tensors, self._family.names).named
        if _is_tied(self._family, config) != self._is_tied:
            raise CheckpointError(
                "the head of one of the two models is its embedding and the other's is not: give "
                "the model that the task vector's training began with"
            )
        skipped = set(self._heads) if self._is_tied else set()
        for name in dict.fromkeys([*self._named, *tuned]):
            if name in skipped:
                continue
            if name not in tuned or name not in self._named:
                side = "source" if name in self._named else "model of the task vector"
                _unfit((self._named.get(name) or tuned[name]).name, f"is in the {side} alone")
            self._fit(name, tuned[name], self._named[name].shape)
            self._add(name, Replacement(tuned[name], weight))
        if self._is_tied and self._embedding in tuned:
            self._add(self._heads[0], Replacement(tuned[self._embedding], weight))

    def apply(self) -> tuple[dict[str, SourceTensor], Mapping[str, Any]]:
        """Return the tensors of the changed model, by their names in the source, and its config.

        A head that was the embedding is one of its own from where only one of the two changes.
        """
        found, config = dict(self._given), self._config
        head = self._changes.pop(self._heads[0], [])
        for name, changes in self._changes.items():
            found[self._named[name].name] = merge(self._named[name], changes)
        given = [self._named[name].name for name in self._heads if name in self._named]
        if not self._is_tied:
            for name in given:
                found[name] = merge(self._given[name], head)
            return found, config
        embedding = self._named[self._embedding]
        shared = self._changes.get(self._embedding, [])
        if not shared and not head:
            return found, config
        if not _are_alike(shared, head):
            config = {**config, "tie_word_embeddings": False}
            match = self._family.names.name.fullmatch(embedding.name)
            given = given or [(match["outer"] if match else "") + self._heads[0]]
        for name in given:
            found[name] = merge(embedding, head, name)
        return found, config

    def _place(self, given: str, adapter: Adapter) -> str:
        """Return a tensor's name in the model, of heads the first that it may have."""
        name = self._family.names.place(given)
        if name in self._heads:
            return self._heads[0]
        if name is None or name not in self._named:
            raise CheckpointError(
                f"the adapter {adapter.folder} changes {quote(given)}, which the model does not "
                "have: give the model that it was trained with"
            )
        return name

    def _base(self, name: str, tensor: SourceTensor, adapter: Adapter) -> SourceTensor:
        """Return the model's tensor that `tensor` is for."""
        names = self._heads if name == self._heads[0] else [name]
        if self._is_tied and name == self._heads[0]:
            names = [*names, self._embedding]
        found = next((self._named[name] for name in names if name in self._named), None)
        if found is None:
            raise CheckpointError(
                f"the adapter {adapter.folder} has {quote(tensor.name)}, and the model has no "
                "head: give the model that it was trained with"
            )
        return found

    def _sum(self, name: str, parts: Adapted, adapter: Adapter, weight: float) -> Change:
        a, b = parts.matrices()
        base = self._base(name, a, adapter)
        turned = parts.is_embedding or (
            self._family.stores_columns and name.startswith(f"{self._family.layer}.")
        )
        shape = (a.shape[1], b.shape[0]) if turned else (b.shape[0], a.shape[1])
        if len(base.shape) != 2 or base.shape != shape:
            _unfit(
                a.name,
                f"and its B are for a matrix {list(shape)}, and {quote(base.name)} has the shape "
                f"{list(base.shape)}",
            )
        for tensor in (a, b):
            self._fit(name, tensor, tensor.shape)
        left, right = (a.transposed(), b.transposed()) if turned else (b, a)
        scaling = adapter.config.scaling(parts.module, a.shape[0])
        if parts.magnitude is None:
            return LowRank(left, right, weight * scaling, adapter.held)
        if parts.is_embedding:
            _unfit(parts.magnitude.name, "is DoRA's of an embedding, which is not merged here")
        magnitude = parts.magnitude.flattened()
        self._fit(name, magnitude, (b.shape[0],))
        low = LowRank(left, right, scaling, adapter.held)
        return Directed(low, magnitude, weight, by_columns=turned)

    def _fit(self, name: str, tensor: SourceTensor, shape: tuple[int, ...]) -> None:
        if tensor.dtype not in SOURCE_DTYPES:
            _unfit(tensor.name, f"is {tensor.dtype} and not one of {', '.join(SOURCE_DTYPES)}")
        if tensor.shape != shape:
            _unfit(
                tensor.name,
                f"has the shape {list(tensor.shape)} and {list(shape)} in the model",
            )
        known = self._named.get(name)
        if known is not None and known.dtype not in SOURCE_DTYPES:
            _unfit(known.name, f"is {known.dtype}: it must be one of {', '.join(SOURCE_DTYPES)}")

    def _check_target(self, target: str, adapted: set[str], adapter: Adapter) -> None:
        """Check that no module of this name is left out: then tensors have been lost."""
        for name, tensor in self._named.items():
            module = name.removesuffix(".weight")
            is_meant = f".{tensor.name.removesuffix('.weight')}".endswith(f".{target}")
            if name == module or not is_meant or len(tensor.shape) != 2:
                continue
            if name not in adapted and name not in self._heads:
                raise CheckpointError(
                    f"the adapter {adapter.folder} names {quote(target)} in target_modules and has "
                    f"no tensors for {quote(module)}: fetch it again, with the model it is for"
                )

    def _add(self, name: str, change: Change) -> None:
        self._changes.setdefault(name, []).append(change)


def _is_tied(family: Family, config: Mapping[str, Any]) -> bool:
    return Config(config, family.defaults, family.spellings).flag("tie_word_embeddings")


def _are_alike(first: list[Change], second: list[Change]) -> bool:
    """Whether both put the same in place of what they change."""
    return len(first) == len(second) and all(
        isinstance(one, Replacement)
        and isinstance(other, Replacement)
        and one.weight == other.weight
        and (one.tensor == other.tensor or same(one.tensor, other.tensor))
        for one, other in zip(first, second, strict=True)
    )


def _unfit(name: str, what: str) -> NoReturn:
    raise CheckpointError(
        f"tensor {quote(name)} {what}: give what was trained from this very model"
    )
