"""The library's sentences in the command line's words.

They name options as Python does; here each option of the command that is running is spelled as it
is typed: "kv_format must be ..." becomes "--kv-format must be ...", "pass force=True" becomes
"pass --force". Advice that is another for who types holds both forms (`Sentence`).
"""

from __future__ import annotations

import re

import click

from pythia_rt.convert.errors import Sentence

# Not inside of a path, a quoted name or a longer word.
_BEFORE = r"(?<![\w./\\'\"=-])"
_AFTER = r"(?![\w/\\'\"=-]|\.\w)"
_VALUE = r"(?P<value>True|'[^']*'|\"[^\"]*\"|\d+)"
# What follows an option's name that is an ordinary word where the sentence is about the option.
_ABOUT = r"(?= must | has no effect| cannot | '[^']*' is | \d+ is )"


def sentence(error: BaseException, command: click.Command | None) -> str:
    """One line about `error`, for somebody who typed `command`."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    first = error.args[0] if error.args else ""
    text = first.command_line if isinstance(first, Sentence) else str(error)
    text = " ".join(text.split()) or type(error).__name__
    return text if command is None else spell_options(text, command)


def spell_options(text: str, command: click.Command) -> str:
    """`text` with the options of `command` as they are typed."""
    options = {
        parameter.name: max(parameter.opts, key=len)
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name
    }
    names = "|".join(map(re.escape, options))
    if not names:
        return text
    longer = "|".join(re.escape(name) for name in options if "_" in name) or "(?!)"

    def typed(match: re.Match[str]) -> str:
        value = match["value"].strip("'\"")
        return options[match["name"]] + ("" if value == "True" else f" {value}")

    def name_only(match: re.Match[str]) -> str:
        return options[match[0]]

    text = re.sub(rf"{_BEFORE}(?P<name>{names})={_VALUE}", typed, text)
    text = re.sub(rf"{_BEFORE}(?:{longer}){_AFTER}", name_only, text)
    return re.sub(rf"^(?:{names}){_ABOUT}", name_only, text)
