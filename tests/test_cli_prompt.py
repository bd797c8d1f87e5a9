"""Prompts that begin with a dash, options that are not there, and where a prompt may come from."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pythia_rt import Model
from pythia_rt.cli import main
from pythia_rt.cli.command import Command, PromptCommand

GREEDY = ["--temperature", "0", "--max-new-tokens", "4", "--quiet"]


@pytest.fixture(autouse=True)
def use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(cache))


def written(*arguments: str, input: bytes | None = None) -> str:
    result = CliRunner().invoke(main, ["generate", *arguments], input=input)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "prompt",
    [
        "- Update the kernel", "-- a comment", "-5 degrees", "-5", "--- a/README", "---", "-.5",
        "-Wall is a flag", "--help me", "-h me", "-\tlist", "- [ ] to do\n- [x] done", "-é",
        "--temperature is an option", "-*- mode -*-", "--quiet please",
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_an_option(model: Model, prompt: str) -> None:
    expected = model.generate(prompt, temperature=0, max_new_tokens=4).text + "\n"
    assert written(prompt, *GREEDY) == expected
    assert written(*GREEDY, prompt) == expected
    assert written(*GREEDY[:2], prompt, *GREEDY[2:]) == expected
    assert written(*GREEDY, "--", prompt) == expected


@pytest.mark.parametrize("prompt", ["--help", "-x", "--seed", "--", "--a=b c"])
def test_behind_two_dashes_everything_is_a_prompt(model: Model, prompt: str) -> None:
    expected = model.generate(prompt, temperature=0, max_new_tokens=4).text + "\n"
    assert written(*GREEDY, "--", prompt) == expected


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--temprature", "0.5"], "--temperature"),
        (["--temprature=0.5"], "--temperature"),
        (["--max-tokens", "5"], "Use --max-new-tokens"),
        (["--eos-token-id", "5"], "Use --stop-token-id"),
        (["--repeat-penalty=2"], "Use --repetition-penalty"),
        (["-n", "5"], "No such option"),
        (["-Wall"], "No such option"),
        (["-x=3 is a formula"], "No such option"),
    ],
)
def test_what_could_be_an_option_is_one(arguments: list[str], hint: str) -> None:
    for command in ([*arguments, "The"], ["The", *arguments], arguments):
        said = refused("generate", *command)
        assert hint in said
        assert " -- " in said


@pytest.mark.parametrize("name", ["convert", "evaluate", "info"])
def test_other_commands_say_so_too(name: str) -> None:
    assert " -- " in refused(name, "-file")
    assert "No such option" in refused(name, "--nonsense")


def test_values_of_options_may_begin_with_a_dash(model: Model) -> None:
    text = written("The", *GREEDY)
    assert written("The", *GREEDY, "--stop", "- x", "--stop", "--quiet") == text
    assert written("The", *GREEDY, "--logit-bias", "5=-1e9", "--stop=- x") == text


def test_every_command_reads_its_options_as_click_does() -> None:
    """What takes a value and what does not is found from click's own parameters."""
    for name, command in main.commands.items():
        if name == "lm-eval":  # its options are the harness's own
            continue
        assert isinstance(command, Command), name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.nargs == 1
    assert isinstance(main.commands["generate"], PromptCommand)


def test_words_without_quotes() -> None:
    assert "put quotes around its words" in refused("generate", "The", "kernel", "is")
    assert "put quotes around its words" in refused("generate", "- a", "--quiet", "--", "b")
    assert "unexpected extra argument" in refused("info", "a", "b")


def test_prompt_files(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a prompt.txt").write_bytes(b"The kernel\r\n")
    expected = written("The kernel", *GREEDY)
    assert written("--prompt-file", "a prompt.txt", *GREEDY) == expected
    assert written("--prompt-file", "-", *GREEDY, input=b"The kernel\n") == expected
    assert "not both" in refused("generate", "The", "--prompt-file", "a prompt.txt")
    for name, sentence in (("none", "none does not exist: give a text file"), (".", "is a folder")):
        result = CliRunner().invoke(main, ["generate", "--prompt-file", name])
        assert (result.exit_code, result.stdout) == (1, "")
        assert sentence in result.stderr


def test_a_prompt_that_is_not_utf8() -> None:
    result = CliRunner().invoke(main, ["generate", "ab\udcffcd"])
    assert result.stderr == (
        "Error: the prompt is not UTF-8: byte 0xff at offset 2 is wrong, so convert it first\n"
    )
