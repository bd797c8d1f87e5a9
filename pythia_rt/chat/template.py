"""A chat template of the checkpoint as a format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pythia_rt.chat.formats import Segment
from pythia_rt.chat.messages import Message
from pythia_rt.chat.sandbox import SANDBOX


class Template:
    """A template, in jinja2's language, and the texts of the tokens that have names.

    Its text is encoded without what the tokenizer puts before a text: it writes its own BOS.
    """

    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()

    def __init__(self, name: str, source: str, named_tokens: Mapping[str, str]) -> None:
        self.name = name
        self._source = source
        self._named_tokens = dict(named_tokens)

    def literals(self) -> list[str]:
        """The texts that stand in it itself. Raises ValueError as `render` does."""
        return SANDBOX.literals(self._source)

    def render(self, messages: Sequence[Message], *, opened: bool) -> list[Segment]:
        """The text of checked messages, with what opens an answer if `opened`.

        Raises ValueError, in one sentence, for messages that it refuses, and as `Sandbox` does.
        """
        for number, message in enumerate(messages, 1):
            if "input" in message:
                raise ValueError(
                    f"message {number} has an input, which chat templates have not: put it into "
                    "the content"
                )
        values = {
            **self._named_tokens,
            "messages": list(messages),
            "tools": None,
            "documents": None,
            "add_generation_prompt": opened,
        }
        return [Segment(SANDBOX.render(self._source, values))]
