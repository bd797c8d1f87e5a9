"""A grammar made ready for a vocabulary."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from typing import Any

from pythia_rt.grammar.follower import Follower
from pythia_rt.grammar.library import llguidance, reason
from pythia_rt.grammar.vocabulary import Vocabulary

MOST_CHARACTERS = 1 << 20  # of a grammar
# Rules and references of a grammar: they may stand in a chain, along which llguidance recurses, on
# up to 8 kB of the stack for each, and past its end without asking.
MOST_NAMES = 2000
_STACK_BYTES = 64 << 20

# Without it, where a text has but one way to go on, llguidance takes the one split into tokens that
# its tokenizer has for it; a mask shall be all tokens that the grammar takes.
_ALL_TOKENS = '\n%llguidance {"no_forcing": true}\n'
# A bound for what stands between the parts of a JSON; a schema may have its own.
_WHITE_SPACE = "[ ]?"

_LIMITS = {
    "max_lexer_states": 50_000,  # of 1 to 2 kB each
    "initial_lexer_fuel": 1_000_000,  # 20 ms
    "step_lexer_fuel": 200_000,  # 15 ms for a mask
    "step_max_items": 50_000,
    "max_grammar_size": 500_000,
    "verbose_errors": False,
}


class Compiled:
    """A grammar for a vocabulary. May be used from several threads."""

    def __init__(self, vocabulary: Vocabulary, kind: str, text: str) -> None:
        """Compile `text`, which is a `kind` as a `Constraint` has it.

        Raises ValueError with llguidance's reason for one that is broken, too large or takes no
        text.
        """
        _check_size(kind, text)
        library = llguidance()
        limits = library.LLParserLimits(**_LIMITS)

        def compile_it() -> tuple[Any, str]:
            matcher = library.LLMatcher(
                vocabulary.tokenizer, _SOURCES[kind](text), log_level=0, limits=limits
            )
            return matcher, matcher.get_error() if matcher.is_error() else ""

        self._vocabulary = vocabulary
        self._matcher, error = _on_a_large_stack(compile_it)
        if error:
            raise ValueError(f"{kind} cannot be used: {reason(error)}")
        try:
            self.start().allowed()
        except RuntimeError as error:
            raise ValueError(f"{kind} cannot be used: it takes no text, {error}") from None

    def start(self, stop_ids: Iterable[int] = ()) -> Follower:
        """What follows a text from its beginning. `stop_ids` end it besides the end tokens."""
        return Follower(self._vocabulary, self._matcher.deep_copy(), frozenset(stop_ids))


def _from_grammar(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax

    if "::=" in text and not is_lark_syntax(text):
        try:
            text = gbnf_to_lark(text)
        except RecursionError:
            raise ValueError("grammar cannot be used: it is nested too deeply") from None
        except Exception as error:  # it raises nothing more special
            raise ValueError(f"grammar cannot be used: {reason(str(error))}") from None
    return text + _ALL_TOKENS


def _from_schema(text: str) -> str:
    schema = json.loads(text)
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        guidance = schema.get("x-guidance", {})
        if not isinstance(guidance, dict):
            raise ValueError('json_schema cannot be used: its "x-guidance" is not an object')
        if not {"whitespace_pattern", "whitespace_flexible"} & guidance.keys():
            guidance = {**guidance, "whitespace_pattern": _WHITE_SPACE}
        schema["x-guidance"] = guidance
    return f"start: %json {json.dumps(schema)}{_ALL_TOKENS}"


def _from_regex(text: str) -> str:
    source = json.loads(llguidance().LLMatcher.grammar_from_regex(text))
    source["grammars"][0]["lark_grammar"] += _ALL_TOKENS
    return json.dumps(source)


_SOURCES = {"grammar": _from_grammar, "json_schema": _from_schema, "regex": _from_regex}


def _check_size(kind: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{kind} has {len(text)} characters, and may have {MOST_CHARACTERS}")
    what, sign = {"grammar": ("colons", ":"), "json_schema": ("references", '"$ref"')}.get(
        kind, ("", "\0")
    )
    if what and text.count(sign) > MOST_NAMES:
        raise ValueError(f"{kind} has {text.count(sign)} {what}, and may have {MOST_NAMES}")


_stack_size = threading.Lock()  # the size is one for all new threads


def _new_lock() -> None:
    global _stack_size
    _stack_size = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _on_a_large_stack(function: Any) -> Any:
    """What a function returns or raises, called in a thread with room for deep recursion."""
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["value"] = function()
        except BaseException as error:
            outcome["error"] = error

    with _stack_size:
        before = threading.stack_size(_STACK_BYTES)
        try:
            thread = threading.Thread(target=run, name="pythia_rt grammar", daemon=True)
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
