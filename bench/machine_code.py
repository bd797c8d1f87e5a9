"""What the compiler makes of the kernels' hot loops: python -m bench.machine_code [--check].

Of every hot function of the objects kernels_<isa> the table has the innermost loop that does the
work: how many instructions, products and moves of vectors to and from the stack it takes.
Intrinsics leave registers to the compiler, so a harmless edit can spill a sum in the loop that
decides a kernel's speed; no result shows that. --check compares with the committed table instead
of writing it.

It needs objdump of GNU binutils and the CMake tree of a build, by default the test extension's. The
kernels of aarch64 have a table of their own (--target aarch64), by default of the tree that
./scripts/test builds with a cross compiler, on other machines than one of aarch64.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from bench import ROOT
from bench.cuda_table import shortened
from bench.records import committed, table
from bench.testing_extension import VARIABLE

RESULTS = ROOT / "bench" / "results" / "machine-code"
GROUP = 64  # columns that share a scale


@dataclass(frozen=True)
class Target:
    """An architecture of processors: its instruction sets, and how objdump writes its code."""

    name: str
    title: str
    isas: tuple[str, ...]
    table: str  # name of the committed files
    objdump: str  # where the machine's own is for another architecture
    integer: re.Pattern[str]  # what multiplies and adds integers
    float: re.Pattern[str]
    products: str  # the same in words
    jump: re.Pattern[str]
    steps: tuple[re.Pattern[str], ...]  # of a pointer
    vector: re.Pattern[str]
    stack: str  # a place in it, before the pointer's name
    pointers: tuple[str, str]  # without a frame pointer, and with one
    frame: re.Pattern[str]
    no_spill: re.Pattern[str]

    @property
    def is_native(self) -> bool:
        """Whether this machine is one."""
        machine = platform.machine()
        return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine) == self.name

    @property
    def tree(self) -> Path:
        """Where ./scripts/test builds for it."""
        if not self.is_native:
            return ROOT / "build" / self.name
        return Path(os.environ.get(VARIABLE) or ROOT / "build" / "native")


X86_64 = Target(
    name="x86_64",
    title="The hot loops as compiled",
    isas=("avx2", "avxvnni", "avx512", "amx"),
    table="table",
    objdump="x86_64-linux-gnu-objdump",
    integer=re.compile(r"vpmaddubsw|vpdpbusd|tdpb"),
    float=re.compile(r"vfn?m(?:add|sub)\d+ps"),
    products="vpmaddubsw, vpdpbusd or tdpbssd; in attention, vfmadd",
    jump=re.compile(r"j\w+\s+([0-9a-f]+)\b"),
    steps=(re.compile(r"add\s+\$(0x[0-9a-f]+),%r\w+$"),),
    vector=re.compile(r"%[xyz]mm\d"),
    stack=r"(?:-?0x[0-9a-f]+)?\(%",
    pointers=(r"rsp\)", r"r[sb]p\)"),
    frame=re.compile(r"mov\s+%rsp,%rbp$"),
    # Reads of single values, which are spread over the lanes or widened, are of arrays.
    no_spill=re.compile(r"v\w*broadcast|vpmov[sz]x|v\w+s[sd]\s|vmov[dq]\s|.*\{1to\d+\}"),
)
AARCH64 = Target(
    name="aarch64",
    title="The hot loops as compiled for aarch64",
    isas=("neon", "i8mm"),
    table="aarch64",
    objdump="aarch64-linux-gnu-objdump",
    integer=re.compile(r"sdot\s|smmla\s"),
    float=re.compile(r"fml[as]\s+v"),
    products="sdot or smmla; in attention, fmla",
    jump=re.compile(r"(?:b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+([0-9a-f]+)\b"),
    steps=(
        re.compile(r"add\s+(?P<pointer>x\d+), (?P=pointer), #(0x[0-9a-f]+)$"),
        re.compile(r"ld\w+\s.*\], #(\d+)$"),
    ),
    vector=re.compile(r"\b[qv]\d"),
    stack=r"\[",
    pointers=(r"sp\b", r"(?:sp|x29)\b"),
    frame=re.compile(r"mov\s+x29, sp$"),
    no_spill=re.compile(r"ld\dr\s|ldr\s+[bhsd]"),
)
TARGETS = {target.name: target for target in (X86_64, AARCH64)}

# The functions of which hot loops are shown.
_ROWS = {"avx512": "1|8|12", "amx": "1|8|12"}  # of multiply_stored
# Tiles of kHalves and kHalfRows, and of few rows: there a tile takes two registers.
_HALVES = {"avx2": "1, 8|2, 3|2, 4", "avxvnni": "2, 6"}
_PANEL_ROWS = {"neon": 4, "i8mm": 6}  # Panel::kRows
_ATTENTION = re.compile(r"(?:score_tiles|mix_columns)<\w+, [48], \d>")


def _hot(isa: str) -> re.Pattern[str]:
    names = rf"multiply_(?:row|block)<.*>|multiply_stored<.*, (?:{_ROWS.get(isa, '1|4')})>"
    if isa in _HALVES:
        names += rf"|add_halves<.*, (?:{_HALVES[isa]})>"
    if isa in _PANEL_ROWS:
        names += rf"|add_panel<.*, {_PANEL_ROWS[isa]}>"
    return re.compile(names)


class UnavailableError(Exception):
    """A sentence about what the table needs and is not there."""


@dataclass(frozen=True, order=True)
class Loop(committed.Row):
    """The innermost loop of a function that does its work."""

    isa: str
    kernel: str
    instructions: int
    products: int  # instructions that multiply and add
    spills: int  # instructions that move a vector to or from the stack, or operate on one there
    columns: int  # of a group of weights that it is done with; 0 where that does not follow

    @property
    def place(self) -> str:
        """The loop's name for messages."""
        return f"{self.kernel} of {self.isa}"


@dataclass(frozen=True)
class Table:
    """All loops, sorted, and the compiler as it names itself in the objects."""

    compiler: str
    loops: tuple[Loop, ...]

    @property
    def compiler_and_major(self) -> tuple[str, str]:
        """Tables of equal ones compare: GCC: and 12."""
        versions = re.findall(r"(\d+)\.\d", self.compiler)
        return self.compiler.split(" ")[0], versions[-1] if versions else ""


Instructions = list[tuple[int, str]]  # (address, text) in order


def read_functions(listing: str) -> Iterator[tuple[str, Instructions]]:
    """(name, instructions) of each function of what `objdump -d` printed."""
    for part in re.split(r"^[0-9a-f]+ <(?=.*>:$)", listing, flags=re.M)[1:]:
        name, body = part.split(">:\n", 1)
        lines = re.findall(r"^\s*([0-9a-f]+):\t(.+?)\s*$", body, re.M)
        yield name, [(int(a, 16), text.removeprefix("{vex} ")) for a, text in lines]


def innermost_loops(instructions: Instructions, target: Target = X86_64) -> list[list[str]]:
    """The instructions of every backward jump's span in which there is no other's."""
    ends: dict[int, int] = {}
    for address, text in instructions:
        jump = target.jump.match(text)
        if jump and int(jump[1], 16) <= address:
            ends[int(jump[1], 16)] = address  # of several to one place the last
    spans = list(ends.items())
    inner = [
        (begin, end)
        for begin, end in spans
        if not any(begin <= a and b <= end and (a, b) != (begin, end) for a, b in spans)
    ]
    return [[text for a, text in instructions if begin <= a <= end] for begin, end in inner]


def spills(loop: list[str], has_frame_pointer: bool, target: Target = X86_64) -> int:
    """How many instructions have a whole vector in the stack."""
    place = re.compile(target.stack + target.pointers[has_frame_pointer])
    return sum(
        target.vector.search(text) is not None
        and place.search(text) is not None
        and target.no_spill.match(text) is None
        for text in loop
    )


def products_of_group(kernel: str, isa: str) -> int | None:
    """Those that a kernel of quantised weights needs for 64 columns; None for another."""
    tiles = GROUP // 4  # of 4 columns
    if kernel.startswith("multiply_block"):
        return 1  # the unit's, of 16 rows
    if found := re.match(r"add_halves<.*, (\d+), (\d+)>", kernel):
        return tiles * int(found[1]) * int(found[2])
    # For the 16 outputs of a block. A matrix product of i8mm does the work of two.
    vectors = 4 if isa in _PANEL_ROWS else 2 if isa in _HALVES else 1
    if found := re.match(r"add_panel<.*, (\d+)>", kernel):
        return tiles * vectors * int(found[1]) // (2 if isa == "i8mm" else 1)
    if kernel.startswith("multiply_row"):
        return tiles * vectors
    if found := re.match(r"multiply_stored<.*, (\d+)>", kernel):
        return tiles * vectors * int(found[1])
    return None


def columns(products: int, of_group: int, loop: list[str], target: Target = X86_64) -> int:
    """How many columns of a group one turn is done with, or 0.

    Activations have a byte a column: some pointer must move on by as many as the products say.
    """
    found = [step for text in loop for known in target.steps if (step := known.match(text))]
    steps = {int(step[step.re.groups], 0) for step in found}
    done, rest = divmod(GROUP * products, of_group)
    return done if rest == 0 and done in steps else 0


def read_loops(listing: str, isa: str, target: Target = X86_64) -> Iterator[Loop]:
    """The hot loops of an ISA's object: of each function the one with the densest products."""
    for name, instructions in read_functions(listing):
        kernel = shortened(name.replace(f"{isa}::", "")).replace("> >", ">>")
        if not (_hot(isa).fullmatch(kernel) or _ATTENTION.fullmatch(kernel)):
            continue
        of_group = products_of_group(kernel, isa)
        multiplies = target.integer if of_group else target.float
        found = []
        for loop in innermost_loops(instructions, target):
            products = sum(multiplies.match(text) is not None for text in loop)
            if products:
                found.append((products / len(loop), products, loop))
        if found:
            _, products, loop = max(found)
            framed = any(target.frame.match(text) for _, text in instructions)
            done = columns(products, of_group, loop, target) if of_group else 0
            yield Loop(isa, kernel, len(loop), products, spills(loop, framed, target), done)


def read_compiler(dump: str) -> str:
    """The first text of what `objdump -s -j .comment` printed."""
    rows = re.findall(r"^ [0-9a-f]+ ((?:[0-9a-f]{2,8} ){1,4})", dump, re.M)
    texts = bytes.fromhex("".join(rows)).split(b"\0")
    return next((text.decode() for text in texts if text), "unknown")


def read_tree(tree: Path, target: Target = X86_64) -> Table:
    """The loops of every ISA of the target that was built in `tree`; raises UnavailableError."""
    name = "objdump" if target.is_native else target.objdump
    objdump = shutil.which(name)
    if objdump is None:
        raise UnavailableError(f"{name} was not found: install binutils")
    objects = {
        isa: sorted(tree.glob(f"CMakeFiles/kernels_{isa}.dir/**/*.o")) for isa in target.isas
    }
    if not any(objects.values()):
        raise UnavailableError(
            f"no object of the {target.name} kernels is in {tree}: build it with ./scripts/test, "
            f"or name its folder with --tree"
        )
    compilers: set[str] = set()
    loops: list[Loop] = []
    for isa, files in objects.items():
        for file in files:
            compilers.add(read_compiler(_output(objdump, "-s", "-j", ".comment", str(file))))
            listing = _output(objdump, "-d", "-C", "--no-show-raw-insn", str(file))
            loops += read_loops(listing, isa, target)
    return Table(", ".join(sorted(compilers)), tuple(sorted(loops)))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def regressions(fresh: Table, baseline: Table) -> list[str]:
    """One sentence for each way in which `fresh` is worse, of the ISAs that it has."""
    built = {loop.isa for loop in fresh.loops}
    before = committed.by_place(loop for loop in baseline.loops if loop.isa in built)
    now = committed.by_place(fresh.loops)
    sentences = committed.moved(now, before)
    for place in [place for place in now if place in before]:
        new, old = now[place], before[place]
        if new.spills * old.products > old.spills * new.products:
            sentences.append(
                f"{place} has {table.count(new.spills, 'spill')} for "
                f"{table.count(new.products, 'product')}, not {old.spills} for {old.products}."
            )
        if new.products * old.columns > old.products * new.columns:
            sentences.append(
                f"{place} takes {table.count(new.products, 'product')} for "
                f"{new.columns or 'an unknown number of'} columns, "
                f"not {old.products} for {old.columns}."
            )
    return sentences


def written(found: Table) -> str:
    """The table as JSON, one line for each loop."""
    return committed.written({"compiler": found.compiler}, "loops", found.loops)


def read(path: Path) -> Table:
    """What `written` wrote."""
    return Table(*committed.read(path, "compiler", "loops", Loop))


def markdown(found: Table, target: Target = X86_64) -> str:
    """One table for each ISA."""
    command = "python -m bench.machine_code"
    if target is not X86_64:
        command += f" --target {target.name}"
    lines = [
        f"# {target.title}",
        "",
        f"By {found.compiler}, with `{command}`; nothing here was measured. Of "
        "each function the innermost loop with the densest products: how many instructions one "
        f"turn takes, how many of them multiply and add ({target.products}) "
        "and how many have a whole vector in the stack. Columns are those of a "
        "group of weights that a turn is done with, and what follows is for a group of 64.",
    ]
    headings = ("loop", "instructions", "products", "spills", "columns", "a group", "its spills")
    for isa in target.isas:
        rows = [_row(loop) for loop in found.loops if loop.isa == isa]
        if rows:
            lines += ["", f"## {isa}", "", *table.lines([headings, *rows])]
    return "\n".join([*lines, ""])


def _row(loop: Loop) -> tuple[str, ...]:
    counts = (loop.instructions, loop.products, loop.spills)
    group = ("-", "-", "-")
    if loop.columns:
        turns = GROUP / loop.columns
        group = (str(loop.columns), f"{turns * counts[0]:.0f}", f"{turns * counts[2]:.0f}")
    return (loop.kernel, *map(str, counts), *group)


@click.command()
@click.option("--check", is_flag=True, help="Compare with the committed table; write nothing.")
@click.option("--target", "name", type=click.Choice(list(TARGETS)), default="x86_64")
@click.option(
    "--tree",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"The CMake tree; default: {VARIABLE}, else build/native; for aarch64 elsewhere "
    "build/aarch64.",
)
def main(check: bool, name: str, tree: Path | None) -> None:
    """Read the hot loops of a build; write what they are to bench/results/machine-code."""
    target = TARGETS[name]
    try:
        fresh = read_tree(tree or target.tree, target)
    except UnavailableError as missing:
        raise click.ClickException(str(missing)) from missing
    place = RESULTS / f"{target.table}.json"
    sentences = regressions(fresh, read(place)) if check else []
    if not check:
        committed.save(place, written(fresh), markdown(fresh, target))
    for sentence in sentences:
        click.echo(sentence)
    click.echo(f"{len(fresh.loops)} loops, {fresh.compiler}: {len(sentences)} complaints")
    sys.exit(bool(sentences))


if __name__ == "__main__":
    main()
