"""What is asked of a text: a grammar, a JSON schema or a regular expression."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pythia_rt.convert.errors import shown
from pythia_rt.grammar.compiled import Compiled
from pythia_rt.grammar.vocabulary import Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from pythia_rt.tokenizer import Tokenizer

JsonSchema = Mapping[str, Any] | str


class Constraint:
    """Which texts there may be. May be shared by requests, models and threads.

    One of these, each as llguidance (https://github.com/guidance-ai/llguidance) reads it:

    `grammar`: a context-free grammar in its Lark syntax, from the rule `start`, or in llama.cpp's
    GBNF, from `root`. `<|name|>` in Lark is a special token; text that looks like one never is.

    `json_schema`: a schema, as a mapping or as JSON text. Properties come in the schema's order.
    Between the parts of the JSON there may be one space; other white space must be asked for, with
    "x-guidance": {"whitespace_pattern": ...} in the schema, since weak models write it for ever. A
    keyword that is not supported is an error, as is a $ref to another file.

    `regex`: a regular expression for the whole text, without look-around and back references.
    """

    def __init__(
        self,
        *,
        grammar: str | None = None,
        json_schema: JsonSchema | None = None,
        regex: str | None = None,
    ) -> None:
        """Read one of them. Raises ValueError for none, for several, and for what is no text or
        no JSON; whether it can be used shows when it is compiled."""
        given = {"grammar": grammar, "json_schema": json_schema, "regex": regex}
        chosen = [name for name, value in given.items() if value is not None]
        if len(chosen) != 1:
            several = " and ".join(chosen) if chosen else "none"
            raise ValueError(f"give one of grammar, json_schema and regex, not {several}")
        (self._kind,) = chosen
        value = given[self._kind]
        if self._kind == "json_schema":
            self._text = _read_schema(value)
        else:
            self._text = _read_text(self._kind, value)
        self._compiled: weakref.WeakKeyDictionary[Vocabulary, Compiled] = (
            weakref.WeakKeyDictionary()
        )

    @property
    def kind(self) -> str:
        """Which of the three it is: "grammar", "json_schema" or "regex"."""
        return self._kind

    @property
    def text(self) -> str:
        """The grammar, the schema as JSON, or the regular expression."""
        return self._text

    def compiled(self, tokenizer: Tokenizer, *, n_tokens: int, end_ids: Iterable[int]) -> Compiled:
        """It, made ready for the ids below `n_tokens` of `tokenizer`; `end_ids` end a text.

        The first call for a tokenizer takes milliseconds, of a huge grammar seconds; the outcome is
        kept as long as both. Raises ValueError with llguidance's reason for a grammar that is
        broken, too large or takes no text, and for a tokenizer whose tokens are not bytes;
        ImportError where llguidance is not installed.
        """
        vocabulary = vocabulary_of(tokenizer, n_tokens, end_ids)
        # Two threads may both do it, for the price of a lock that a fork could leave locked.
        found = self._compiled.get(vocabulary)
        if found is None:
            found = self._compiled[vocabulary] = Compiled(vocabulary, self._kind, self._text)
        return found

    def __eq__(self, other: object) -> bool:
        """The same text of the same kind."""
        if not isinstance(other, Constraint):
            return NotImplemented
        return (self._kind, self._text) == (other._kind, other._text)

    def __hash__(self) -> int:
        """That of what `==` compares."""
        return hash((self._kind, self._text))

    def __repr__(self) -> str:
        """As it is made, a long text cut."""
        text = self._text if len(self._text) <= 60 else self._text[:57] + "..."
        return f"Constraint({self._kind}={text!r})"


def _read_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a str, not {shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds a lone surrogate, which is no text") from None
    return value


def _read_schema(value: Any) -> str:
    """The schema as JSON text with everything escaped that is not ASCII."""
    if not isinstance(value, (str, Mapping)):
        raise ValueError(f"json_schema must be a mapping or JSON text, not {shown(value)}")
    try:
        data = json.loads(value) if isinstance(value, str) else value
        if not isinstance(data, (Mapping, bool)):
            raise ValueError("a schema is an object")
        return json.dumps(dict(data) if isinstance(data, Mapping) else data, allow_nan=False)
    except RecursionError:
        raise ValueError("json_schema is nested too deeply") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"json_schema is not a JSON schema: {error}") from None
