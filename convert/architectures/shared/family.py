"""A family of models: how its checkpoints become plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import CheckpointError, quote
from ...flatfile.layout import linears, tables, vectors
from ...flatfile.spec import Spec, validate_spec
from ...plan import TILE, Computed, Pieces, Plan
from ...source.tensor import SourceTensor
from ...source.unusable import refuse_parts, refuse_quantised
from .config import Config, config_error
from .modules import Form, Sources, Wanted, whole
from .names import Names, read_names

Fields = dict[str, Any]

# What a spec says where its family says nothing.
USUAL: Fields = {
    "norm": "layer",
    "block": "sequential",
    "embed_norm": False,
    "final_norm": True,
    "mlp": "plain",
    "rotary_dim": 0,
    "rope_factor": 1.0,
    "learned_positions": False,
    "score_bias": False,
    "qk_norm": "none",
    "windows": [],
    "qkv_bias": False,
    "attn_out_bias": False,
    "mlp_bias": False,
    "head_bias": False,
}


class Described(NamedTuple):
    """What a config.json says: fields of the spec and tables that are tensors of the model.

    `modules` are forms in place of the family's; a head among them is made even of a tied one.
    """

    fields: Fields
    tables: Mapping[str, NDArray[np.float32]] = {}
    modules: Mapping[str, Form] = {}


@dataclass(frozen=True)
class Family:
    """One family of models.

    `model_types` are what config.json calls it, the newest name first; `saved_from` is the class of
    transformers whose saves have a head, `old_classes` are its old names; `title` is for people.
    `modules` maps the layout's names without "layers.{i}." and ".weight" to forms, where a string
    is `whole`; `layer` is what the source calls "layers", whose matrices it
    stores as [in, out] where it `stores_columns`; it `rotates_neighbours`, dimensions 2i and 2i + 1
    of a head, where others rotate i with i + rotary_dim / 2. `heads` are the head's names. `read`
    returns what a config.json says, but for what all families have alike: vocabulary, special ids
    and whether the head is tied. `defaults` and `spellings` are as in `Config`.
    """

    model_types: tuple[str, ...]
    title: str
    saved_from: str
    names: Names
    modules: Mapping[str, str | Form]
    read: Callable[[Config], Described]
    defaults: Mapping[str, Any]
    layer: str = "layers"
    stores_columns: bool = False
    rotates_neighbours: bool = False
    heads: tuple[str, ...] = ("lm_head",)
    old_classes: tuple[str, ...] = ()
    spellings: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def read_config(
        self,
        data: Mapping[str, Any],
        *,
        vocab_size: int,
        n_tokens: int | None,
        eos_ids: Sequence[int] = (),
    ) -> Spec:
        """Return the spec of a config.json.

        `vocab_size` is the number of rows of the embedding (the config's may be smaller or larger);
        `n_tokens` the number of ids of the tokenizer, None without one; `eos_ids` those of the
        tokens that end a text. Ids without a row are left out: the model cannot write them. Raises
        CheckpointError, naming the key, when a value is invalid, unknown to this runtime, or spelt
        twice with two values.
        """
        return self._describe(data, vocab_size, n_tokens, eos_ids)[0]

    def make_plan(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, SourceTensor],
        *,
        n_tokens: int | None,
        activation: str | None,
        eos_ids: Sequence[int] = (),
    ) -> Plan:
        """Return the plan for a checkpoint with this config.json and these tensors.

        `n_tokens` is the number of ids of the tokenizer, None without one; `activation` overrides
        the config's; `eos_ids` are those of the tokens that end a text. Raises CheckpointError,
        naming the key or the tensor, when something is unknown, contradictory, missing, too many or
        of the wrong shape.
        """
        known = read_names(tensors, self.names)
        refuse_quantised(config, known.given)
        refuse_parts(known.given)
        embedding = known.find(f"{self.modules['embed']}.weight")
        if len(embedding.shape) != 2:
            raise CheckpointError(f"tensor {quote(embedding.name)} is not a matrix: fetch it again")
        spec, tied, described = self._describe(config, embedding.shape[0], n_tokens, eos_ids)
        mlp_size, modules = described.fields["mlp_size"], {**self.modules, **described.modules}
        if activation is not None:
            spec["activation"] = activation
        # Bounds the plan: a config cannot ask for more layers than there are tensors.
        if spec["n_layers"] > len(known.named):
            raise CheckpointError(
                f"config.json asks for {spec['n_layers']} layers, the checkpoint has "
                f"{len(known.named)} tensors: fetch both from the same revision"
            )
        heads = [name for name in self.heads if f"{name}.weight" in known.named]
        if not heads and not tied:
            raise CheckpointError(
                f"tensor {quote(self.heads[0] + '.weight')} is missing, so this is a base model "
                f"that cannot write text: give a checkpoint saved from {self.saved_from}"
            )
        sources = Sources(known, spec, mlp_size)
        if heads and "head" not in modules:
            modules["head"] = heads[0]
        found: dict[str, Pieces] = {}
        for name, (rows, columns) in _wanted(spec).items():
            if name in described.tables:
                found[name] = (Computed(described.tables[name]),)
                continue
            path, _, part = name.rpartition(".") if columns is None else (name, "", "weight")
            outer, _, role = path.rpartition(".")
            layer = f"{self.layer}.{outer.removeprefix('layers.')}." if outer else ""
            padding = spec["mlp_size"] - mlp_size if role == "mlp_down" and columns else 0
            form = modules[role]
            make = whole(form) if isinstance(form, str) else form
            found[name] = make(sources, Wanted(layer, part, rows, columns, padding))
        given = [known.named[f"{name}.weight"].name for name in heads]
        same = embedding.name if tied else given[0]
        surplus = [name for name in known.given if name not in sources.used | set(given)]
        if surplus:
            raise CheckpointError(
                f"tensor {quote(surplus[0])} ({len(surplus)} in all) does not belong to a "
                f"{self.title} model of this config: merge adapters first, or fetch config.json "
                "and weights together"
            )
        return Plan(
            spec,
            {matrix.name: found[matrix.name] for matrix in linears(spec)},
            {name: found[name] for name in vectors(spec)},
            {table.name: found[table.name] for table in tables(spec)},
            tuple((same, name) for name in given if name != same),
        )

    def _describe(
        self,
        data: Mapping[str, Any],
        vocab_size: int,
        n_tokens: int | None,
        eos_ids: Sequence[int],
    ) -> tuple[Spec, bool, Described]:
        """Return the spec, whether the source's head is its embedding, and what `read` says."""
        config = Config(data, self.defaults, self.spellings)
        described, tied = self.read(config), config.flag("tie_word_embeddings")
        fields = USUAL | described.fields
        if fields["mlp"] == "gated":
            fields["mlp_size"] = -(-fields["mlp_size"] // TILE) * TILE
        ends = [i for i in eos_ids if 0 <= i < vocab_size]
        bos = config.value("bos_token_id")
        fields |= {
            "architecture": self.model_types[0],
            "vocab_size": vocab_size,
            "n_tokens": vocab_size if n_tokens is None else min(n_tokens, vocab_size),
            "tied_head": tied and "head" not in described.modules,
            # Where nothing begins a text, what separates texts serves.
            "bos_id": bos if bos is not None else ends[0] if ends else 0,
            "eos_ids": ends,
        }
        try:
            return validate_spec(fields), tied, described
        except ValueError as reason:
            raise config_error(
                f"describes a model this runtime does not know, {reason}: fix it"
            ) from None


def _wanted(spec: Spec) -> dict[str, tuple[int, int | None]]:
    """Return {neutral name: (rows, columns)}; vectors have a part in their name, matrices none."""
    found: dict[str, tuple[int, int | None]] = {
        matrix.name: (matrix.rows, matrix.columns) for matrix in linears(spec)
    }
    found |= {table.name: (table.rows, table.columns) for table in tables(spec)}
    return found | {name: (size, None) for name, size in vectors(spec).items()}
