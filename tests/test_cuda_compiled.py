"""What nvcc makes of the CUDA kernels, and that we would see it get worse. No GPU is needed.

The kernels are compiled for every architecture and compared with the committed table. The tests of
the comparison itself, and of what the PTX translator refuses, need no nvcc.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cuda_table
from bench.cuda_occupancy import MULTIPROCESSORS, occupancy
from bench.cuda_table import Kernel, Table, regressions

ROOT = Path(__file__).resolve().parent.parent
TRANSLATE = ROOT / "tests" / "cuda" / "ptx" / "translate.py"

KERNEL = Kernel(
    architecture=80,
    kernel="product<8>",
    threads=128,
    registers=40,
    spills=0,
    stack=0,
    shared=1024,
    occupancy=75,
    limit="registers",
    instructions=500,
    loads_128=4,
    copies=8,
    imma=16,
    dp4a=0,
    ffma=30,
    shuffles=5,
    barriers=2,
    local_loads=0,
    local_stores=0,
)


@pytest.fixture(scope="module")
def tools() -> cuda_table.Tools:
    """The compiler and what reads its results."""
    try:
        return cuda_table.Tools.find()
    except cuda_table.MissingToolError as missing:
        pytest.skip(str(missing))


def table(*kernels: Kernel, nvcc: str = "13.0.88") -> Table:
    return Table(nvcc, kernels)


def changed(**values: object) -> Kernel:
    return dataclasses.replace(KERNEL, **values)


@pytest.mark.proof
@pytest.mark.timeout(1500)  # about a minute and a half where two cores have nothing else to do
def test_the_kernels_compile_as_well_as_the_table_says(tools: cuda_table.Tools) -> None:
    fresh = cuda_table.compile_all(tools, cuda_table.architectures(), jobs=2)
    sentences = regressions(fresh, cuda_table.read(cuda_table.RESULTS / "table.json"))
    assert not sentences, "\n".join([*sentences, "If so be it: python -m bench.cuda_table"])


def test_the_committed_tables_agree() -> None:
    committed = cuda_table.read(cuda_table.RESULTS / "table.json")
    assert cuda_table.written(committed) == (cuda_table.RESULTS / "table.json").read_text()
    assert cuda_table.markdown(committed) == (cuda_table.RESULTS / "table.md").read_text()
    listed = {kernel.architecture for kernel in committed.kernels}
    assert listed == set(cuda_table.architectures())
    assert not regressions(committed, committed)


# What NVIDIA's own cuda_occupancy.h gives for these.
@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "percent"),
    [
        (75, 64, 37, 0, 100),
        (75, 128, 92, 15360, 50),
        (75, 128, 66, 0, 88),
        (80, 128, 43, 1056, 62),
        (80, 128, 64, 15360, 50),
        (80, 256, 31, 32, 100),
        (86, 64, 36, 0, 67),
        (86, 128, 48, 1056, 83),
        (89, 64, 36, 0, 100),
        (89, 128, 78, 15360, 50),
        (90, 128, 40, 1056, 75),
        (90, 128, 62, 15360, 50),
        (100, 128, 38, 0, 75),
        (120, 128, 42, 1056, 83),
        (120, 128, 79, 15360, 50),
    ],
)
def test_occupancy(
    architecture: int, threads: int, registers: int, shared: int, percent: int
) -> None:
    assert occupancy(architecture, threads, registers, shared).percent == percent


def test_occupancy_names_its_limit() -> None:
    assert occupancy(80, 1024, 32, 0).limit == "warps"
    assert occupancy(80, 32, 16, 0).limit == "blocks"
    assert occupancy(80, 256, 200, 0).limit == "registers"
    assert occupancy(80, 64, 16, 48 << 10).limit == "shared"
    assert set(cuda_table.architectures()) <= set(MULTIPROCESSORS)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"spills": 8}, "product<8> on sm_80 spills 8 bytes of registers."),
        ({"stack": 16}, "product<8> on sm_80 uses local memory: 16 bytes of a thread."),
        ({"local_loads": 1}, "product<8> on sm_80 uses local memory: 0 bytes of a thread."),
        ({"local_stores": 1}, "product<8> on sm_80 uses local memory: 0 bytes of a thread."),
        ({"loads_128": 0}, "product<8> on sm_80 lost its 128-bit loads."),
        ({"copies": 0}, "product<8> on sm_80 lost its asynchronous copies."),
        ({"imma": 0}, "product<8> on sm_80 lost its IMMA."),
        ({"kernel": "other"}, "other on sm_80 is not in the table."),
        ({"kernel": "other"}, "product<8> on sm_80 has vanished."),
    ],
)
@pytest.mark.parametrize("nvcc", ["13.0.88", "13.1.0"])
def test_a_regression_is_seen_with_any_nvcc(
    values: dict[str, object], sentence: str, nvcc: str
) -> None:
    assert sentence in regressions(table(changed(**values), nvcc=nvcc), table(KERNEL))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"registers": 49}, "product<8> on sm_80 uses 49 registers, not 40."),
        ({"occupancy": 62}, "product<8> on sm_80 has an occupancy of 62 %, not 75 %."),
    ],
)
def test_a_regression_is_seen_with_the_same_nvcc(values: dict[str, object], sentence: str) -> None:
    assert regressions(table(changed(**values)), table(KERNEL)) == [sentence]
    assert not regressions(table(changed(**values), nvcc="13.1.0"), table(KERNEL))


def test_what_is_no_regression() -> None:
    better = changed(registers=48, occupancy=100, loads_128=1, dp4a=3, limit="warps")
    assert not regressions(table(better), table(KERNEL))
    # An architecture that was not compiled has not vanished.
    assert not regressions(table(KERNEL), table(KERNEL, changed(architecture=90)))


def test_names_are_short() -> None:
    prefix = "void pythia_rt::cuda::(anonymous namespace)::"
    assert cuda_table.shortened(f"{prefix}attend<pythia_rt::cuda::Q8, 4>(int*, A<B>)") == (
        "attend<Q8, 4>"
    )
    assert cuda_table.shortened("pythia_rt::cuda::gather(float const*, long)") == "gather"


def test_resources_are_read() -> None:
    said = """ptxas info    : Compiling entry function '_Z1aPf' for 'sm_80'
ptxas info    : Function properties for _Z1aPf
    64 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 26 registers, used 1 barriers, 512 bytes smem, 384 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1bPf' for 'sm_80'
ptxas info    : Function properties for _Z1bPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""
    assert dict(cuda_table.read_resources(said)) == {
        "_Z1aPf": {"registers": 26, "spills": 12, "stack": 64, "shared": 512},
        "_Z1bPf": {"registers": 8, "spills": 0, "stack": 0, "shared": 0},
    }


def translated(folder: Path, instruction: str) -> subprocess.CompletedProcess[str]:
    """Run the translator on a kernel that has one instruction, in line 6."""
    source = folder / "kernel.ptx"
    source.write_text(
        ".version 9.0\n.visible .entry kernel(\n.param .u64 kernel_param_0\n)\n"
        f"{{ .reg .f32 %f<4>; .reg .b32 %r<4>; .reg .pred %p<2>;\n{instruction}\nret; }}\n"
    )
    command = [sys.executable, TRANSLATE, source, folder / "kernel.cc"]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.mark.parametrize(
    "instruction",
    [
        "add.f32 %f1, %f2, %f3;",  # without .rn ptxas may fuse it with a product
        "fma.rn.ftz.f32 %f1, %f2, %f3, %f1;",
        "ex2.approx.f32 %f1, %f2;",
        "div.full.f32 %f1, %f2, %f3;",
        "mov.u32 %r1, %clock;",
        "bar.sync 1;",
        "@%p1 frobnicate.u32 %r1, %r2;",
    ],
)
def test_unknown_and_inexact_ptx_is_refused(tmp_path: Path, instruction: str) -> None:
    done = translated(tmp_path, instruction)
    assert done.returncode == 1
    assert "kernel.ptx:6: " in done.stderr
    assert instruction.removesuffix(";") in done.stderr


def test_known_ptx_is_translated(tmp_path: Path) -> None:
    done = translated(tmp_path, "fma.rn.f32 %f1, %f2, %f3, 0f3F800000;")
    assert (done.returncode, done.stdout) == (0, "kernel\n"), done.stderr
    assert "r_f1 = __builtin_fmaf(r_f2, r_f3, 0x1.0" in (tmp_path / "kernel.cc").read_text()
