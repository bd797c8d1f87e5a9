"""The turns of a chat, as callers give them, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ROLES = ("system", "user", "assistant")
Message = dict[str, str]  # "role", one of ROLES, "content", and maybe "input" (Alpaca, Dolly)
Messages = Iterable[Mapping[str, str]]


def check_messages(messages: Messages) -> list[Message]:
    """Copies of `messages`, of which there is one at least and the last is the user's.

    Raises ValueError, in one sentence, for anything else.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise ValueError(
            'messages must be a list of turns, as [{"role": "user", "content": "Hello"}], not '
            f"{type(messages).__name__}"
        )
    checked = [_check(number, message) for number, message in enumerate(messages, 1)]
    if not checked:
        raise ValueError("there are no messages: give at least one of the user")
    if checked[-1]["role"] != "user":
        raise ValueError(
            f"the last message is the {checked[-1]['role']}'s: the last one must be the user's, "
            "which is answered"
        )
    return checked


def _check(number: int, message: Any) -> Message:
    which = f"message {number}"
    if not isinstance(message, Mapping):
        raise ValueError(f"{which} must be a dict of role and content, not {message!r:.80}")
    for key in ("role", "content"):
        if key not in message:
            raise ValueError(f"{which} has no {key}")
    for key in message:
        if key not in ("role", "content", "input"):
            raise ValueError(f"{which} has {key!r}: a message is made of role and content")
    if message["role"] not in ROLES:
        raise ValueError(
            f"{which} has the role {message['role']!r:.80}: roles are {', '.join(ROLES)}"
        )
    for key in ("content", "input"):
        text = message.get(key, "")
        if not isinstance(text, str):
            raise ValueError(f"{which}: its {key} must be a str, not {type(text).__name__}")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(
                f"{which}: its {key} holds a lone surrogate, which did not come from valid UTF-8: "
                "decode it again or remove it"
            )
    return dict(message)
