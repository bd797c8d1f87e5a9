"""The one reader of text from outside: files and pipes, for prompts and for measuring.

The same text gives the same tokens whatever system it was written on: it is UTF-8, a byte order
mark at its start is dropped, and CR LF, the end of a line on Windows, becomes LF. A CR alone stays.
Strings that a caller passes are never changed.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from .lfs import refuse_pointer

_BYTE_ORDER_MARK = "\ufeff"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)  # the first begins as UTF-16's does
_LOOKED_AT = 64  # bytes; ASCII in UTF-16 has a zero in every second one


def decode_text(content: bytes, where: str, *, complete: bool = True) -> str:
    """The text in `content`, whose start may end within a character unless it is `complete`.

    Raises ValueError, which names `where` it comes from, for anything but UTF-8 and for a Git LFS
    pointer, which is none of the text that it stands for.
    """
    refuse_pointer(content, where, ValueError)
    other = _other_encoding(content)
    if other:
        raise ValueError(f"{where} is {other}, not UTF-8: save it as UTF-8")
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(content, final=complete)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start} is "
            "wrong, so convert it first"
        ) from None
    return text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n")


def decode_utf8(content: bytes, where: str, error: type[ValueError]) -> str:
    """The text in `content`, a file of a checkpoint, as it stands; raises `error` where it is
    none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise error(f"{where} is not UTF-8: fetch it again") from None


def decode_prompt(content: bytes, where: str) -> str:
    """The prompt in `content`: as `decode_text`, without the newline at its end if there is one.

    Editors and `echo` write one that nobody means; of several, the others stay.
    """
    return decode_text(content, where).removesuffix("\n")


def read_text_file(path: Path, decode: Callable[[bytes, str], str] = decode_text) -> str:
    """The text in the file at `path`, a leading "~" in it expanded; `decode` is one of the above.

    Raises OSError for a folder, for what is not there and what cannot be read, and ValueError as
    `decode` does.
    """
    path = path.expanduser()
    check_text_file(path)
    return decode(path.read_bytes(), str(path))


def check_text_file(path: Path) -> None:
    """Raise OSError for a folder, and for what is not there."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give a text file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a text file")


def _other_encoding(content: bytes) -> str:
    if content.startswith(_UTF_32):
        return "UTF-32"
    start = content[:_LOOKED_AT]
    even, odd = start[0::2], start[1::2]
    is_interleaved = (not any(odd) and all(even)) or (not any(even) and all(odd))
    if content.startswith(_UTF_16) or (len(start) >= 4 and is_interleaved):
        return "UTF-16"
    return ""
