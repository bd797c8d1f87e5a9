"""The command line on a terminal: the text, a newline, the speed; interrupts and errors within."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythia_rt import Model

COMMAND = [sys.executable, "-m", "pythia_rt", "generate"]
GREEDY = ["--temperature", "0", "--max-new-tokens", "8"]
ENDLESS = ["--max-new-tokens", "2000", "--logit-bias", "0=-inf", "--seed", "1"]
# It writes its pieces so slowly that it does not end before it is interrupted.
SLOWLY = """
import time
from pythia_rt import stream
from pythia_rt.cli import main
step = stream.Stream.__next__
def slowly(self):
    time.sleep(0.05)
    return step(self)
stream.Stream.__next__ = slowly
main()
"""
SPEED = r"prefill \d+ tokens at [\d.]+ tokens/s, decode \d+ tokens at .*\)\r\n"


@pytest.fixture(autouse=True)
def use_cache(cache: Path, model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHIA_RT_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)


class Terminal:
    """A command that runs on a pseudo-terminal of its own, as its controlling one."""

    def __init__(
        self, *arguments: str, stderr: Path | None = None, command: list[str] | None = None
    ) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:  # the child
            try:
                if stderr is not None:
                    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT), 2)
                started = command or COMMAND
                os.execv(started[0], [*started, *arguments])
            finally:
                os._exit(127)
        self.shown = ""
        self._bytes = b""

    def read(self, at_least: int = 1 << 30) -> str:
        """What is shown until there are so many characters, or to the end."""
        while len(self.shown) < at_least:
            try:
                piece = os.read(self._master, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not piece:
                break
            self._bytes += piece
            self.shown = self._bytes.decode("utf-8", "replace")
        return self.shown

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def close(self) -> int:
        """Read to the end; returns the exit status."""
        self.read()
        _, status = os.waitpid(self.pid, 0)
        os.close(self._master)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    started: list[Terminal] = []
    yield started
    for terminal in started:
        if terminal.pid:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)


def run(*arguments: str) -> str:
    terminal = Terminal(*arguments)
    assert terminal.close() == 0, terminal.shown
    return terminal.shown


def test_text_and_speed_stand_on_lines_of_their_own(model: Model) -> None:
    text = model.generate("The kernel", temperature=0, max_new_tokens=8).text
    assert not text.endswith("\n")
    shown = run("The kernel", *GREEDY)
    written = text.replace("\n", "\r\n")
    assert re.fullmatch(re.escape(written + "\r\n") + SPEED, shown)


def test_no_empty_line_after_a_text_that_ends_its_line(model: Model) -> None:
    assert model.tokenizer is not None
    [newline] = model.tokenizer.encode("\n")
    options = ["The kernel", "--logit-bias", f"{newline}=1000", "--max-new-tokens", "1"]
    assert re.fullmatch(r"\r\n" + SPEED, run(*options))
    # A program gets the text as it is and one newline, whatever it ends with.
    piped = subprocess.run([*COMMAND, *options, "--quiet"], capture_output=True, check=True)
    assert piped.stdout == b"\n\n"


def test_verbose_tells_before_the_text(model: Model) -> None:
    shown = run("The kernel", *GREEDY, "--verbose", "--seed", "7")
    text = model.generate("The kernel", temperature=0, max_new_tokens=8).text
    facts, written, speed = shown.partition(text.replace("\n", "\r\n"))
    assert written
    assert re.fullmatch(r"\r\n" + SPEED, speed)
    assert facts.splitlines() == [
        f"model    {model.file.path}",
        "source   demo",
        "format   q4, KV cache f16",
        f"runs on  {model.runs_on}",
        "seed     7",
    ]


def test_the_seed_that_verbose_tells_gives_the_text_again() -> None:
    options = [*COMMAND, "The", "--max-new-tokens", "20"]
    first = subprocess.run([*options, "--verbose"], capture_output=True, check=True, text=True)
    [seed] = re.findall(r"^seed +(\d+)$", first.stderr, re.M)
    again = subprocess.run(
        [*options, "--seed", seed, "--quiet"], capture_output=True, check=True, text=True
    )
    assert again.stdout == first.stdout
    assert again.stderr == ""


def test_quiet_and_verbose_exclude_each_other() -> None:
    done = subprocess.run(
        [*COMMAND, "The", "--quiet", "--verbose"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"not both" in done.stderr


@pytest.mark.parametrize("stderr", [False, True])
def test_ctrl_c_leaves_the_line(terminals: list[Terminal], stderr: bool, tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    command = [sys.executable, "-c", SLOWLY, "generate"]
    terminal = Terminal("The", *ENDLESS, stderr=errors if stderr else None, command=command)
    terminals.append(terminal)
    terminal.read(40)
    terminal.type(b"\x03")
    assert terminal.close() == 130
    text, _, rest = terminal.shown.rpartition("^C")
    assert len(text) >= 40
    assert rest.endswith("\r\n")
    assert "Traceback" not in terminal.shown
    if stderr:
        assert errors.read_bytes() == b""


def test_an_error_within_the_text_starts_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a stream that fails after its first words."""
    script = (
        "import itertools, sys\n"
        "from pythia_rt import stream\n"
        "step, count = stream.Stream.__next__, itertools.count()\n"
        "def fail(self):\n"
        "    if next(count) == 5: raise RuntimeError('it failed')\n"
        "    return step(self)\n"
        "stream.Stream.__next__ = fail\n"
        "from pythia_rt.cli import main\n"
        "main(['generate', 'The', '--temperature', '0'])\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", [sys.executable, "-c", script])
    terminal = Terminal()
    assert terminal.close() == 1
    assert re.search(r"[^\r\n]\r\nError: it failed\r\n$", terminal.shown)


def test_head_closes_the_pipe() -> None:
    line = " ".join([*COMMAND, "The", *ENDLESS, "--quiet", "|", "head", "-c", "10"])
    done = subprocess.run(
        ["bash", "-c", f"{line}; exit ${{PIPESTATUS[1]}}"], capture_output=True, check=True
    )
    assert len(done.stdout) == 10
    assert done.stderr == b""
