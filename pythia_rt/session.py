"""A text that is read, written, taken back and continued bit by bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pythia_rt import _core
from pythia_rt.generation import Generation
from pythia_rt.options import whole_number_from
from pythia_rt.prompt import Prompt
from pythia_rt.sampling import Sampling, SamplingOptions, merged
from pythia_rt.saved_session import save_session
from pythia_rt.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from pythia_rt.convert.flatfile import FlatFile

Ids = NDArray[np.int32]


class Session:
    """One sequence of tokens and its key-value cache; made by `Model.session`.

    What was read or written before is not computed again, and every text is, to the token, the one
    that `Model.generate` gives for all tokens so far. Of the streams of a session only the last one
    that was begun goes on. A copy is a fork. One thread at a time.
    """

    def __init__(
        self,
        session: _core.Session,
        file: FlatFile,
        ids: Callable[[Prompt, bool], Ids],
        write: Callable[[_core.Session, Ids, Sampling, int, int], Stream],
        tokens: Sequence[int] = (),
    ) -> None:
        """`session` has `tokens`; `ids` makes ids of a text that is or isn't the first one, and
        `write` what continues ids in a session of a capacity, some of them read before."""
        self._session = session
        self._file = file
        self._ids = ids
        self._write = write
        self._tokens = list(tokens)
        self._stream: Stream | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> list[int]:
        """The ids of all tokens so far, those that it has written included."""
        written = self._stream.tokens if self._stream is not None else []
        # What was interrupted is not there.
        return [*self._tokens, *written][: self._session.position]

    @property
    def capacity(self) -> int:
        """Tokens that it has room for."""
        return self._session.capacity

    def append(self, text: Prompt) -> None:
        """Append a str, or token ids, which are read when something is asked about them.

        Of several strs only the first begins with the tokens, and the space, that the tokenizer
        puts before a text: the others continue it as they stand (`Tokenizer.encode`). Raises
        ValueError as `Model.generate` does and where there is no room, and nothing changes.
        """
        self._settle()
        ids = self._ids(text, not self._tokens)
        self._session.append(ids)
        self._tokens += ids.tolist()

    def generate(
        self, sampling: Sampling | None = None, **options: Unpack[SamplingOptions]
    ) -> Generation:
        """Write on, as `Model.generate` does; what is written is appended."""
        stream = self.stream(sampling, **options)
        for _ in stream:
            pass
        return stream.result

    def stream(
        self, sampling: Sampling | None = None, **options: Unpack[SamplingOptions]
    ) -> Stream:
        """Like `generate`, but yield the text in pieces as it comes. What has come is appended."""
        self._prepare()
        ids = np.array(self._tokens, np.int32)
        cached = len(ids) - self._session.waiting
        chosen = merged(sampling, **options)
        self._stream = self._write(self._session, ids, chosen, self.capacity, cached)
        return self._stream

    def logits(self) -> NDArray[np.float32]:
        """Logits after the last token, float32 [vocab_size]."""
        self._prepare()
        self._session.run()
        return self._session.last_logits

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens. Raises ValueError for more than there
        are."""
        self._settle()
        length = whole_number_from(0, len(self._tokens), "tokens")("length", length)
        self._session.rewind(length)
        del self._tokens[length:]

    def fork(self) -> Session:
        """Another session with the same tokens. Their caches share memory as far as they agree.

        What waits is read first, so that it is read once.
        """
        self._settle()
        self._session.run()
        return Session(self._session.fork(), self._file, self._ids, self._write, self._tokens)

    # Two objects with one cache and tokens of their own would write what belongs to neither.
    def __copy__(self) -> Session:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, object]) -> Session:
        return self.fork()

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write tokens and cache to a safetensors file, for `Model.load_session`.

        It has a name when it is complete. Raises FileExistsError where there is one, unless `force`
        is given, and OSError where it cannot be written.
        """
        self._settle()
        save_session(Path(path).expanduser(), self._session, self._tokens, self._file, force=force)

    def _prepare(self) -> None:
        """Make sure that there are logits to go on from, or tokens that wait and will give them."""
        self._settle()
        if not self._tokens:
            raise ValueError("the session is empty: append at least one token first")
        if not self._session.waiting and not self._session.is_ready:
            # It was rewound: the token that is the last one now is read again.
            self._session.rewind(len(self._tokens) - 1)
            self._session.append(np.array(self._tokens[-1:], np.int32))

    def _settle(self) -> None:
        """End the stream that may be under way; what it has written belongs to the session."""
        self._tokens = self.tokens
        if self._stream is not None:
            self._stream.close()
            self._stream = None
