"""Reads config.json: defaults for missing keys, several spellings of one, a sentence per wrong one.

Names of activations: huggingface/transformers, activations.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from ...errors import CheckpointError, quote
from ...flatfile.spec import is_number

# The functions that transformers' many names stand for.
GELUS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
}
ACTIVATIONS = GELUS | {"silu": "silu", "swish": "silu", "relu": "relu"}


def config_error(what: str) -> CheckpointError:
    """Return the exception that says of config.json `what`."""
    return CheckpointError(f"config.json {what}")


@final
class Config:
    """A config.json as its family reads it.

    transformers writes only what differs from a family's `defaults`, so a missing key means exactly
    that value. `spellings` maps a key to its other names; all that are given must agree.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        defaults: Mapping[str, Any],
        spellings: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.data = data
        self._defaults = defaults
        self._spellings = spellings or {}

    def value(self, key: str) -> Any:
        """Return what is given for `key`, or its default; None where null is given."""
        names = (key, *self._spellings.get(key, ()))
        given = {name: self.data[name] for name in names if self.data.get(name) is not None}
        if given:
            return agreed(given)
        return None if any(name in self.data for name in names) else self._defaults[key]

    def shown(self, key: str) -> str:
        """Return the spelling of `key` that the file has."""
        return next((k for k in (key, *self._spellings.get(key, ())) if k in self.data), key)

    def size(self, key: str, otherwise: int | None = None) -> int:
        """Return a positive whole number; `otherwise` stands for null."""
        value = self.value(key)
        if value is None and otherwise is not None:
            return otherwise
        if type(value) is not int or not 1 <= value < 1 << 31:
            raise config_error(f"has no valid {self.shown(key)}: set it to a positive whole number")
        return value

    def number(self, key: str) -> float:
        """Return a finite number."""
        value = self.value(key)
        if not is_number(value):
            raise config_error(f"has no valid {self.shown(key)}: set it to a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.value(key)
        if type(value) is not bool:
            raise config_error(f"has no valid {self.shown(key)}: set it to true or false")
        return value

    def activation(self, key: str, known: Mapping[str, str] = ACTIVATIONS) -> str:
        """Return the spec's name of the function that transformers calls as `key` says."""
        name = self.value(key)
        if not isinstance(name, str) or name not in known:
            shown = quote(name) if isinstance(name, str) else "not a name"
            raise config_error(
                f"has a {self.shown(key)} that is {shown}: known ones are {', '.join(known)}"
            )
        return known[name]

    def refuse(self, key: str, what: str, unless: Any = False) -> None:
        """Check that `key` is `unless` or null: this runtime does not have `what`."""
        value = self.value(key)
        if value is not None and value != unless:
            raise config_error(
                f"asks for {what} by {self.shown(key)}, which this runtime does not have: "
                "choose another model"
            )

    def attention_biases(self) -> dict[str, bool]:
        """The spec's fields of "attention_bias", one key for all matrices of attention."""
        both = self.flag("attention_bias")
        return {"qkv_bias": both, "attn_out_bias": both}

    def heads(self, kv_heads: str | None = None, head_dim: str | None = None) -> dict[str, Any]:
        """Return the spec's sizes of attention from the keys of these names, and the usual scale.

        Heads of keys are as many as of queries, and a head is the width divided by their number,
        unless a key says otherwise.
        """
        hidden, count = self.size("hidden_size"), self.size("num_attention_heads")
        if hidden % count and (head_dim is None or self.value(head_dim) is None):
            raise config_error(
                f"divides {self.shown('hidden_size')} {hidden} into {count} heads, which leaves a "
                "rest: fix it"
            )
        keys = count if kv_heads is None else self.size(kv_heads, count)
        if count % keys:
            raise config_error(
                f"has {count} heads of queries and {keys} of keys, which leaves a rest: fix it"
            )
        dim = hidden // count if head_dim is None else self.size(head_dim, max(1, hidden // count))
        return {
            "hidden_size": hidden,
            "n_heads": count,
            "n_kv_heads": keys,
            "head_dim": dim,
            "score_scale": usual_score_scale(dim),
        }


def usual_score_scale(head_dim: int) -> float:
    """Return 1 / sqrt(head_dim) by two operations in f32."""
    return float(np.float32(1) / np.sqrt(np.float32(head_dim)))


def agreed(spellings: Mapping[str, Any]) -> Any:
    """Return the one value that every spelling gives; the first is named in the sentence."""
    first = next(iter(spellings))
    for key, value in spellings.items():
        if value != spellings[first] or type(value) is bool is not type(spellings[first]):
            raise config_error(
                f"contradicts itself, {first} is {spellings[first]} and {key} is {value}: "
                "remove the wrong one"
            )
    return spellings[first]
