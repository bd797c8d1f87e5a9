"""The exceptions for bad files, and how sentences are put into words."""

from __future__ import annotations


class Sentence(str):
    """An error's sentence for who calls from Python, with another for who types commands.

    For advice that is not the same for both: `raise ValueError(Sentence(python, command_line))`.
    Names of options need none, the command line spells them its own way (pythia_rt/cli/wording.py).
    """

    command_line: str

    def __new__(cls, python: str, command_line: str) -> Sentence:
        """Make the sentence `python`, which holds the sentence `command_line` too."""
        sentence = super().__new__(cls, python)
        sentence.command_line = command_line
        return sentence

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Pickle both: errors come back from worker processes."""
        return str(self), self.command_line


class CheckpointError(ValueError):
    """A source checkpoint cannot be converted; the message is one sentence that says what to do."""


class NoTokenizerWarning(UserWarning):
    """A source had no tokenizer: the model takes and gives token ids but no text."""


class FlatFileError(ValueError):
    """A flat file cannot be opened; the message is one sentence that says what to do."""


class MissingBasis(FlatFileError):  # noqa: N818
    """A flat file does not say how its values take back what conversion did; convert again."""


def quote(text: str) -> str:
    """Return `text` in quotes, printable and at most about 120 characters long.

    Names come from files that anybody may have written: control characters, lone surrogates and
    megabytes must not reach a terminal.
    """
    return repr(text if len(text) <= 120 else text[:117] + "...")


def shown(value: object) -> str:
    """Return what a caller gave as a message shows it: on one line, at most 120 characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else text[:117] + "..."


def with_sentence(reason: OSError, sentence: str) -> OSError:
    """Return an error of the same type and number as `reason` that says `sentence` alone.

    OSError(number, sentence) would print as "[Errno 28] sentence".
    """
    error = type(reason)(sentence)
    error.errno = reason.errno
    return error
