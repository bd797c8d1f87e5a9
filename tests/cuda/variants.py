"""Other builds of the test extension _emulated: with changed kernels, sanitizers, or nvcc's PTX.

A variant takes everything but the kernels from the build that CMake made (emulated.txt beside it
says what to link) and compiles the kernels anew:

    plain    the source, as in the build
    address  with the address and undefined behaviour sanitizers
    thread   with the thread sanitizer, which sees races that give right results; the emulator tells
             it about barriers alone
    ptx80    the PTX that nvcc makes for compute_80 (or another number), translated to C++ by
             ptx/translate.py: inline PTX and choices by architecture are seen by this one only

A run of tests/test_cuda_cases.py with PYTHIA_RT_EMULATED_DIR then checks it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
KERNELS = sorted((CSRC / "cuda" / "kernels").glob("*.cu"))
NATIVE = ROOT / "tests" / "native"
EMULATOR = sorted((NATIVE / "emulator").glob("*.cc"))
TRANSLATE = ROOT / "tests" / "cuda" / "ptx" / "translate.py"

FLAGS = [
    *("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-march=native", "-w"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"),
]
# What a kind adds to the kernels, to the emulator (None: the build's own), and to the link.
KINDS: dict[str, tuple[list[str], list[str] | None, list[str]]] = {
    "plain": ([], None, []),
    "address": (
        ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        ["-fsanitize=address,undefined"],
    ),
    # The scheduler switches stacks behind the sanitizer's back and tells it so itself.
    "thread": (["-fsanitize=thread"], ["-DPYTHIA_RT_EMULATOR_TSAN"], ["-fsanitize=thread"]),
}
RUNTIMES = {"address": ["libasan.so", "libubsan.so", "libstdc++.so"], "thread": ["libtsan.so"]}


def find_nvcc() -> str | None:
    """nvcc as CMake finds it: the one that CUDACXX names, or that of the path."""
    return shutil.which(os.environ.get("CUDACXX") or "nvcc")


@dataclass(frozen=True)
class Change:
    """One text of a file below csrc/ replaced by another, once."""

    file: str
    old: str
    new: str

    def write(self, overlay: Path) -> None:
        """Write the changed file below `overlay`, from where it is included instead."""
        text = (CSRC / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has {text.count(self.old)} times: {self.old}")
        target = overlay / self.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace(self.old, self.new))


@dataclass(frozen=True)
class Build:
    """What CMake built, as emulated.txt lists it."""

    compiler: str
    objects: list[str]
    libraries: list[str]

    @staticmethod
    def read(folder: Path) -> Build:
        lines = (folder / "emulated.txt").read_text().splitlines()
        fields = dict(line.split("=", 1) for line in lines if line)
        objects, libraries = (fields[name].split(";") for name in ("objects", "libraries"))
        return Build(fields["compiler"], objects, libraries)


def run(command: Sequence[str | Path]) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def includes(path: Path) -> set[str]:
    """The files below csrc/ that a file includes, and those that these include."""
    found: set[str] = set()
    waiting = [path]
    while waiting:
        for name in re.findall(r'#\s*include "([^"]+)"', waiting.pop().read_text()):
            if name not in found and (CSRC / name).is_file():
                found.add(name)
                waiting.append(CSRC / name)
    return found


def affected(change: Change) -> list[Path]:
    """The kernel files that a change concerns."""
    changed = CSRC / change.file
    return [path for path in KERNELS if path == changed or change.file in includes(path)]


def make(
    folder: Path,
    native: Path,
    kind: str,
    *,
    change: Change | None = None,
    only: Sequence[str] = (),
    base: Path | None = None,
) -> Path:
    """Build a variant into `folder` and return it. `native` is CMake's build folder.

    `base` is the same kind without a change: then only the kernels that the change concerns, or
    those that `only` names, are compiled anew.
    """
    build = Build.read(native)
    overlay = folder / "csrc"
    overlay.mkdir(parents=True, exist_ok=True)
    if change is not None:
        change.write(overlay)
    paths = ["-I", overlay, "-I", CSRC, "-I", NATIVE]
    sources = affected(change) if change is not None and base is not None else KERNELS
    sources = [path for path in sources if not only or path.stem in only]
    objects: list[Path] = []
    flags, emulator, link = KINDS.get(kind, ([], None, []))
    if kind.startswith("ptx"):
        flags = ["-DPYTHIA_RT_WEAK_KERNELS"]
    for source in sources:
        changed = overlay / source.relative_to(CSRC)
        chosen = changed if changed.exists() else source
        target = folder / f"{source.stem}.o"
        command = [build.compiler, *FLAGS, *flags, *paths, "-x", "c++", "-c", chosen, "-o", target]
        run(command)
        objects.append(target)
        if kind.startswith("ptx"):
            objects.append(translate(chosen, folder, build.compiler, kind[3:], paths))
    for source in EMULATOR if emulator is not None and base is None else []:
        target = folder / f"emulator_{source.stem}.o"
        run([build.compiler, *FLAGS, *(emulator or []), *paths, "-c", source, "-o", target])
        objects.append(target)
    made = {path.name for path in objects}
    objects += [path for path in sorted(base.glob("*.o")) if path.name not in made] if base else []
    # Objects come first: what they define is not looked for in the libraries.
    group = ["-Wl,--start-group", *build.libraries, "-Wl,--end-group", "-pthread"]
    module = folder / "_emulated.so"
    run([build.compiler, "-shared", *link, "-o", module, *objects, *build.objects, *group])
    return folder


def translate(
    source: Path, folder: Path, compiler: str, architecture: str, paths: Sequence[str | Path]
) -> Path:
    """nvcc's PTX of one kernel file as an object whose kernels replace the source's."""
    nvcc = find_nvcc()
    assert nvcc is not None
    ptx, code, target = (folder / f"{source.stem}{end}" for end in (".ptx", ".ptx.cc", ".ptx.o"))
    options = ["-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr"]
    run([nvcc, *options, f"-arch=compute_{architecture}", "-ptx", *paths, source, "-o", ptx])
    kernels = run([sys.executable, TRANSLATE, ptx, code]).split()
    run([compiler, *FLAGS, "-I", TRANSLATE.parent, *paths, "-c", code, "-o", target])
    if missing := set(kernels) - weak_symbols(folder / f"{source.stem}.o"):
        raise RuntimeError(f"no kernels of these names would be replaced: {missing}")
    return target


def weak_symbols(target: Path) -> set[str]:
    """What an object offers until somebody offers it better."""
    lines = [line.split() for line in run(["nm", "-g", target]).splitlines()]
    return {fields[2] for fields in lines if len(fields) == 3 and fields[1] in "WV"}


def find_library(native: Path, name: str) -> str:
    """A runtime library of the compiler; empty if it has none of this name."""
    command = [Build.read(native).compiler, f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found if Path(found).is_file() else ""


def report(folder: Path) -> str:
    """What the thread sanitizer wrote about a run."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("report*")))


def environment(folder: Path, native: Path, kind: str) -> dict[str, str]:
    """The environment in which Python can load a variant."""
    variables = {
        **os.environ,
        "PYTHIA_RT_TESTING_DIR": str(native),
        "PYTHIA_RT_EMULATED_DIR": str(folder),
        # Python's own allocations that live until exit are not leaks of ours.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        # pytest keeps what a dying process writes.
        "TSAN_OPTIONS": f"halt_on_error=1:report_signal_unsafe=0:log_path={folder}/report",
    }
    libraries = [find_library(native, name) for name in RUNTIMES.get(kind, [])]
    if libraries:
        variables["LD_PRELOAD"] = " ".join(libraries)
    return variables


def check(
    folder: Path, native: Path, kind: str, tests: str, orders: str = "fifo,skew"
) -> subprocess.CompletedProcess[str]:
    """Run the cases of tests/test_cuda_cases.py whose names match `tests` on a variant."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += [str(ROOT / "tests" / "test_cuda_cases.py"), "-k", tests]
    if kind == "thread" and (setarch := shutil.which("setarch")):
        command = [setarch, "-R", *command]  # the sanitizer wants its fixed addresses free
    variables = environment(folder, native, kind)
    variables["PYTHIA_RT_ORDERS"] = orders
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
