"""A chat that goes on: each turn reads what is new and nothing again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pythia_rt.chat.messages import Message, Messages, check_messages
from pythia_rt.convert.errors import Sentence
from pythia_rt.convert.files.closing import Closing
from pythia_rt.sampling import Sampling, SamplingOptions, merged

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.chat.prompter import ChatPrompt, Prompter
    from pythia_rt.generation import Generation
    from pythia_rt.session import Session
    from pythia_rt.stream import Stream


class Chat:
    """The messages of a chat and the cache of what the model has read; made by `Model.new_chat`.

    An answer is always the one that `Model.chat` gives for all messages so far, with the same seed.
    What the model read or wrote before is not computed again as far as the new prompt begins with
    the same tokens: an answer's text may be encoded otherwise than it was written, and templates
    may change old turns; the rest is then read again. A copy is a fork. One thread at a
    time.
    """

    def __init__(self, session: Session, prompter: Prompter, system: str | None = None) -> None:
        self._session = session
        self._prompter = prompter
        self._system: list[Message] = []
        if system is not None:
            self._system = [{"role": "system", "content": system}]
        self._messages = list(self._system)
        self._stream: ChatStream | None = None

    @property
    def format(self) -> str:
        """The name of its format."""
        return self._prompter.format.name

    @property
    def messages(self) -> list[Message]:
        """All turns so far, as dicts of role and content; an answer's white space at both ends is
        left out. What was written of a stream that was closed early is an answer."""
        self._settle()
        return [dict(message) for message in self._messages]

    @property
    def tokens(self) -> list[int]:
        """The ids that the cache is of."""
        return self._session.tokens

    @property
    def capacity(self) -> int:
        """Tokens that the chat has room for, the next answer included."""
        return self._session.capacity

    def generate(
        self,
        messages: str | Messages,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Answer the user's next turn, a str, or a whole list of messages in place of the chat's.

        `Generation.text` is the answer, which becomes the last of `messages`. Raises ValueError as
        `Model.chat` does, and then the chat is as it was.
        """
        stream = self.stream(messages, sampling, **options)
        for _ in stream:
            pass
        return stream.result

    def stream(
        self,
        messages: str | Messages,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> ChatStream:
        """Like `generate`, but yield the answer in pieces as it comes."""
        chosen = merged(sampling, **options)
        turns = self._next(messages)
        ids = self._prompter.prompt(turns).ids
        if len(ids) >= self.capacity:
            full = f"the chat has {len(ids)} tokens and its context {self.capacity}, so there is "
            raise ValueError(
                Sentence(
                    f"{full}no room for an answer: leave out old turns, or begin anew with reset()",
                    f"{full}no room for an answer: /reset begins anew",
                )
            )
        strings, stop_ids = self._prompter.stops
        chosen = dataclasses.replace(
            chosen,
            stop=(*chosen.stops, *strings),
            stop_token_ids=(*chosen.stop_ids, *stop_ids),
        )
        known = self._session.tokens
        same = 0
        while same < min(len(known), len(ids)) and known[same] == ids[same]:
            same += 1
        self._session.rewind(same)
        if same < len(ids):
            self._session.append(ids[same:])
        lead = self._prompter.surroundings.lead
        self._stream = ChatStream(self, self._session.stream(chosen), turns, lead)
        return self._stream

    def prompt(self, messages: str | Messages) -> str:
        """The text that the model would read to answer. Raises ValueError as `generate` does."""
        return self._render(messages).text

    def reset(self) -> None:
        """Forget all turns but the system text that the chat was made with."""
        self._settle()
        self._messages = list(self._system)

    def fork(self) -> Chat:
        """Another chat with the same turns; their caches share memory as far as they agree."""
        self._settle()
        fork = Chat.__new__(Chat)
        fork.__dict__.update(self.__dict__)
        fork._session = self._session.fork()
        fork._messages = self.messages
        return fork

    def __copy__(self) -> Chat:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, object]) -> Chat:
        return self.fork()

    def _render(self, messages: str | Messages) -> ChatPrompt:
        return self._prompter.prompt(self._next(messages))

    def _next(self, messages: str | Messages) -> list[Message]:
        self._settle()
        if isinstance(messages, str):
            messages = [*self._messages, {"role": "user", "content": messages}]
        return check_messages(messages)

    def _settle(self) -> None:
        """End the stream that may be under way."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _answered(self, turns: list[Message], answer: str) -> None:
        self._messages = [*turns, {"role": "assistant", "content": answer.strip()}]


class ChatStream(Iterator[str], Closing):
    """An answer as it is written: iterate over it, then read `result`. As `Stream`, and whatever
    way it ends, what was written becomes a turn of its chat."""

    def __init__(self, chat: Chat, stream: Stream, turns: list[Message], lead: str) -> None:
        """Made by `Chat.stream`; `lead` is white space that the format has before an answer."""
        self._chat: Chat | None = chat
        self._stream = stream
        self._turns = turns
        self._lead = lead
        self._held: str | None = ""  # until it is known whether the lead came
        self._pieces: list[str] = []

    def __next__(self) -> str:
        try:
            for piece in self._stream:
                ready = self._without_lead(piece)
                if ready:
                    self._pieces.append(ready)
                    return ready
        except BaseException:
            self.close()
            raise
        rest, self._held = self._held, None
        if rest:
            self._pieces.append(rest)
            return rest
        self._record(ended=True)
        raise StopIteration

    def close(self) -> None:
        """Stop writing; an answer of which nothing was written is none."""
        self._stream.close()
        self._record(ended=False)

    @property
    def seed(self) -> int:
        """The seed of its random numbers, known before the answer is."""
        return self._stream.seed

    @property
    def result(self) -> Generation:
        """The whole generation. Raises ValueError before the answer has ended."""
        return dataclasses.replace(self._stream.result, text="".join(self._pieces))

    def _without_lead(self, piece: str) -> str:
        if self._held is None:
            return piece
        self._held += piece
        if self._lead.startswith(self._held) and self._held != self._lead:
            return ""
        text, self._held = self._held.removeprefix(self._lead), None
        return text

    def _record(self, *, ended: bool) -> None:
        chat, self._chat = self._chat, None
        answer = "".join(self._pieces)
        if chat is not None and (ended or answer.strip()):
            chat._answered(self._turns, answer)
