"""How many warps of a kernel a multiprocessor holds at once, by NVIDIA's rules of allocation."""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
REGISTERS = 1 << 16  # of a multiprocessor
REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
SCHEDULERS = 4  # each with a quarter of the registers, for whole warps
SHARED_UNIT = 128  # bytes; shared memory is given to a block in multiples of this


@dataclass(frozen=True)
class Multiprocessor:
    """What one has, from the CUDA C++ programming guide's table by compute capability."""

    warps: int
    blocks: int
    shared_kib: int
    reserved: int = 1024  # bytes of shared memory of each block that are the system's


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64, reserved=0),
    80: Multiprocessor(64, 32, 164),
    86: Multiprocessor(48, 16, 100),
    87: Multiprocessor(48, 16, 164),
    89: Multiprocessor(48, 24, 100),
    90: Multiprocessor(64, 32, 228),
    100: Multiprocessor(64, 32, 228),
    103: Multiprocessor(64, 32, 228),
    120: Multiprocessor(48, 24, 100),
}


@dataclass(frozen=True)
class Occupancy:
    """Of a kernel: resident warps by possible ones, and what keeps it from more."""

    percent: int
    limit: str  # "warps", "blocks", "registers" or "shared"


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> Occupancy:
    """Of blocks with `threads` threads, registers of a thread and bytes of shared memory."""
    machine = MULTIPROCESSORS[architecture]
    warps = -(-threads // WARP)
    registers_of_warp = _up(max(registers, 1) * WARP, REGISTER_UNIT)
    warps_by_registers = REGISTERS // SCHEDULERS // registers_of_warp * SCHEDULERS
    bytes_of_block = _up(shared + machine.reserved, SHARED_UNIT)
    blocks = {
        "warps": machine.warps // warps,
        "blocks": machine.blocks,
        "registers": warps_by_registers // warps,
        "shared": (machine.shared_kib << 10) // bytes_of_block
        if bytes_of_block
        else machine.blocks,
    }
    limit = min(blocks, key=lambda name: blocks[name])
    return Occupancy(round(100 * blocks[limit] * warps / machine.warps), limit)
