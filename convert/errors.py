"""The two exceptions for bad files, and how hostile names are shown in their sentences."""


class CheckpointError(ValueError):
    """A source checkpoint cannot be converted; the message is one sentence that says what to do."""


class FlatFileError(ValueError):
    """A flat file cannot be opened; the message is one sentence that says what to do."""


def quote(text: str) -> str:
    """Return `text` in quotes, printable and at most about 120 characters long.

    Names come from files that anybody may have written: control characters, lone surrogates and
    megabytes must not reach a terminal.
    """
    return repr(text if len(text) <= 120 else text[:117] + "...")


def with_sentence(reason: OSError, sentence: str) -> OSError:
    """Return an error of the same type and number as `reason` that says `sentence` alone.

    OSError(number, sentence) would print as "[Errno 28] sentence".
    """
    error = type(reason)(sentence)
    error.errno = reason.errno
    return error
