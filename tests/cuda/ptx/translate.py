"""Translates nvcc's PTX to C++ that runs under the emulator: translate.py IN.ptx OUT.cc.

The emulator runs the kernels' source, which shows what the source says; this shows what nvcc made
of it, inline PTX and the branches on __CUDA_ARCH__ included. The C++ defines functions with the
kernels' own mangled names. Linked with the kernels' source, compiled with
-DPYTHIA_RT_WEAK_KERNELS, they replace it, and the same scheduler, checks and tests run them.

    nvcc -std=c++17 -O3 -fmad=false --expt-relaxed-constexpr -arch=compute_80 -ptx -Icsrc IN.cu
    python tests/cuda/ptx/translate.py IN.ptx OUT.cc
    g++ -std=c++17 -O1 -fno-strict-aliasing -ffp-contract=off -march=native -Icsrc \\
        -Itests/native -Itests/cuda/ptx -c OUT.cc

A kernel in an unnamed namespace, or one whose parameters' types have other names for nvcc than for
the emulator, would not be replaced: compare the names that this prints with the weak symbols of
the source's object. ptx_parser.py reads the shape, ptx_program.py writes functions, and
ptx_arithmetic.py, ptx_memory.py and ptx_warp.py know the instructions.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ptx_parser import PtxError, parse
from ptx_program import program


def main(arguments: list[str]) -> int:
    """Translate a file, and print its kernels' names."""
    if len(arguments) != 2:
        sys.stderr.write("usage: translate.py IN.ptx OUT.cc\n")
        return 2
    source, target = map(Path, arguments)
    try:
        module = parse(source.name, source.read_text())
        target.write_text(program(module))
    except (OSError, PtxError) as error:
        sys.stderr.write(f"translate.py: {error}\n")
        return 1
    sys.stdout.writelines(f"{kernel.name}\n" for kernel in module.kernels)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
