"""What translating one instruction needs: its modifiers, its operands as C++, and who handles it.

A handler takes every modifier that it understands; one that is left over is an error, so nothing
is dropped in silence. Registers hold bits: an operand is read as the instruction's type, whatever
the register was declared as, and a result is written with the register's width.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from ptx_parser import Instruction, PtxError, split_operands

# PTX types as C++, and their bits.
CPP = {
    "pred": "bool",
    **dict.fromkeys(("b8", "u8"), "uint8_t"),
    "s8": "int8_t",
    **dict.fromkeys(("b16", "u16", "f16", "bf16"), "uint16_t"),
    "s16": "int16_t",
    **dict.fromkeys(("b32", "u32", "f16x2", "bf16x2"), "uint32_t"),
    "s32": "int32_t",
    **dict.fromkeys(("b64", "u64"), "uint64_t"),
    "s64": "int64_t",
    "f32": "float",
    "f64": "double",
}
BITS = {
    name: int(re.sub(r"\D", "", name.replace("x2", ""))) * (2 if name.endswith("x2") else 1)
    for name in CPP
    if name != "pred"
}
FLOATS = ("f32", "f64")
NOT_SUPPORTED = "cannot translate"

_SPECIAL = {
    "tid": "thread_index",
    "ntid": "block_size",
    "ctaid": "block_index",
    "nctaid": "grid_size",
}
_SPECIAL_REGISTER = re.compile(r"%(tid|ntid|ctaid|nctaid)\.([xyz])$")
_CONSTANTS = {"%laneid": "ptx::lane()", "WARP_SZ": "32"}
_NUMBER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)U?$")
_FLOAT_BITS = re.compile(r"0(?:[fF][0-9a-fA-F]{8}|[dD][0-9a-fA-F]{16})$")
_ADDRESS = re.compile(r"\[\s*(%?[A-Za-z_$][\w$]*)\s*(?:\+\s*(-?\w+))?\s*\]$")


def register(name: str) -> str:
    """A register as a C++ variable; those of inline PTX have no "%"."""
    return f"r_{name[1:]}" if name.startswith("%") else f"n_{name}"


def size(type_: str) -> int:
    """Bytes of a value."""
    return BITS[type_] // 8


def are_plain(source: str, target: str) -> bool:
    """Whether C++'s conversion is PTX's: the same type, or integers. It compiles much faster."""
    return CPP[source] == CPP[target] or not {source, target} & {*FLOATS, "pred"}


def tuple_operand(operand: str) -> tuple[str, ...]:
    """What stands in braces, or the operand alone."""
    return split_operands(operand[1:-1]) if operand.startswith("{") else (operand,)


def _integer(text: str) -> str:
    value = int(text.rstrip("U"), 0)
    return f"{value}u" if 0 <= value < 1 << 31 else f"{value & (1 << 64) - 1}ull"


def _float(text: str, type_: str) -> str:
    """A float that is given by its bits, as C++ of a type of the same size."""
    single = text[1] in "fF"
    bits = int(text[2:], 16)
    value: float = struct.unpack(
        *(("f", struct.pack("I", bits)) if single else ("d", struct.pack("Q", bits)))
    )[0]
    if type_ == ("f32" if single else "f64") and math.isfinite(value):
        return f"{value.hex()}{'f' if single else ''}"
    return f"ptx::read<{CPP[type_]}>({bits}{'u' if single else 'ull'})"


@dataclass
class Scope:
    """Names that are no registers, of one kernel."""

    file: str
    addresses: dict[str, str] = field(default_factory=dict)  # name -> C++ of its address
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # of indexed branches
    registers: dict[str, str] = field(default_factory=dict)  # name -> PTX type

    def error(self, line: int, why: str) -> PtxError:
        """An error at a line."""
        return PtxError(f"{self.file}:{line}: {why}")

    def value(self, operand: str, type_: str) -> str | None:
        """An operand as C++ of the type; None if it is no operand."""
        if operand.startswith("!"):
            inner = self.value(operand[1:], type_)
            return None if inner is None else f"!{inner}"
        cpp = CPP[type_]
        special = _SPECIAL_REGISTER.match(operand)
        plain = True
        if special is not None:
            source = f"ptx::{_SPECIAL[special[1]]}().{special[2]}"
        elif operand in _CONSTANTS:
            source = _CONSTANTS[operand]
        elif _FLOAT_BITS.match(operand):
            return _float(operand, type_)
        elif _NUMBER.match(operand):
            source = _integer(operand)
        elif operand in self.addresses:
            source = self.addresses[operand]
        elif operand in self.registers:
            source = register(operand)
            plain = are_plain(self.registers[operand], type_)
            if CPP[self.registers[operand]] == cpp:
                return source
        else:
            return None
        if plain and type_ not in FLOATS:
            return f"{cpp}({source})"
        return f"ptx::read<{cpp}>({source})"


class Work:
    """One instruction while it is translated."""

    def __init__(self, instruction: Instruction, scope: Scope) -> None:
        self.instruction = instruction
        self.scope = scope
        self.operands = instruction.operands
        self.base, *self.modifiers = instruction.name.split(".")
        self.site = f'"{scope.file}:{instruction.line}"'

    def error(self, why: str = NOT_SUPPORTED) -> PtxError:
        """An error about this instruction."""
        return self.scope.error(self.instruction.line, f"{why}: {self.instruction.text}")

    def take(self, *names: str) -> str:
        """The first modifier among `names`, which is used up; "" if there is none."""
        for name in self.modifiers:
            if name in names:
                self.modifiers.remove(name)
                return name
        return ""

    def need(self, *names: str) -> str:
        """The modifier among `names`, which must be there."""
        found = self.take(*names)
        if not found:
            raise self.error(f"without .{' or .'.join(names)}")
        return found

    def drop(self, *names: str) -> None:
        """Use up all of `names`, which change no result here."""
        self.modifiers = [name for name in self.modifiers if name not in names]

    def type(self) -> str:
        """The last modifier, which is used up, as a type."""
        if not self.modifiers or self.modifiers[-1] not in CPP:
            raise self.error("without a known type")
        return self.modifiers.pop()

    def operand(self, index: int) -> str:
        """An operand as it is written."""
        if index >= len(self.operands):
            raise self.error("too few operands")
        return self.operands[index]

    def read(self, operand: str, type_: str) -> str:
        """An operand as C++ of the type."""
        value = self.scope.value(operand, type_)
        if value is None:
            raise self.error(f"unknown operand {operand}")
        return value

    def value(self, index: int, type_: str) -> str:
        """The operand at an index as C++ of the type."""
        return self.read(self.operand(index), type_)

    def values(self, begin: int, end: int, type_: str) -> str:
        """Operands as C++ arguments."""
        return ", ".join(self.value(index, type_) for index in range(begin, end))

    def write(self, name: str, expression: str, type_: str = "") -> str:
        """A statement that puts a value into a register, or, with "_", nowhere.

        Where the value's type is given, C++'s own assignment may do.
        """
        if name == "_":
            return f"(void)({expression});"
        if name not in self.scope.registers:
            raise self.error(f"unknown register {name}")
        if type_ and are_plain(type_, self.scope.registers[name]):
            return f"{register(name)} = {expression};"
        return f"ptx::write({register(name)}, {expression});"

    def result(self, expression: str, type_: str = "") -> str:
        """A statement that puts a value into the first operand."""
        return self.write(self.operand(0), expression, type_)

    def address(self, index: int) -> tuple[str, str]:
        """Base, as C++ of any integer type, and offset of an operand in brackets."""
        found = _ADDRESS.match(self.operand(index))
        if found is None:
            raise self.error(f"unknown address {self.operand(index)}")
        if found[1] not in self.scope.addresses and found[1] not in self.scope.registers:
            raise self.error(f"unknown address {self.operand(index)}")
        return self.scope.addresses.get(found[1], register(found[1])), found[2] or "0"


Handler = Callable[[Work], str]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a function for the instructions of these base names."""

    def add(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return add


def translate_instruction(instruction: Instruction, scope: Scope) -> str:
    """One instruction as C++ statements."""
    work = Work(instruction, scope)
    handler = HANDLERS.get(work.base)
    if handler is None:
        raise work.error()
    code = handler(work)
    if work.modifiers:
        raise work.error(f"unknown modifier .{work.modifiers[0]}")
    if not instruction.guard:
        return code
    negated = instruction.guard.startswith("!")
    condition = f"{'!' if negated else ''}{register(instruction.guard.lstrip('!'))}"
    return f"if ({condition}) {{ {code} }}"
