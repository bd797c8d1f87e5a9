"""Chat templates are programs that anybody may have written: they run in a process of their own.

There jinja2's sandbox keeps them from everything but the messages, and what it cannot bound the
process is for: it ends after SECONDS, and has MAX_BYTES_OF_MEMORY (worker.py).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pythia_rt.convert.errors import quote

SECONDS = 5.0  # for one rendering; real templates take a few thousandths of one
# They are the processor's where the system can bound those: a machine that is busy with other
# things may let a template wait for long. Then this is all that anybody waits.
_LONGEST_WAIT = 60.0 if hasattr(signal, "setitimer") else SECONDS
_SECONDS_TO_START = 60.0
_WORKER = Path(__file__).with_name("worker.py")

_REASONS = {
    "syntax": "the model's chat template is no valid template ({0})",
    "refused": "the model's chat template refuses these messages: {0}",
    "memory": "the model's chat template writes too much or needs too much memory",
    "recursion": "the model's chat template calls itself without end",
    "failed": "the model's chat template fails with these messages ({0})",
}
_ADVICE = "change them, or name a built-in format"


class Sandbox:
    """One process that renders; it is started when it is needed. For several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # the process id of who started it: a fork has none of its own

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Return the text of `template` with `values`, which are JSON.

        Raises ValueError, in one sentence, for a template that fails, does not end or writes too
        much, and where jinja2 is missing.
        """
        return str(self._ask({"template": template, "values": values, "literals": False})["text"])

    def literals(self, template: str) -> list[str]:
        """Return the texts that stand in `template`. Raises as `render` does."""
        return list(self._ask({"template": template, "literals": True})["literals"])

    def close(self) -> None:
        """End the process; the next rendering starts another."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # it has ended before it read everything
                    pipe.close()
        if self._owner == os.getpid():
            process.kill()
            process.wait()
        else:
            process.returncode = 0  # the parent's, who waits for it

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            try:
                request = {**request, "seconds": SECONDS}
                answer = self._exchange(self._running(), request, _LONGEST_WAIT)
            except BaseException:  # Ctrl-C included: the answer would be the next one's
                self.close()
                raise
            if answer is None:
                self.close()
                raise ValueError(
                    f"the model's chat template was stopped: it takes longer than {SECONDS:g} "
                    f"seconds, or too much memory, for these messages: {_ADVICE}"
                )
        if "error" in answer:
            reason = _REASONS[answer["kind"]].format(quote(str(answer["error"])))
            raise ValueError(f"{reason}: {_ADVICE}")
        return answer

    def _running(self) -> subprocess.Popen[str]:
        process = self._process
        if process is not None and self._owner == os.getpid() and process.poll() is None:
            return process
        self.close()
        process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._process, self._owner = process, os.getpid()
        answer = self._exchange(process, [entry for entry in sys.path if entry], _SECONDS_TO_START)
        if answer is None:
            raise RuntimeError(f"Python cannot be started to render a chat template ({_WORKER})")
        if answer["problem"]:
            self.close()
            raise ValueError(
                f"chat templates need jinja2 3.1.6 or newer, which is {_spelled(answer)}: pip "
                "install 'pythia_rt[chat]', or name a built-in format"
            )
        return process

    def _exchange(
        self, process: subprocess.Popen[str], request: Any, seconds: float
    ) -> dict[str, Any] | None:
        """Return the answer, or None of a process that gave none in time."""
        assert process.stdin is not None and process.stdout is not None
        end = threading.Timer(seconds, process.kill)
        end.daemon = True
        end.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            end.cancel()
        return json.loads(line) if line.endswith("\n") else None


def _spelled(answer: Mapping[str, Any]) -> str:
    return "not installed" if answer["problem"] == "missing" else f"too {answer['problem']}"


def _renew() -> None:
    """In a child: another thread may have held the lock, and the process is the parent's."""
    SANDBOX._lock = threading.Lock()


SANDBOX = Sandbox()
atexit.register(SANDBOX.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
