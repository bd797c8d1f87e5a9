"""./scripts/on-device with stand-ins for the device, nvcc and Python: what it says and records."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

SCRIPT = ROOT / "scripts" / "on-device"
TOOLS = (
    "bash", "cat", "cp", "dirname", "env", "git", "grep", "mkdir", "mktemp", "mv", "nproc", "rm",
    "sed", "sleep", "tee", "timeout", "touch", "tr",
)  # fmt: skip

# Does nothing but note how it was called and write what the real programs would write.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$STAND_IN_CALLS"
stop() {
  case "$STAND_IN_STOP" in
    "$1 fails") exit 3 ;;
    "$1 hangs") exec sleep 3600 ;;
    "$1 is late") exit 124 ;;
    "$1 crashes") kill -SEGV $$ ;;
  esac
}
case "$1 $2" in
  "- "*) exec "$STAND_IN_PYTHON" "$@" ;;
  "-c "*find_spec*) for name in "${@:3}"; do
      case " $STAND_IN_LACKING " in *" $name "*) printf '%s ' "$name" ;; esac
    done ;;
  "-c "*testing_extension*) stop device ;;
  "-m bench.device_check") stop "operation${4:-}" ;;
  "-m pip") stop build ;;
  "-m pytest") stop tests
    for argument in "$@"; do
      case "$argument" in --junitxml=*) echo "<testsuites/>" >"${argument#*=}" ;; esac
    done ;;
  "-m bench.make_checkpoint") mkdir "$4" && stop "make $3" ;;
  "-m bench.compare")
    while [ "$1" != --json ]; do shift; done
    echo '{"number": 1}' >>"$2"
    stop "compare $(sed 's|.*/||; s|[.]partial.*||' <<<"$2")"
    echo '{"number": 2}' >>"$2" ;;
esac
"""
NVIDIA_SMI = """#!/usr/bin/env bash
echo "${STAND_IN_CARD-9.0, 580.1, NVIDIA Stand-In 80GB}"
exit "${STAND_IN_CARD_STATUS-0}"
"""
GDB = """#!/usr/bin/env bash
echo "$*"
echo "#0 where it died"
exit 1
"""
NVCC = """#!/usr/bin/env bash
echo "Cuda compilation tools, release 13.0, V13.0.88"
"""
MODELS = ("410m", "1.4b", "6.9b")


class Machine:
    """A folder with all programs that the script finds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.out = folder, folder / "bin", folder / "out"
        self.bin.mkdir()
        (folder / "tmp").mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)
        for name, text in (("python3", PYTHON), ("nvidia-smi", NVIDIA_SMI), ("nvcc", NVCC)):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def start(self, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
        environment = {
            "PATH": str(self.bin),
            "TMPDIR": str(self.folder / "tmp"),
            "STAND_IN_CALLS": str(self.folder / "calls"),
            "STAND_IN_PYTHON": sys.executable,
            **variables,
        }
        return subprocess.Popen(
            [SCRIPT, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.folder,
        )

    def run(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **variables) as process:
            output, errors = process.communicate(timeout=500)
        return subprocess.CompletedProcess([], process.returncode, output, errors)

    def calls(self, module: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.startswith(f"-m {module} ")]

    def steps(self) -> dict[str, str]:
        found: list[dict[str, Any]] = json.loads((self.out / "steps.json").read_text())
        return {step["step"]: step["status"] for step in found}

    def results(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refuse(machine: Machine, *arguments: str | Path, **variables: str) -> str:
    """The one sentence of a run that begins nothing."""
    done = machine.run(*arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    calls = machine.folder / "calls"
    assert not calls.exists() or "-m " not in calls.read_text()
    assert not list((machine.folder / "tmp").iterdir())
    return done.stderr


def test_arguments(machine: Machine) -> None:
    assert "name a folder for the results" in refuse(machine)
    assert "name a folder for the results" in refuse(machine, "--rehearse")
    assert "there is no option --fast" in refuse(machine, "--fast", "out")
    assert "one folder to name, not out and more" in refuse(machine, "out", "more")
    for number in ("", "0", "-5", "1.5", "soon", "9999999"):
        assert "--seconds needs a whole number" in refuse(machine, "--seconds", number, "out")
    assert "--seconds needs a whole number" in refuse(machine, "out", "--seconds")
    assert not machine.out.exists()


def test_a_folder_that_cannot_be_written(machine: Machine) -> None:
    (machine.folder / "file").write_text("precious")
    for name in ("file", "file/out"):
        assert f"{name} is no folder that can be written" in refuse(machine, name)
    assert (machine.folder / "file").read_text() == "precious"


def test_what_the_machine_lacks(machine: Machine) -> None:
    assert "no nvcc13: put CUDA's compiler on the path" in refuse(machine, "out", CUDACXX="nvcc13")
    assert "no python9: name a Python 3.10" in refuse(machine, "out", PYTHON="python9")
    lacking = refuse(machine, "out", STAND_IN_LACKING="click scikit_build_core")
    assert "lacks the packages scikit_build_core click" in lacking
    assert "no cmake" in refuse(machine, "out", STAND_IN_LACKING="cmake")
    failing = refuse(
        machine, "out", STAND_IN_CARD="No devices\nwere found", STAND_IN_CARD_STATUS="6"
    )
    assert "nvidia-smi finds no device: No devices were found" in failing
    assert "nvidia-smi says nothing of the device" in refuse(machine, "out", STAND_IN_CARD="")
    (machine.bin / "nvidia-smi").unlink()
    assert "no nvidia-smi, so no CUDA device: rehearse" in refuse(machine, "out")
    (machine.bin / "nvcc").unlink()
    assert "no nvcc: put CUDA's compiler on the path" in refuse(machine, "--rehearse", "out")


def test_everything(machine: Machine) -> None:
    (machine.out).mkdir()
    for stale in ("6.9b.partial.jsonl", "steps.json", "notes"):
        (machine.out / stale).write_text("stale")
    done = machine.run("out", STAND_IN_CARD="8.9, 580.1, NVIDIA Stand-In, 80GB", COMMIT="abc")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    facts = json.loads((machine.out / "machine.json").read_text())
    assert (facts["card"], facts["driver"]) == ("NVIDIA Stand-In, 80GB", "580.1")
    assert (facts["architecture"], facts["nvcc"], facts["rehearsal"]) == (89, "13.0", False)
    assert len(facts["commit"]) >= 40 or facts["commit"] == "abc"
    assert set(machine.steps().values()) == {"passed"}
    assert list(machine.steps()) == [
        "build for architecture 89", "the device answers", "an operation",
        "an operation beside torch", "gpu tests",
        *(f"{model}: {step}" for model in MODELS for step in ("make", "compare")),
    ]  # fmt: skip
    names = ["machine.json", "steps.json", "gpu-tests.xml", "log.txt", "notes"]
    assert machine.results() == sorted([*names, *(f"{model}.jsonl" for model in MODELS)])
    for model in MODELS:
        assert (machine.out / f"{model}.jsonl").read_text().count("\n") == 2
    assert (machine.out / "log.txt").read_text() == done.stdout
    [build] = machine.calls("pip")
    assert "PYTHIA_RT_CUDA_ARCHITECTURES=89" in build
    assert {"--no-index", "--no-build-isolation", "--no-deps"} <= set(build.split())
    [tests] = machine.calls("pytest")
    assert "-m gpu" in tests
    assert "tests/test_backends.py" in tests
    assert "tests/test_cuda_models.py" in tests
    assert all("--device cuda --formats q4" in line for line in machine.calls("bench.compare"))
    assert len(machine.calls("bench.compare")) == 3
    assert not list((machine.folder / "tmp").iterdir())


def test_a_rehearsal(machine: Machine) -> None:
    (machine.bin / "nvidia-smi").unlink()
    done = machine.run("--rehearse", "--seconds", "100", machine.out)
    assert done.returncode == 0, done.stdout
    assert json.loads((machine.out / "machine.json").read_text())["rehearsal"] is True
    assert len(machine.steps()) == 11
    assert all("--device cpu" in line for line in machine.calls("bench.compare"))
    assert [line.split()[2] for line in machine.calls("bench.make_checkpoint")] == [
        "14m", "31m", "70m",
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["build", "device"])
def test_without_a_build_that_works(machine: Machine, what: str) -> None:
    done = machine.run("out", STAND_IN_STOP=f"{what} fails")
    assert done.returncode == 1
    assert re.search("failed after [0-9]+ s, with status 3", done.stdout)
    steps = list(machine.steps().values())
    assert steps == ["passed"] * (what == "device") + ["failed"] + ["skipped"] * 6


@pytest.mark.parametrize("what", ["tests", "make 410m", "compare 1.4b"])
def test_a_step_that_fails_does_not_stop_the_others(machine: Machine, what: str) -> None:
    done = machine.run("out", STAND_IN_STOP=f"{what} fails")
    assert done.returncode == 1
    failed = [name for name, status in machine.steps().items() if status == "failed"]
    assert failed == [{"tests": "gpu tests"}.get(what, ": ".join(what.split()[::-1]))]
    assert len(machine.steps()) == 11
    assert machine.steps()["6.9b: compare"] == "passed"
    assert ("410m: compare", "skipped") not in machine.steps().items() or what == "make 410m"
    if what == "compare 1.4b":  # the lines that it had
        assert (machine.out / "1.4b.partial.jsonl").read_text() == '{"number": 1}\n'
        assert not (machine.out / "1.4b.jsonl").exists()


@pytest.mark.parametrize("what", ["operation--torch", "compare 1.4b"])
@pytest.mark.parametrize("debugger", ["cuda-gdb", "gdb", ""])
def test_a_crash_is_traced_and_stops_nothing(machine: Machine, what: str, debugger: str) -> None:
    if debugger:
        (machine.bin / debugger).write_text(GDB)
        (machine.bin / debugger).chmod(0o755)
    done = machine.run("out", STAND_IN_STOP=f"{what} crashes")
    assert done.returncode == 1
    [name] = [name for name, status in machine.steps().items() if status != "passed"]
    assert name == {"operation--torch": "an operation beside torch"}.get(what, "1.4b: compare")
    assert re.search(f"{name}: failed after [0-9]+ s, with status 139", done.stdout)
    if not debugger:
        assert "no cuda-gdb and no gdb: no backtrace" in done.stdout
        assert "backtraces.txt" not in machine.results()
        return
    heading, command, place, *_ = (machine.out / "backtraces.txt").read_text().splitlines()
    assert (heading, place) == (f"== {name}", "#0 where it died")
    assert command.startswith("-batch -ex run -ex bt ")
    module = "bench.device_check cuda --torch" if "torch" in what else "bench.compare"
    assert f"--args python3 -m {module}" in command


def test_packages_of_the_tests_alone(machine: Machine) -> None:
    done = machine.run("out", STAND_IN_LACKING="hypothesis")
    assert done.returncode == 1
    assert "gpu tests: skipped after 0 s, python3 lacks the packages hypothesis" in done.stdout
    assert list(machine.steps().values()).count("passed") == 10


def test_torch_may_be_missing(machine: Machine) -> None:
    done = machine.run("out", STAND_IN_LACKING="torch")
    assert "an operation beside torch: skipped after 0 s, python3 lacks the package torch" in (
        done.stdout
    )
    assert machine.steps()["an operation"] == machine.steps()["gpu tests"] == "passed"


@pytest.mark.skipif(
    not os.environ.get("PYTHIA_RT_TESTING_DIR"), reason="they need the test extensions"
)
def test_the_tests_of_a_device_import_no_torch() -> None:
    """Beside it a process has other libraries than by itself, and those alone may crash."""
    marks = re.compile(r"SUBJECTS|mark\.gpu")  # as the script looks for them
    found = sorted((ROOT / "tests").glob("test_*.py"))
    files = [path.stem for path in found if marks.search(path.read_text())]
    files.remove(Path(__file__).stem)
    assert {"test_backends", "test_cuda_models"} <= set(files)
    imports = f"import sys, conftest, {', '.join(files)}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", imports], env=environment, cwd="/")
    assert done.returncode == 0


# Time stands still in the script until a step was late: then all of it is over.
CLOCK = """unset SECONDS
SECONDS=0
wait() { builtin wait "$@" || { set -- $?; [ $1 != 124 ] || SECONDS=100; return $1; }; }
"""
# Of `timeout`: it says with 124 what took longer, here the step itself.
TIMEOUT = """#!/usr/bin/env bash
echo "$*" >>"$STAND_IN_CALLS"
exec "${@:3}"
"""


def test_what_does_not_fit_is_said(machine: Machine) -> None:
    (machine.folder / "clock").write_text(CLOCK)
    (machine.bin / "timeout").unlink()
    (machine.bin / "timeout").write_text(TIMEOUT)
    (machine.bin / "timeout").chmod(0o755)
    stop = {"STAND_IN_STOP": "compare 410m is late", "BASH_ENV": str(machine.folder / "clock")}
    done = machine.run("out", "--seconds", "100", **stop)
    assert done.returncode == 1
    limited = r"--kill-after=5 (\d+) \S*python3 -m bench\.(\w+)"
    assert re.findall(limited, (machine.folder / "calls").read_text())[-2:] == [
        ("60", "make_checkpoint"),
        ("90", "compare"),
    ]
    assert "410m: compare: timed out after 100 s, its limit was 90 s" in done.stdout
    steps = machine.steps()
    assert steps["410m: compare"] == "timed out"
    assert steps["1.4b: make"] == steps["6.9b: compare"] == "skipped"
    assert "of 100 s in all, 0 are left" in done.stdout
    assert (machine.out / "410m.partial.jsonl").read_text() == '{"number": 1}\n'


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_off_keeps_what_came_before(
    machine: Machine, kill: signal.Signals
) -> None:
    with machine.start("out", STAND_IN_STOP="compare 1.4b hangs") as process:
        partial = machine.out / "1.4b.partial.jsonl"
        deadline = time.monotonic() + 300
        # It hangs after what it has written: the folder's file alone would be too early.
        while not running(machine.folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(kill)
        assert process.wait(120) == (143 if kill == signal.SIGTERM else -kill)
        if kill == signal.SIGKILL:  # what it had started ends by itself: here by us
            [hanging] = running(machine.folder)
            os.kill(hanging, signal.SIGKILL)
    assert len(machine.steps()) == 8
    assert (machine.out / "410m.jsonl").read_text().count("\n") == 2
    assert partial.read_text() == '{"number": 1}\n'
    assert "410m: compare: passed" in (machine.out / "log.txt").read_text()
    if kill == signal.SIGTERM:
        assert not list((machine.folder / "tmp").iterdir())
        assert not running(machine.folder)


def running(folder: Path) -> list[int]:
    """The stand-ins that hang: `sleep` with this machine's variables."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text() == "sleep\n" and (
                f"STAND_IN_CALLS={folder}/calls".encode() in (process / "environ").read_bytes()
            ):
                found.append(int(process.name))
        except OSError:  # gone meanwhile
            continue
    return found
