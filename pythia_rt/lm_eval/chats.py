"""Chats as the harness wants them: text, which the model encodes afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pythia_rt.chat.formats import Segment

if TYPE_CHECKING:
    from pythia_rt.chat.choose import Format
    from pythia_rt.tokenizer import Tokenizer


def render_chat(
    form: Format, tokenizer: Tokenizer, history: Iterable[Mapping[str, str]], *, opened: bool
) -> str:
    """The text of a chat in a format: with what opens the answer if `opened`; else it ends with
    the last message's content, which the model continues. Raises ValueError as the format does."""
    messages = [{"role": turn["role"], "content": turn["content"]} for turn in history]
    segments = form.render(messages, opened=opened)
    text = "".join(_shown(tokenizer, segment) for segment in segments)
    if opened:
        return text
    content = messages[-1]["content"].strip()
    end = text.rfind(content)
    if end < 0:
        raise ValueError(f"the format {form.name} does not have the last message as it stands")
    return text[: end + len(content)]


def _shown(tokenizer: Tokenizer, segment: Segment) -> str:
    before = tokenizer.decode(tokenizer.prefix_ids) if segment.prefixed else segment.before
    return before + segment.text + segment.after
