"""What nvcc makes of the CUDA kernels, without a GPU: python -m bench.cuda_table [--check].

Every kernel is compiled for every architecture of cmake/cuda.cmake. The table has registers,
spills, memory, occupancy as computed from them, and how often instructions stand in the machine
code that decide a kernel's speed. --check compares with the committed table instead of writing it.

nvcc is found in CUDACXX or in the path; cuobjdump and nvdisasm in the path, or in the wheels
nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
from tqdm import tqdm

from bench import ROOT
from bench.cuda_occupancy import occupancy
from bench.records import committed, table

RESULTS = ROOT / "bench" / "results" / "cuda"
COMPILED = ROOT / "build" / "cuda_table"
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-Icsrc")
MORE_REGISTERS = 8  # than the committed table's are no regression

# Counted instructions: the field's name, the start of the machine's names, a heading.
INSTRUCTIONS = (
    ("loads_128", r"LDG?\.\S*(?:128|256)", "LD.128"),  # LD where the memory's kind is unknown
    ("copies", r"LDGSTS", "LDGSTS"),
    ("imma", r"IMMA", "IMMA"),
    ("dp4a", r"IDP\.4A", "DP4A"),
    ("ffma", r"FFMA", "FFMA"),
    ("shuffles", r"SHFL", "SHFL"),
    ("barriers", r"BAR\.", "BAR"),
    ("local_loads", r"LDL", "LDL"),
    ("local_stores", r"STL", "STL"),
)
# What a kernel that has it must keep.
KEPT = {"loads_128": "128-bit loads", "copies": "asynchronous copies", "imma": "IMMA"}
HEADINGS = {
    "kernel": "kernel", "threads": "threads", "registers": "registers", "spills": "spills",
    "stack": "stack", "shared": "shared", "occupancy": "occupancy", "limit": "limit",
    "instructions": "all", **{name: heading for name, _, heading in INSTRUCTIONS},
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Kernel(committed.Row):
    """One kernel for one architecture."""

    architecture: int
    kernel: str
    threads: int  # of a block, by its launch bounds
    registers: int  # of a thread
    spills: int  # bytes, written and read
    stack: int  # bytes of a thread
    shared: int  # bytes of a block
    occupancy: int  # percent
    limit: str  # of the occupancy
    instructions: int
    loads_128: int
    copies: int
    imma: int
    dp4a: int
    ffma: int
    shuffles: int
    barriers: int
    local_loads: int
    local_stores: int

    @property
    def place(self) -> str:
        """The kernel's name for messages."""
        return f"{self.kernel} on sm_{self.architecture}"


@dataclass(frozen=True)
class Table:
    """All kernels, sorted, and the version of the nvcc that compiled them."""

    nvcc: str
    kernels: tuple[Kernel, ...]


class MissingToolError(Exception):
    """A sentence about a program that was not found."""


def architectures() -> tuple[int, ...]:
    """Those that the CUDA backend is compiled for."""
    listed = (ROOT / "cmake" / "cuda.cmake").read_text()
    found = re.search(r"set\(PYTHIA_RT_CUDA_ARCHITECTURES ([\d ]+)\n", listed)
    assert found is not None, "cmake/cuda.cmake has no list PYTHIA_RT_CUDA_ARCHITECTURES"
    return tuple(map(int, found[1].split()))


def find_nvcc() -> str:
    """The compiler that CUDACXX names, or the path's."""
    found = shutil.which(os.environ.get("CUDACXX") or "nvcc")
    if found is None:
        raise MissingToolError(
            "nvcc was not found: install a CUDA toolkit, or set CUDACXX to its nvcc"
        )
    return found


def find_tool(name: str) -> Path:
    """`cuobjdump` or `nvdisasm`, of the path or of its wheel."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    package = f"nvidia-cuda-{name}"
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.stem == name and os.access(path, os.X_OK) and path.is_file():
            return path
    raise MissingToolError(
        f"{name} was not found: install a CUDA toolkit, or pip install {package}"
    )


@dataclass(frozen=True)
class Tools:
    """The programs that compile and that read machine code."""

    nvcc: str
    cuobjdump: Path
    nvdisasm: Path

    @staticmethod
    def find() -> Tools:
        """Those of this machine; raises MissingToolError."""
        return Tools(find_nvcc(), find_tool("cuobjdump"), find_tool("nvdisasm"))

    def version(self) -> str:
        """nvcc's, as in 13.0.88."""
        shown = _output([self.nvcc, "--version"])
        found = re.search(r"\bV([\d.]+)", shown)
        return found[1] if found else "unknown"

    def dump(self, cubin: Path) -> str:
        """Attributes and machine code of a compiled file."""
        path = os.pathsep.join([str(self.nvdisasm.parent), os.environ.get("PATH", "")])
        return _output([str(self.cuobjdump), "-elf", "-sass", str(cubin)], {"PATH": path})


def _output(command: Sequence[str], variables: dict[str, str] | None = None) -> str:
    """Standard output and, after it, the error stream."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | (variables or {})
    )
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout + done.stderr


def compile_all(tools: Tools, wanted: Iterable[int], jobs: int) -> Table:
    """Compile every file of kernels for every wanted architecture, and read the results."""
    sources = sorted((ROOT / "csrc" / "cuda" / "kernels").glob("*.cu"))
    tasks = [(source, architecture) for architecture in wanted for source in sources]
    COMPILED.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda task: _compile(tools, *task), tasks)
        shown = tqdm(found, total=len(tasks), desc="nvcc", disable=None)
        kernels = sorted(kernel for some in shown for kernel in some)
    places = Counter(kernel.place for kernel in kernels)
    twice = [place for place, count in places.items() if count > 1]
    if twice:
        raise click.ClickException(f"two kernels have one name: {', '.join(twice)}")
    return Table(tools.version(), tuple(kernels))


def _compile(tools: Tools, source: Path, architecture: int) -> list[Kernel]:
    cubin = COMPILED / f"{source.stem}.sm_{architecture}.cubin"
    command = [tools.nvcc, *FLAGS, f"-arch=sm_{architecture}", "-cubin", "-Xptxas=-v"]
    compiler_said = _output([*command, str(source.relative_to(ROOT)), "-o", str(cubin)])
    resources = dict(read_resources(compiler_said))
    if not resources:
        return []  # a file of host code alone
    dump = tools.dump(cubin)
    threads, counts = dict(read_threads(dump)), dict(read_instructions(dump))
    names = dict(zip(resources, map(shortened, demangled(resources)), strict=True))
    kernels = []
    for mangled, used in resources.items():
        if mangled not in threads:
            raise click.ClickException(f"{names[mangled]} has no __launch_bounds__")
        computed = occupancy(architecture, threads[mangled], used["registers"], used["shared"])
        kernels.append(
            Kernel(
                architecture=architecture,
                kernel=names[mangled],
                threads=threads[mangled],
                occupancy=computed.percent,
                limit=computed.limit,
                **used,
                **counts[mangled],
            )
        )
    return kernels


def read_resources(text: str) -> Iterator[tuple[str, dict[str, int]]]:
    """(mangled name, resources) of each kernel in what `ptxas -v` said."""
    for part in text.split("Compiling entry function '")[1:]:
        memory = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        registers = re.search(r"Used (\d+) registers", part)
        shared = re.search(r"(\d+) bytes smem", part)
        assert memory is not None and registers is not None, part
        yield (
            part.split("'")[0],
            {
                "registers": int(registers[1]),
                "spills": int(memory[2]) + int(memory[3]),
                "stack": int(memory[1]),
                "shared": int(shared[1]) if shared else 0,
            },
        )


def read_threads(dump: str) -> Iterator[tuple[str, int]]:
    """(mangled name, threads of a block) of each kernel with launch bounds."""
    for part in re.split(r"\n\.nv\.info\.", dump)[1:]:
        section = part.split("\n.nv.", 1)[0]
        found = re.search(r"EIATTR_MAX_THREADS\s.*?Value:\s+(\w+) (\w+) (\w+)", section, re.S)
        if found:
            x, y, z = (int(value, 16) for value in found.groups())
            yield part.split("\n", 1)[0].strip(), x * y * z


def read_instructions(dump: str) -> Iterator[tuple[str, dict[str, int]]]:
    """(mangled name, numbers of instructions) of each kernel's machine code."""
    for part in re.split(r"\n\s*Function : ", dump)[1:]:
        names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)", part)
        names = [name for name in names if name != "NOP"]
        counts = {"instructions": len(names)}
        for field, pattern, _ in INSTRUCTIONS:
            counts[field] = sum(re.match(pattern, name) is not None for name in names)
        yield part.split(None, 1)[0], counts


def demangled(names: Iterable[str]) -> list[str]:
    """C++ names of symbols."""
    return _output(["c++filt", *names]).splitlines()


def shortened(name: str) -> str:
    """A kernel's name without namespaces, result and parameters."""
    name = re.sub(r"\b(?:pythia_rt|cuda)::|\(anonymous namespace\)::", "", name)
    depth = 0
    for position, character in enumerate(name):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            name = name[:position]
            break
    return name.removeprefix("void ")


def regressions(fresh: Table, baseline: Table) -> list[str]:
    """One sentence for each way in which `fresh` is worse. Registers of two nvcc do not compare."""
    same_nvcc = fresh.nvcc == baseline.nvcc
    compiled = {kernel.architecture for kernel in fresh.kernels}
    before = committed.by_place(k for k in baseline.kernels if k.architecture in compiled)
    now = committed.by_place(fresh.kernels)
    sentences = committed.moved(now, before)
    for place, kernel in now.items():
        sentences += _local_memory(kernel)
        if place in before:
            sentences += _worse(kernel, before[place], same_nvcc)
    return sentences


def _local_memory(kernel: Kernel) -> Iterator[str]:
    if kernel.spills:
        yield f"{kernel.place} spills {kernel.spills} bytes of registers."
    elif kernel.stack or kernel.local_loads or kernel.local_stores:
        yield f"{kernel.place} uses local memory: {kernel.stack} bytes of a thread."


def _worse(kernel: Kernel, before: Kernel, same_nvcc: bool) -> Iterator[str]:
    for field, what in KEPT.items():
        if getattr(before, field) and not getattr(kernel, field):
            yield f"{kernel.place} lost its {what}."
    if same_nvcc and kernel.registers > before.registers + MORE_REGISTERS:
        yield f"{kernel.place} uses {kernel.registers} registers, not {before.registers}."
    if same_nvcc and kernel.occupancy < before.occupancy:
        yield f"{kernel.place} has an occupancy of {kernel.occupancy} %, not {before.occupancy} %."


def written(found: Table) -> str:
    """The table as JSON, one line for each kernel and architecture."""
    return committed.written({"nvcc": found.nvcc}, "kernels", found.kernels)


def read(path: Path) -> Table:
    """What `written` wrote."""
    return Table(*committed.read(path, "nvcc", "kernels", Kernel))


def markdown(found: Table) -> str:
    """One table for each architecture."""
    lines = [
        "# The CUDA kernels as compiled",
        "",
        f"By nvcc {found.nvcc}, with `python -m bench.cuda_table`; nothing here was measured on a "
        "GPU. Registers are a thread's, shared memory is a block's, in bytes like spills and the "
        "stack. Occupancy is computed: the share of a multiprocessor's possible warps that fit, "
        "and what limits it. The columns after it count instructions in the machine code.",
    ]
    for architecture in sorted({kernel.architecture for kernel in found.kernels}):
        rows = [_row(k) for k in found.kernels if k.architecture == architecture]
        lines += ["", f"## sm_{architecture}", "", *table.lines([tuple(HEADINGS.values()), *rows])]
    return "\n".join([*lines, ""])


def _row(kernel: Kernel) -> tuple[str, ...]:
    cells = {field: str(getattr(kernel, field)) for field in HEADINGS}
    return tuple((cells | {"occupancy": f"{kernel.occupancy} %"}).values())


@click.command()
@click.option("--check", is_flag=True, help="Compare with the committed table; write nothing.")
@click.option(
    "--architecture", "wanted", type=int, multiple=True, help="Instead of all; with --check."
)
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Compilers at a time.")
def main(check: bool, wanted: tuple[int, ...], jobs: int) -> None:
    """Compile the CUDA kernels; write what came of it to bench/results/cuda."""
    if wanted and not check:
        raise click.UsageError(
            "the written table has all architectures: --architecture is for --check"
        )
    try:
        fresh = compile_all(Tools.find(), wanted or architectures(), jobs)
    except MissingToolError as missing:
        raise click.ClickException(str(missing)) from missing
    if not check:
        committed.save(RESULTS / "table.json", written(fresh), markdown(fresh))
        sentences = [sentence for kernel in fresh.kernels for sentence in _local_memory(kernel)]
    else:
        sentences = regressions(fresh, read(RESULTS / "table.json"))
    for sentence in sentences:
        click.echo(sentence)
    click.echo(f"{len(fresh.kernels)} kernels, nvcc {fresh.nvcc}: {len(sentences)} complaints")
    sys.exit(bool(sentences) and check)


if __name__ == "__main__":
    main()
