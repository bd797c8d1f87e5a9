"""The formats of chats that came before templates, kept as data in formats.json.

A format there is an object with, of these:

- `models`: a regular expression, found in the names of models that were trained with it, in any
  case; of several formats the first one counts. `tokens`: added tokens that only its models have.
- `system`: the system text where a chat has none; `system_with_input`: the same where the first
  turn has an input. `begin`: what stands before the first turn where there is a system text, with
  "{system}" in it; a format without takes no system text.
- `user`: a user's turn, with "{content}" and, where `begin` belongs inside the first one,
  "{begin}"; `user_with_input`: one with an "{input}" too. `assistant`: an answer's turn. `open`:
  what the model continues.
- `strip`: whether turns lose white space at their ends; `replace`: what is replaced in them.
  `refuse`: texts that no content may have.
- `around`: the tokens before and after each pair of turns, which is encoded by itself. Without it
  the whole chat is encoded at once, behind what the tokenizer puts before a text.
- `stop`, `stop_tokens`: strings and tokens that end an answer.

Sources: databrickslabs/dolly training/consts.py; tatsu-lab/stanford_alpaca train.py;
lm-sys/FastChat fastchat/conversation.py (Vicuna, StableVicuna, StableLM, OpenAssistant, Falcon);
togethercomputer's model card (RedPajama); meta-llama/llama llama/generation.py;
Lightning-AI/litgpt litgpt/prompts.py (Phi-2, TinyLlama, ChatML).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pythia_rt.chat.messages import Message

_FILE = Path(__file__).with_name("formats.json")


class Segment(NamedTuple):
    """A text that is encoded by itself, and what is put around it."""

    text: str
    prefixed: bool = False  # with what the tokenizer puts before a text
    before: str = ""  # a token
    after: str = ""


class BuiltIn:
    """A format of formats.json."""

    def __init__(self, name: str, data: dict[str, Any]) -> None:
        self.name = name
        self.stop: tuple[str, ...] = tuple(data.get("stop", ()))
        self.stop_tokens: tuple[str, ...] = tuple(data.get("stop_tokens", ()))
        self._data = data

    @property
    def takes_system(self) -> bool:
        return "begin" in self._data

    def fits(self, source: str, tokens: Collection[str]) -> bool:
        """Whether a model of this name, with these added tokens, was trained with it."""
        own = self._data.get("tokens")
        named = re.search(self._data["models"], source, re.IGNORECASE) is not None
        return named or (own is not None and all(token in tokens for token in own))

    def literals(self) -> list[str]:
        """The texts that stand in it itself."""
        keys = ("begin", "user", "user_with_input", "assistant", "open", "around")
        return [text for key in keys for text in _list(self._data.get(key, ""))]

    def render(self, messages: Sequence[Message], *, opened: bool) -> list[Segment]:
        """The texts of checked messages, with what opens an answer if `opened`.

        Raises ValueError, in one sentence, for messages that it does not have.
        """
        turns = [self._cleaned(number, message) for number, message in enumerate(messages, 1)]
        begin, turns = self._begin(turns)
        self._check_order(turns)
        pairs = []
        for i, turn in enumerate(turns):
            if turn["role"] == "user":
                key = "user_with_input" if "input" in turn else "user"
                pairs.append(self._filled(key, turn, begin if i == 0 else ""))
            else:
                pairs[-1] += self._filled("assistant", turn)
        if opened:
            pairs[-1] += self._data["open"]
        if "around" not in self._data:
            return [Segment("".join(pairs), prefixed=True)]
        before, after = self._data["around"]
        ended = len(pairs) - opened
        return [Segment(text, False, before, after * (i < ended)) for i, text in enumerate(pairs)]

    def _begin(self, turns: list[Message]) -> tuple[str, list[Message]]:
        """What stands before the first turn, and the turns without the system's."""
        data = self._data
        if turns[0]["role"] == "system":
            if not self.takes_system:
                raise ValueError(
                    f"the format {self.name} has no system text: say it in the first message"
                )
            return _fill(data["begin"], system=turns[0]["content"]), turns[1:]
        has_input = "input" in turns[0] and "system_with_input" in data
        system = data.get("system_with_input" if has_input else "system")
        return ("" if system is None else _fill(data["begin"], system=system)), turns

    def _check_order(self, turns: list[Message]) -> None:
        for i, turn in enumerate(turns):
            if turn["role"] != ("user", "assistant")[i % 2]:
                raise ValueError(
                    f"in the format {self.name} user and assistant take turns, behind one system "
                    f"text at most: turn {i + 1} must not be the {turn['role']}'s"
                )

    def _cleaned(self, number: int, message: Message) -> Message:
        if "input" in message and (
            message["role"] != "user" or "user_with_input" not in self._data
        ):
            raise ValueError(
                f"message {number} has an input, which the format {self.name} has not for the "
                f"{message['role']}: put it into the content"
            )
        turn = dict(message)
        for key in turn.keys() - {"role"}:
            for tag in self._data.get("refuse", ()):
                if tag in turn[key]:
                    raise ValueError(
                        f"message {number} holds {tag}, by which the format {self.name} tells "
                        "turns apart: leave it out"
                    )
            for old, new in self._data.get("replace", ()):
                turn[key] = turn[key].replace(old, new)
            if self._data.get("strip") and turn["role"] != "system":
                turn[key] = turn[key].strip()
        return turn

    def _filled(self, key: str, turn: Message, begin: str = "") -> str:
        pattern = self._data[key]
        inside = "{begin}" in pattern
        text = _fill(pattern, **{**turn, "begin": begin})
        return text if inside else begin + text


@functools.cache
def built_in_formats() -> dict[str, BuiltIn]:
    """All of them by name."""
    data = json.loads(_FILE.read_text(encoding="utf-8"))
    return {name: BuiltIn(name, value) for name, value in data.items()}


def _fill(pattern: str, **values: str) -> str:
    """`pattern` with values in place of "{their names}"; braces in values are text."""
    pieces = re.split(r"\{(\w+)\}", pattern)
    return "".join(values[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
