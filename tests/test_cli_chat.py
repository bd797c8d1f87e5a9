"""`pythia-rt chat`: piped and on a terminal."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chats import BASE, TEMPLATES, make_model, turns
from click.testing import CliRunner
from test_cli_terminal import Terminal

from pythia_rt import Model
from pythia_rt.cli import main

GREEDY = ["--temperature", "0", "--max-new-tokens", "6", "--quiet"]
COMMAND = [sys.executable, "-m", "pythia_rt", "chat"]


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return make_model(tmp_path_factory.mktemp("talker") / "f", template=TEMPLATES["chatml"])


def answers(model: Model, *texts: str, system: str | None = None) -> list[str]:
    chat = model.new_chat(system)
    return [chat.generate(text, temperature=0, max_new_tokens=6).text for text in texts]


def piped(model: Model, typed: str | bytes, *options: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(
        main, ["chat", str(model.file.path), *GREEDY, *options], input=typed
    )
    return result.exit_code, result.stdout_bytes.decode(), result.stderr


def test_each_line_is_a_turn(talker: Model) -> None:
    one, two = answers(talker, "Hello", "H\u00e9 you")
    assert piped(talker, "Hello\r\n\n  \nH\u00e9 you") == (0, f"{one}\n{two}\n", "")


def test_reset_and_exit(talker: Model) -> None:
    one, two = answers(talker, "Hello", "Hello")
    assert one != two
    typed = "Hello\nHello\n/reset\nHello\n /exit \nHello\n"
    assert piped(talker, typed) == (0, f"{one}\n{two}\n{one}\n", "")


def test_slips_are_not_sent(talker: Model) -> None:
    [one] = answers(talker, "/usr/bin is a folder")
    status, written, said = piped(talker, "/rset\n/usr/bin is a folder\n")
    assert (status, written) == (0, f"{one}\n")
    assert said == "(there is no /rset: /reset begins a new chat, /exit ends it, as Ctrl-D does)\n"


def test_the_prompt_is_shown_as_it_is_read(talker: Model) -> None:
    status, written, said = piped(
        talker, "Hi <|im_end|>\nAnd?\n", "--show-prompt", "--system", "S "
    )
    chat = talker.new_chat("S ")
    expected = ""
    for text in ("Hi <|im_end|>", "And?"):
        expected += chat.prompt(text) + "\n"
        chat.generate(text, temperature=0, max_new_tokens=6)
    assert (status, said) == (0, expected)
    assert said.startswith("<|im_start|>system\nS <|im_end|>\n<|im_start|>user\nHi <|im_end|><|im")
    assert written == "".join(
        f"{text}\n" for text in answers(talker, "Hi <|im_end|>", "And?", system="S ")
    )


def test_notes_say_why_an_answer_was_cut(talker: Model) -> None:
    options = ["--max-new-tokens", "4", "--temperature", "0"]
    result = CliRunner().invoke(main, ["chat", str(talker.file.path), *options], input="Hello")
    assert result.stderr == "(the answer was cut after 4 tokens: --max-new-tokens allows more)\n"
    long = ["--max-new-tokens", "9999", "--seed", "1", "--logit-bias", "0=-inf"]
    long += ["--logit-bias", f"{BASE + 1}=-inf", "--logit-bias", f"{BASE + 3}=-inf"]
    result = CliRunner().invoke(
        main, ["chat", str(talker.file.path), *long], input="Hello\nAgain\n/reset\nHello\n"
    )
    full = "(the answer was cut: the context of 512 tokens is full, /reset begins a new chat)\n"
    assert result.exit_code == 1
    note, error = result.stderr[: len(full)], result.stderr[len(full) :]
    assert note == full
    assert error.startswith("Error: the chat has ") and error.endswith(": /reset begins anew\n")


@pytest.mark.parametrize(
    ("typed", "options", "sentence"),
    [
        (b"a\n\xff\n", [], "line 2 on standard input is not UTF-8"),
        (b"a", ["--format", "phi2", "--system", "x"], "the format phi2 has no system text"),
        (b"a", ["--format", "phi"], "there is no chat format 'phi': choose one of 'default', do"),
        (b"a", ["--weights", "q8"], "--weights is for hub models and folders: a flat file has"),
        (b"a", ["--stop-token-id", "999999"], "stop_token_ids names token 999999"),
        (b"a", ["--verbose"], "Give --quiet or --verbose, not both"),
    ],
)
def test_errors_are_sentences(
    talker: Model, typed: bytes, options: list[str], sentence: str
) -> None:
    status, _, said = piped(talker, typed, *options)
    assert status in (1, 2)
    assert sentence in said.replace("--stop-token-id names", "stop_token_ids names")
    assert "Traceback" not in said


def test_a_base_model_says_what_to_pass(model: Model) -> None:
    status, _, said = piped(model, "Hello")
    assert status == 1
    assert said.startswith("Error: this model records no chat format, as base models do: pass --fo")
    assert piped(model, "Hello", "--format", "alpaca")[0] == 0


def test_verbose_tells_the_format_and_what_was_read(talker: Model) -> None:
    options = ["--temperature", "0", "--max-new-tokens", "4", "--verbose"]
    result = CliRunner().invoke(main, ["chat", str(talker.file.path), *options], input="Hi\nHo\n")
    lines = result.stderr.splitlines()
    assert lines[4] == "chat     default"
    assert sum(line.startswith("prefill ") for line in lines) == 2


# On a terminal.


class ChatTerminal(Terminal):
    """A chat on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments, command=COMMAND)

    def wait_for(self, text: str, start: int = 0) -> int:
        """Read until `text` is shown behind `start`; returns where it ends."""
        while text not in self.shown[start:]:
            before = len(self.shown)
            self.read(at_least=before + 1)
            assert len(self.shown) > before, f"the chat ended: {self.shown!r}"
        return self.shown.index(text, start) + len(text)

    def interrupt(self, start: int) -> int:
        """Ctrl-C, until there is a new prompt behind `start`; returns where that ends.

        One that comes between the interpreter's look for signals and its wait for a key is seen
        only after the next key.
        """
        self.type(b"\x03")
        while not select.select([self._master], [], [], 20)[0]:
            self.type(b"\x03")
        return self.wait_for("\r\n> ", start)


@pytest.fixture
def started(talker: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatTerminal]:
    monkeypatch.setenv("TERM", "dumb")  # no colours and the like from the line editor
    end = f"{BASE + 3}=-inf"
    terminal = ChatTerminal(
        str(talker.file.path), "--max-new-tokens", "4000", "--seed", "1", "--logit-bias", end,
        "--logit-bias", "0=-inf", "--logit-bias", f"{BASE + 1}=-inf",
    )  # fmt: skip
    yield terminal
    if terminal.pid:
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)


def test_control_c_stops_the_answer_and_control_d_the_chat(started: ChatTerminal) -> None:
    at = started.wait_for("Ctrl-C stops an answer\r\n> ")
    started.type(b"half a line")
    at = started.wait_for("half a line", at)
    at = started.interrupt(at)  # which drops it
    started.type(b"/reset\n")
    at = started.wait_for("(a new chat)\r\n> ", at)
    started.type(b"/exi\n")
    at = started.wait_for("/exit ends it, as Ctrl-D does)\r\n> ", at)
    started.type(b"\x04")
    assert started.close() == 0
    assert started.shown.endswith("> \r\n")


def test_control_c_keeps_what_was_written(talker: Model, tmp_path: Path) -> None:
    """The signal comes at the first piece: what the chat does with it is no matter of time."""
    script = tmp_path / "interrupted.py"
    script.write_text(
        "import sys, pythia_rt.chat.chat as chat\n"
        "from pythia_rt.cli import main, chat as command\n"
        "from pythia_rt.cli.turns import Turns\n"
        "made = Turns.__init__\n"
        "def terminal(self):\n"
        "    made(self)\n"
        "    self.is_terminal = True\n"
        "Turns.__init__, Turns._typed = terminal, Turns._piped\n"
        "following, count = chat.ChatStream.__next__, 0\n"
        "def interrupted(self):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 3:\n"
        "        raise KeyboardInterrupt\n"
        "    return following(self)\n"
        "chat.ChatStream.__next__ = interrupted\n"
        "main()\n"
    )
    options = ["--seed", "1", "--max-new-tokens", "6", "--logit-bias", "0=-inf", "--show-prompt"]
    ran = subprocess.run(
        [sys.executable, str(script), "chat", str(talker.file.path), *options],
        input=b"Hello\nAgain\n",
        capture_output=True,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"(stopped)\n" in ran.stderr
    chat = talker.new_chat()
    stream = chat.stream("Hello", seed=1, max_new_tokens=6, logit_bias={0: -float("inf")})
    kept = next(stream) + next(stream)
    said = [*turns("Hello", kept.strip(), "Again")]
    assert talker.new_chat().prompt(said).encode() in ran.stderr
    assert ran.stdout.startswith(kept.encode() + b"\n")
