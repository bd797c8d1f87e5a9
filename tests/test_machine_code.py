"""What the compiler makes of the kernels' hot loops, and that we would see it get worse.

The objects that the test extension was built of are compared with the committed table, of which
the compiler is the same in name and major version; on other machines those for aarch64 are a cross
compiler's, if there is one. The tests of the parsing need neither.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench import machine_code
from bench.machine_code import AARCH64, Loop, Table, Target, regressions

GCC = "GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"
LOOP = Loop("avx2", "add_halves<WideHalf, 1, 8>", 48, products=8, spills=2, columns=4)
# With the bytes of instructions: those of AVX-512 begin with 62.
EVEX = re.compile(r"^ *[0-9a-f]+:\t62 (?:[0-9a-f]{2} )+ *\t(.*)", re.M)

# Cut from objdump -d -C --no-show-raw-insn. The first loop waits in a second one and clears sums;
# the second does the work, with two spills; an outer loop around both has more instructions. What
# is no spill: the spread value of an array, an indexed array, an integer register, another pointer.
LISTING = """
isa_avx2.cc.o:     file format elf64-x86-64

Disassembly of section .text._ZN9pythia_rt4avx28add_halfE:

0000000000000000 <void pythia_rt::avx2::add_halves<pythia_rt::avx2::NarrowHalf<4>, 1, 8>(int)>:
   0:	push   %rbp
   1:	mov    %rsp,%rbp
   4:	vmovaps %ymm0,(%rsp)
   8:	vmovaps %ymm0,(%rdi)
   c:	jne    8 <void pythia_rt::avx2::add_halves<pythia_rt::avx2::NarrowHalf<4>, 1, 8>(int)+0x8>
  10:	vpbroadcastd (%rsp),%ymm1
  14:	vpmaddubsw %ymm1,%ymm0,%ymm1
  18:	vpmaddubsw (%rax),%ymm0,%ymm2
  1c:	vpaddd -0x40(%rbp),%ymm1,%ymm1
  20:	vmovdqa %ymm1,0x68(%rsp)
  24:	vmovdqa %ymm2,(%rsp,%rcx,4)
  28:	vmovdqa %ymm2,0x20(%rbx)
  2a:	mov    %rax,0x8(%rsp)
  2c:	vpmaddubsw %ymm1,%ymm0,%ymm1
  2e:	vpmaddubsw %ymm1,%ymm0,%ymm1
  30:	add    $0x40,%rdx
  34:	add    $0x2,%rax
  38:	jl     10 <void pythia_rt::avx2::add_halves<pythia_rt::avx2::NarrowHalf<4>, 1, 8>(int)+0x10>
  3c:	vmovaps %ymm0,(%rsp)
  40:	jmp    4 <void pythia_rt::avx2::add_halves<pythia_rt::avx2::NarrowHalf<4>, 1, 8>(int)+0x4>
  44:	ret

Disassembly of section .text._ZN9pythia_rt4avx27mix_columnsE:

0000000000000000 <void pythia_rt::avx2::mix_columns<pythia_rt::avx2::ByteCache, 4, 1>(long)>:
   0:	vfmadd231ps (%rsp),%ymm1,%ymm2
   6:	vmovaps %ymm2,-0x40(%rbp)
   c:	js     20 <void pythia_rt::avx2::mix_columns<pythia_rt::avx2::ByteCache, 4, 1>(long)+0x20>
  10:	jne    0 <void pythia_rt::avx2::mix_columns<pythia_rt::avx2::ByteCache, 4, 1>(long)>
  20:	ret

0000000000000040 <pythia_rt::avx2::Entry<&pythia_rt::avx2::rotate>::call(long)>:
  40:	vfmadd231ps %ymm0,%ymm1,%ymm2
  46:	jmp    40 <pythia_rt::avx2::Entry<&pythia_rt::avx2::rotate>::call(long)>
"""


# The same of aarch64: two matrix products for 8 columns, a sum in the stack, of which the first
# turn's address is the frame pointer's; a single value from the stack and an array are no spills.
LISTING_AARCH64 = """
isa_i8mm.cc.o:     file format elf64-littleaarch64

0000000000000000 <void pythia_rt::i8mm::add_panel<pythia_rt::i8mm::HalfScales, 6>(long)>:
   0:	mov	x29, sp
   4:	movi	v0.4s, #0x0
   8:	ldr	d26, [sp, #24]
   c:	ldp	q28, q27, [x0]
  10:	smmla	v1.4s, v26.16b, v28.16b
  14:	smmla	v2.4s, v26.16b, v28.16b
  18:	smmla	v1.4s, v26.16b, v28.16b
  1c:	smmla	v2.4s, v26.16b, v28.16b
  20:	smmla	v1.4s, v26.16b, v28.16b
  24:	smmla	v2.4s, v26.16b, v28.16b
  28:	str	q1, [sp, #64]
  2c:	str	q1, [x29, #64]
  30:	str	x1, [sp, #64]
  34:	add	x0, x0, #0x80
  38:	add	x1, x1, #0x2
  3c:	cmp	x0, x7
  40:	b.ne	8 <void pythia_rt::i8mm::add_panel<pythia_rt::i8mm::HalfScales, 6>(long)+0x8>
  44:	cbnz	x3, 4 <void pythia_rt::i8mm::add_panel<pythia_rt::i8mm::HalfScales, 6>(long)+0x4>
  48:	ret

0000000000000000 <void pythia_rt::i8mm::mix_columns<pythia_rt::i8mm::ByteCache, 4, 1>(long)>:
   0:	ldr	q0, [x0], #16
   4:	fmla	v1.4s, v0.4s, v2.s[0]
   8:	tbz	w3, #0, 0 <void pythia_rt::i8mm::mix_columns<pythia_rt::i8mm::ByteCache, 4, 1>(long)>
"""


def table(*loops: Loop, compiler: str = GCC) -> Table:
    return Table(compiler, loops)


def changed(**values: object) -> Loop:
    return dataclasses.replace(LOOP, **values)


def read_committed(target: Target) -> Table:
    return machine_code.read(machine_code.RESULTS / f"{target.table}.json")


every_target = pytest.mark.parametrize(
    "target", machine_code.TARGETS.values(), ids=lambda t: t.name
)


@every_target
def test_the_hot_loops_are_as_good_as_the_table_says(target: Target) -> None:
    committed = read_committed(target)
    try:
        fresh = machine_code.read_tree(target.tree, target)
    except machine_code.UnavailableError as missing:
        pytest.skip(str(missing))
    if fresh.compiler_and_major != committed.compiler_and_major:
        pytest.skip(f"the table is of {committed.compiler}, the objects of {fresh.compiler}")
    sentences = regressions(fresh, committed)
    anew = f"If so be it: python -m bench.machine_code --target {target.name}"
    assert not sentences, "\n".join([*sentences, anew])


@every_target
def test_the_committed_tables_agree(target: Target) -> None:
    committed = read_committed(target)
    place = machine_code.RESULTS / target.table
    assert machine_code.written(committed) == place.with_suffix(".json").read_text()
    assert machine_code.markdown(committed, target) == place.with_suffix(".md").read_text()
    assert {loop.isa for loop in committed.loops} == set(target.isas)
    assert not regressions(committed, committed)


@pytest.mark.parametrize(("isa", "tile"), [("avx2", "1, 8"), ("avxvnni", "2, 6")])
@pytest.mark.parametrize("half", ["WideHalf", "NarrowHalf<4>", "NarrowHalf<5>", "NarrowHalf<6>"])
def test_the_committed_table_has_what_halves_live_on(half: str, isa: str, tile: str) -> None:
    loops = {loop.place: loop for loop in read_committed(machine_code.X86_64).loops}
    kernel = f"add_halves<{half}, {tile}>"
    loop = loops[f"{kernel} of {isa}"]
    of_group = machine_code.products_of_group(kernel, isa)
    assert loop.columns and loop.products * 64 == of_group * loop.columns
    assert f"multiply_row<{half.replace('Half', 'Row')}> of {isa}" in loops


@pytest.mark.parametrize("isa", ["avx2", "avxvnni"])
def test_no_instruction_needs_avx512(isa: str) -> None:
    """Processors with AVX-VNNI may have none of AVX-512, which encodes its products otherwise."""
    objdump = shutil.which("objdump")
    objects = sorted(machine_code.X86_64.tree.glob(f"CMakeFiles/kernels_{isa}.dir/**/*.o"))
    if objdump is None or not objects:
        pytest.skip("objdump or the object of the kernels is not there")
    command = [objdump, "-d", *objects]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert re.search(r"\tvpmaddubsw" if isa == "avx2" else r"\t\{vex\} vpdpbusd", listing)
    assert not EVEX.findall(listing)


def test_avx512_would_be_seen() -> None:
    listing = """
   4:\tc4 e2 75 50 d3       \t{vex} vpdpbusd %ymm3,%ymm1,%ymm2
   9:\t62 f2 75 28 50 d3    \tvpdpbusd %ymm3,%ymm1,%ymm2
   f:\tc5 fd 6f 05 62 f2 75 \tvmovdqa 0x0(%rip),%ymm0
"""
    assert EVEX.findall(listing) == ["vpdpbusd %ymm3,%ymm1,%ymm2"]


@pytest.mark.parametrize("scales", ["HalfScales", "SquareScaleCodes"])
@pytest.mark.parametrize(("isa", "rows"), [("neon", 4), ("i8mm", 6)])
def test_the_committed_table_has_panels_without_a_spill(isa: str, rows: int, scales: str) -> None:
    loops = {loop.place: loop for loop in read_committed(AARCH64).loops}
    kernel = f"add_panel<{scales}, {rows}>"
    loop = loops[f"{kernel} of {isa}"]
    of_group = machine_code.products_of_group(kernel, isa)
    assert loop.columns and loop.products * 64 == of_group * loop.columns
    assert loop.spills == 0


def test_a_listing_of_aarch64_is_read() -> None:
    assert list(machine_code.read_loops(LISTING_AARCH64, "i8mm", AARCH64)) == [
        # 192 products for a group; 6 here for 2 columns, as the pointer says.
        Loop("i8mm", "add_panel<HalfScales, 6>", 15, products=6, spills=2, columns=2),
        Loop("i8mm", "mix_columns<ByteCache, 4, 1>", 3, products=1, spills=0, columns=0),
    ]


def test_a_listing_is_read() -> None:
    assert list(machine_code.read_loops(LISTING, "avx2")) == [
        # 128 products for a group; 4 here for 2 columns, as the pointer says.
        Loop("avx2", "add_halves<NarrowHalf<4>, 1, 8>", 13, products=4, spills=2, columns=2),
        # Without a frame pointer %rbp is any other.
        Loop("avx2", "mix_columns<ByteCache, 4, 1>", 4, products=1, spills=1, columns=0),
    ]


def test_columns_that_no_pointer_moves_on_by_are_unknown() -> None:
    twice = LISTING.replace("add    $0x2,%rax", "add    $0x1,%rax")
    assert next(machine_code.read_loops(twice, "avx2")).columns == 0


def test_a_register_tile_of_stored_weights_is_found() -> None:
    name = "void pythia_rt::avx512::multiply_stored<pythia_rt::avx512::WideGroup, 8>(long)"
    products = "\n".join(f"  {64 + i:x}:\tvpdpbusd %zmm0,%zmm1,%zmm2" for i in range(128))
    listing = (
        f"0000000000000000 <{name}>:\n{products}\n"
        f" 200:\tadd    $0x40,%rax\n 208:\tjne    40 <{name}+0x40>\n"
    )
    assert list(machine_code.read_loops(listing, "avx512")) == [
        Loop("avx512", "multiply_stored<WideGroup, 8>", 130, 128, spills=0, columns=64)
    ]
    assert not list(machine_code.read_loops(listing.replace(", 8>", ", 7>"), "avx512"))


def test_the_prefix_of_avxvnni_is_no_name() -> None:
    vex = LISTING.replace("avx2", "avxvnni").replace("vpmaddubsw", "{vex} vpdpbusd")
    tile = vex.replace(", 1, 8>", ", 2, 6>")
    loop = next(machine_code.read_loops(tile, "avxvnni"))
    assert (loop.kernel, loop.products) == ("add_halves<NarrowHalf<4>, 2, 6>", 4)


def test_the_compiler_names_itself() -> None:
    dump = """
isa_avx2.cc.o:     file format elf64-x86-64

Contents of section .comment:
 0000 00474343 3a202844 65626961 6e203132  .GCC: (Debian 12
 0010 2e322e30 2d31342b 64656231 32753129  .2.0-14+deb12u1)
 0020 2031322e 322e3000                     12.2.0.
"""
    assert machine_code.read_compiler(dump) == GCC


@pytest.mark.parametrize(
    ("compiler", "is_same"),
    [
        ("GCC: (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0", True),
        ("GCC: (GNU) 13.1.0", False),
        ("clang version 12.0.1", False),
        ("unknown", False),
    ],
)
def test_which_compilers_compare(compiler: str, is_same: bool) -> None:
    same = table(compiler=compiler).compiler_and_major == table().compiler_and_major
    assert same is is_same


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"spills": 3}, "has 3 spills for 8 products, not 2 for 8."),
        ({"products": 4, "columns": 2}, "has 2 spills for 4 products, not 2 for 8."),
        ({"columns": 2}, "takes 8 products for 2 columns, not 8 for 4."),
        ({"columns": 0}, "takes 8 products for an unknown number of columns, not 8 for 4."),
        ({"kernel": "add_halves<Other, 1, 8>"}, "has vanished."),
    ],
)
def test_a_regression_is_seen(values: dict[str, object], sentence: str) -> None:
    assert f"{LOOP.place} {sentence}" in regressions(table(changed(**values)), table(LOOP))


def test_what_is_no_regression() -> None:
    twice_unrolled = changed(products=16, spills=4, columns=8, instructions=90)
    assert not regressions(table(twice_unrolled), table(LOOP))
    assert not regressions(table(changed(spills=0, instructions=60)), table(LOOP))
    # An instruction set that was not built has not vanished.
    assert not regressions(table(LOOP), table(LOOP, changed(isa="amx")))
    assert regressions(table(LOOP, changed(isa="amx")), table(LOOP)) == [
        "add_halves<WideHalf, 1, 8> of amx is not in the table."
    ]


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(machine_code.UnavailableError, match="objdump was not found"):
        machine_code.read_tree(tmp_path)
    for name in ("objdump", machine_code.X86_64.objdump):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(machine_code.UnavailableError, match="no object of the x86_64 kernels"):
        machine_code.read_tree(tmp_path)
