"""Turns become token ids: a control token is one only where the format put it.

Control tokens are the special tokens of the tokenizer and the other added tokens that stand in the
format itself, as "<|im_end|>". Where one is written in the content of a message, a character of
Unicode's private use area stands for it while the format renders, and it is then encoded as the
text it is. What stands in an answer is treated so for special tokens alone, for templates look into
answers for others, as "</think>". Formats without such tokens ("USER:", "### Human:") cannot tell a
content that imitates them from their own.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pythia_rt.chat.formats import Segment
from pythia_rt.chat.messages import Message
from pythia_rt.convert.errors import quote

if TYPE_CHECKING:
    from pythia_rt.chat.choose import Format
    from pythia_rt.convert.flatfile.text_facts import AddedToken
    from pythia_rt.tokenizer import Tokenizer

_PRIVATE = range(0x10FFFD, 0x100000, -1)
_ANSWER = "\U000ffffd"  # stands for an answer in `surroundings`


class ChatPrompt(NamedTuple):
    """A prompt as the model reads it; `text` is before it is encoded."""

    text: str
    ids: list[int]


class Surroundings(NamedTuple):
    """What a format has around an answer: `lead`, white space between what opens it and its text,
    and `ends`, the token after it."""

    lead: str
    ends: tuple[str, ...]


class Prompter:
    """Makes prompts of messages, in one format and for one tokenizer."""

    def __init__(
        self, form: Format, tokenizer: Tokenizer, added_tokens: Sequence[AddedToken]
    ) -> None:
        self.format = form
        self._tokenizer = tokenizer
        self._added_tokens = added_tokens

    def prompt(self, messages: Sequence[Message]) -> ChatPrompt:
        """What the model reads to answer checked messages. Raises ValueError as `render` does."""
        stand_ins = self._stand_ins(messages)
        replaced = [self._replaced(message, stand_ins) for message in messages]
        for number, (message, given) in enumerate(zip(replaced, messages, strict=True), 1):
            self._check(number, message, given["role"], stand_ins)
        segments = self.format.render(replaced, opened=True)
        texts = {stand_in: token for token, stand_in in stand_ins.items()}
        shown, ids = "", []
        for segment in segments:
            text = "".join(texts.get(character, character) for character in segment.text)
            before = self._tokenizer.prefix_ids if segment.prefixed else self._ids(segment.before)
            after = self._ids(segment.after)
            shown += self._tokenizer.decode(before) + text + self._tokenizer.decode(after)
            ids += [*before, *self._encoded(segment.text, texts), *after]
        return ChatPrompt(shown, ids)

    @functools.cached_property
    def surroundings(self) -> Surroundings:
        """What the format has around an answer, as far as it can be found out."""
        user: Message = {"role": "user", "content": "?"}
        answer: Message = {"role": "assistant", "content": _ANSWER}
        try:
            opened = _joined(self.format.render([user], opened=True))
            whole = _joined(self.format.render([user, answer], opened=False))
        except ValueError:  # a template that wants other messages
            return Surroundings("", ())
        before, found, after = whole.partition(_ANSWER)
        lead = before[len(opened) :] if before.startswith(opened) else ""
        if not found or lead.strip():
            lead = ""
        after = after.lstrip()
        ends = [token for token in self._special if token and after.startswith(token)]
        return Surroundings(lead, (max(ends, key=len),) if ends else ())

    @property
    def stops(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """The strings and the token ids that end an answer."""
        strings, ids = list(self.format.stop), []
        for token in dict.fromkeys([*self.format.stop_tokens, *self.surroundings.ends]):
            token_id = self._tokenizer.token_id(token)
            if token_id is None:
                strings.append(token)  # the text of a tokenizer that lacks the token
            else:
                ids.append(token_id)
        return tuple(strings), tuple(ids)

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        return {token["content"]: token["id"] for token in self._added_tokens if token["special"]}

    @functools.cached_property
    def _control(self) -> dict[str, int]:
        own = "\0".join(self.format.literals())
        return self._special | {
            token["content"]: token["id"]
            for token in self._added_tokens
            if token["content"] in own and token["content"].strip()
        }

    def _control_of(self, role: str) -> dict[str, int]:
        return self._special if role == "assistant" else self._control

    def _found(self, message: Message) -> Iterator[str]:
        for text in _contents(message):
            yield from _any_of(self._control_of(message["role"])).findall(text)

    def _stand_ins(self, messages: Sequence[Message]) -> dict[str, str]:
        """A character for each control token in the contents, which none of them has."""
        tokens = dict.fromkeys(token for message in messages for token in self._found(message))
        used = {
            character for message in messages for text in _contents(message) for character in text
        }
        free = (chr(code) for code in _PRIVATE if chr(code) not in used)
        return dict(zip(tokens, free, strict=False))

    def _replaced(self, message: Message, stand_ins: dict[str, str]) -> Message:
        pattern = _any_of(self._control_of(message["role"]))
        return {
            key: text if key == "role" else pattern.sub(lambda match: stand_ins[match[0]], text)
            for key, text in message.items()
        }

    def _check(self, number: int, message: Message, role: str, stand_ins: dict[str, str]) -> None:
        """Refuse a content in which the tokenizer finds control tokens that are spelled otherwise,
        as a normaliser makes it possible."""
        control = {token_id: token for token, token_id in self._control_of(role).items()}
        for text in _contents(message):
            for piece in _any_of(dict.fromkeys(stand_ins.values(), 0)).split(text):
                for token in self._tokenizer.encode(piece, add_special_tokens=False):
                    if token in control:
                        raise _unwritable(f"message {number} has text", control[token])

    def _encoded(self, text: str, texts: dict[str, str]) -> list[int]:
        pattern = _any_of(dict.fromkeys(texts, 0))
        pieces = re.split(f"({pattern.pattern})", text) if texts else [text]
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                ids += self._tokenizer.encode(piece, add_special_tokens=False, continues=i > 0)
                continue
            token = texts[piece]
            as_text = self._tokenizer.encode_as_text(token)
            if self._control[token] in as_text:  # it is not special: cut, it cannot be found
                halves = (token[:1], token[1:])
                as_text = [t for half in halves for t in self._tokenizer.encode_as_text(half)]
            if self._control[token] in as_text:
                raise _unwritable("a message has text", token)
            ids += as_text
        return ids

    def _ids(self, token: str) -> list[int]:
        if not token:
            return []
        token_id = self._tokenizer.token_id(token)
        if token_id is None:
            raise ValueError(
                f"the format {self.format.name} needs the token {quote(token)}, which this model's "
                "tokenizer has not: choose another format"
            )
        return [token_id]


def _contents(message: Message) -> Iterator[str]:
    return (text for key, text in message.items() if key != "role")


def _any_of(tokens: dict[str, int]) -> re.Pattern[str]:
    """Finds the longest of some texts; never anything for none."""
    longest_first = sorted(filter(None, tokens), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _joined(segments: Sequence[Segment]) -> str:
    return "".join(segment.before + segment.text + segment.after for segment in segments)


def _unwritable(what: str, token: str) -> ValueError:
    return ValueError(
        f"{what} that this tokenizer reads as its control token {quote(token)}: leave it out"
    )
