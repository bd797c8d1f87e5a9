"""The command line in this process: what it writes, and how it refuses."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from pythia_rt.cli import main


def run(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    """What a command does, be it refused or not."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=input)


def good(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    """What a command does that is not refused."""
    result = run(*arguments, input=input)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str | Path, status: int = 1, input: str | bytes | None = None) -> str:
    """Expect one sentence on standard error, nothing on standard output; return the sentence.

    With status 2 click writes before it how the command is called.
    """
    result = run(*arguments, input=input)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    *before, last = result.stderr.rstrip("\n").splitlines()
    assert last.startswith("Error: ") and (status == 2 or not before), result.output
    return last
