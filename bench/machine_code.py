"""What the compiler makes of the x86 kernels' hot loops: python -m bench.machine_code [--check].

Of every hot function of the objects kernels_<isa> the table has the innermost loop that does the
work: how many instructions, products and moves of vectors to and from the stack it takes.
Intrinsics leave registers to the compiler, so a harmless edit can spill a sum in the loop that
decides a kernel's speed; no result shows that. --check compares with the committed table instead
of writing it.

It needs objdump of GNU binutils and the CMake tree of a build, by default the test extension's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import click

from bench import table
from bench.cuda_table import shortened
from bench.testing_extension import VARIABLE
from pythia_rt.convert.atomic import write_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "machine-code"
ISAS = ("avx2", "avxvnni", "avx512", "amx")
GROUP = 64  # columns that share a scale

# The functions of which hot loops are shown, and what multiplies in them. What the compiler has put
# into its caller is found there: a whole register tile in linear_..., and scoring in attend.
_INTEGER = re.compile(r"vpmaddubsw|vpdpbusd|tdpb")
_FLOAT = re.compile(r"vfn?m(?:add|sub)\d+ps")
_TILES = dict.fromkeys(ISAS, "1, 4") | dict.fromkeys(("avx512", "amx"), "2, 6")
_HALVES = {"avx2": "1, 8", "avxvnni": "2, 6"}  # kHalves, kHalfRows; a tile takes two registers
_CALLERS = re.compile(r"(?:Entry<&)?(linear_(?:q\d|packed\w*<\d>)).*")
_ATTENTION = re.compile(r"(?:attend|mix_run)<\w+, 4(?:, \d)?>")


def _hot(isa: str) -> re.Pattern[str]:
    names = rf"multiply_(?:row|block)<.*>|IntegerWork<.*>::run<{_TILES[isa]}>"
    if isa in _HALVES:
        return re.compile(rf"{names}|add_halves<.*, {_HALVES[isa]}>")
    return re.compile(rf"{names}|IntegerWork<(?:Wide|Packed)Group\b.*>::run<1, 1>")


_JUMP = re.compile(r"j\w+\s+([0-9a-f]+)\b")
_STEP = re.compile(r"add\s+\$(0x[0-9a-f]+),%r\w+$")
_VECTOR = re.compile(r"%[xyz]mm\d")
# Reads of single values, which are spread over the lanes or widened, are of arrays.
_NO_SPILL = re.compile(r"v\w*broadcast|vpmov[sz]x|v\w+s[sd]\s|vmov[dq]\s|.*\{1to\d+\}")


class UnavailableError(Exception):
    """A sentence about what the table needs and is not there."""


@dataclass(frozen=True, order=True)
class Loop:
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


def innermost_loops(instructions: Instructions) -> list[list[str]]:
    """The instructions of every backward jump's span in which there is no other's."""
    ends: dict[int, int] = {}
    for address, text in instructions:
        jump = _JUMP.match(text)
        if jump and int(jump[1], 16) <= address:
            ends[int(jump[1], 16)] = address  # of several to one place the last
    spans = list(ends.items())
    inner = [
        (begin, end)
        for begin, end in spans
        if not any(begin <= a and b <= end and (a, b) != (begin, end) for a, b in spans)
    ]
    return [[text for a, text in instructions if begin <= a <= end] for begin, end in inner]


def spills(loop: list[str], has_frame_pointer: bool) -> int:
    """How many instructions have a whole vector in the stack."""
    pointer = "r[sb]p" if has_frame_pointer else "rsp"
    place = re.compile(rf"(?:-?0x[0-9a-f]+)?\(%{pointer}\)")
    return sum(
        _VECTOR.search(text) is not None
        and place.search(text) is not None
        and _NO_SPILL.match(text) is None
        for text in loop
    )


def products_of_group(kernel: str, isa: str) -> int | None:
    """Those that a kernel of quantised weights needs for 64 columns; None for another."""
    tiles = GROUP // 4  # of 4 columns
    if kernel.startswith("multiply_block"):
        return 1  # the unit's, of 16 rows
    if found := re.match(r"add_halves<.*, (\d+), (\d+)>", kernel):
        return tiles * int(found[1]) * int(found[2])
    vectors = 2 if isa in _HALVES else 1  # for the 16 outputs of a block
    if kernel.startswith("multiply_row"):
        return tiles * vectors
    if found := re.search(r"\brun<(\d+), (\d+)>", kernel):
        return tiles * vectors * int(found[1]) * int(found[2])
    return None


def columns(products: int, of_group: int, loop: list[str]) -> int:
    """How many columns of a group one turn is done with, or 0.

    Activations have a byte a column: some pointer must move on by as many as the products say.
    """
    steps = {int(step[1], 16) for text in loop if (step := _STEP.match(text))}
    done, rest = divmod(GROUP * products, of_group)
    return done if rest == 0 and done in steps else 0


def read_loops(listing: str, isa: str) -> Iterator[Loop]:
    """The hot loops of an ISA's object: of each function the one with the densest products."""
    for name, instructions in read_functions(listing):
        kernel = shortened(name.replace(f"{isa}::", "")).replace("> >", ">>")
        caller = _CALLERS.fullmatch(kernel)
        if caller:
            kernel = f"run<{_TILES[isa]}> in {caller[1]}"
        elif not (_hot(isa).fullmatch(kernel) or _ATTENTION.fullmatch(kernel)):
            continue
        of_group = products_of_group(kernel, isa)
        multiplies = _INTEGER if of_group else _FLOAT
        found = []
        for loop in innermost_loops(instructions):
            products = sum(multiplies.match(text) is not None for text in loop)
            if products == of_group or (products and not caller):
                found.append((products / len(loop), products, loop))
        if found:
            _, products, loop = max(found)
            framed = any(re.match(r"mov\s+%rsp,%rbp$", text) for _, text in instructions)
            done = columns(products, of_group, loop) if of_group else 0
            yield Loop(isa, kernel, len(loop), products, spills(loop, framed), done)


def read_compiler(dump: str) -> str:
    """The first text of what `objdump -s -j .comment` printed."""
    rows = re.findall(r"^ [0-9a-f]+ ((?:[0-9a-f]{2,8} ){1,4})", dump, re.M)
    texts = bytes.fromhex("".join(rows)).split(b"\0")
    return next((text.decode() for text in texts if text), "unknown")


def read_tree(tree: Path) -> Table:
    """The loops of every x86 ISA that was built in `tree`; raises UnavailableError."""
    objdump = shutil.which("objdump")
    if objdump is None:
        raise UnavailableError("objdump was not found: install binutils")
    objects = {isa: sorted(tree.glob(f"CMakeFiles/kernels_{isa}.dir/**/*.o")) for isa in ISAS}
    if not any(objects.values()):
        raise UnavailableError(
            f"no object of the x86 kernels is in {tree}: build it with ./scripts/test, "
            f"or name its folder in {VARIABLE}"
        )
    compilers: set[str] = set()
    loops: list[Loop] = []
    for isa, files in objects.items():
        for file in files:
            compilers.add(read_compiler(_output(objdump, "-s", "-j", ".comment", str(file))))
            listing = _output(objdump, "-d", "-C", "--no-show-raw-insn", str(file))
            loops += read_loops(listing, isa)
    return Table(", ".join(sorted(compilers)), tuple(sorted(loops)))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode != 0:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def regressions(fresh: Table, baseline: Table) -> list[str]:
    """One sentence for each way in which `fresh` is worse, of the ISAs that it has."""
    built = {loop.isa for loop in fresh.loops}
    before = {loop.place: loop for loop in baseline.loops if loop.isa in built}
    now = {loop.place: loop for loop in fresh.loops}
    sentences = [f"{place} is not in the table." for place in now if place not in before]
    sentences += [f"{place} has vanished." for place in before if place not in now]
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
    lines = ",\n".join(json.dumps(asdict(loop)) for loop in found.loops)
    return f'{{"compiler": {json.dumps(found.compiler)}, "loops": [\n{lines}\n]}}\n'


def read(path: Path) -> Table:
    """What `written` wrote."""
    content = json.loads(path.read_text())
    known = {field.name for field in fields(Loop)}
    if any(line.keys() != known for line in content["loops"]):
        raise click.ClickException(f"{path} has other fields: write it anew")
    return Table(content["compiler"], tuple(Loop(**line) for line in content["loops"]))


def markdown(found: Table) -> str:
    """One table for each ISA."""
    lines = [
        "# The hot loops as compiled",
        "",
        f"By {found.compiler}, with `python -m bench.machine_code`; nothing here was measured. Of "
        "each function the innermost loop with the densest products: how many instructions one "
        "turn takes, how many of them multiply and add (vpmaddubsw, vpdpbusd or tdpbssd; in "
        "attention, vfmadd) and how many have a whole vector in the stack. Columns are those of a "
        "group of weights that a turn is done with, and what follows is for a group of 64.",
    ]
    headings = ("loop", "instructions", "products", "spills", "columns", "a group", "its spills")
    for isa in ISAS:
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
@click.option(
    "--tree",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: os.environ.get(VARIABLE) or ROOT / "build" / "native",
    help=f"The CMake tree; default: {VARIABLE}, else build/native.",
)
def main(check: bool, tree: Path) -> None:
    """Read the hot loops of a build; write what they are to bench/results/machine-code."""
    try:
        fresh = read_tree(tree)
    except UnavailableError as missing:
        raise click.ClickException(str(missing)) from missing
    sentences = regressions(fresh, read(RESULTS / "table.json")) if check else []
    if not check:
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_file(RESULTS / "table.json", written(fresh).encode())
        write_file(RESULTS / "table.md", markdown(fresh).encode())
    for sentence in sentences:
        click.echo(sentence)
    click.echo(f"{len(fresh.loops)} loops, {fresh.compiler}: {len(sentences)} complaints")
    sys.exit(bool(sentences))


if __name__ == "__main__":
    main()
