"""What a `Model` does with chats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pythia_rt.convert.errors import Sentence

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.chat.chat import Chat, ChatStream
    from pythia_rt.chat.messages import Messages
    from pythia_rt.convert.flatfile import FlatFile
    from pythia_rt.generation import Generation
    from pythia_rt.sampling import Sampling, SamplingOptions
    from pythia_rt.session import Session
    from pythia_rt.tokenizer import Tokenizer


class Chatting:
    """Methods of `Model`."""

    if TYPE_CHECKING:

        @property
        def tokenizer(self) -> Tokenizer | None: ...

        @property
        def file(self) -> FlatFile: ...

        def session(self, *, capacity: int | None = None) -> Session: ...

    def chat(
        self,
        messages: Messages,
        sampling: Sampling | None = None,
        *,
        format: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Answer `messages`, dicts of "role" (system, user, assistant) and "content".

        The last one is the user's. `format` names a template of the file or a built-in format; the
        default is what the file records (docs/chat.md). Options are those of `generate`; the
        format's own stop strings and tokens come on top. Raises ValueError for bad messages, for a
        model without a format or a tokenizer, and as `generate` does, before anything is written.
        """
        return self.new_chat(format=format).generate(messages, sampling, **options)

    def stream_chat(
        self,
        messages: Messages,
        sampling: Sampling | None = None,
        *,
        format: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> ChatStream:
        """Like `chat`, but yield the answer in pieces as it comes."""
        return self.new_chat(format=format).stream(messages, sampling, **options)

    def new_chat(
        self,
        system: str | None = None,
        *,
        format: str | None = None,
        capacity: int | None = None,
    ) -> Chat:
        """A chat that goes on: see `Chat`. `system` is its system text, where the format has one.

        Raises ValueError for a model without a format or a tokenizer, and for a bad argument.
        """
        from pythia_rt.chat.chat import Chat  # generate needs none of it
        from pythia_rt.chat.choose import choose_format
        from pythia_rt.chat.prompter import Prompter

        if self.tokenizer is None:
            why = "this model has no tokenizer, so it cannot chat"
            raise ValueError(
                Sentence(
                    f"{why}: use generate with token ids",
                    f"{why}: convert it again from a folder with a tokenizer.json",
                )
            )
        form = choose_format(self.file, format)
        prompter = Prompter(form, self.tokenizer, self.file.text["added_tokens"])
        return Chat(self.session(capacity=capacity), prompter, system)
