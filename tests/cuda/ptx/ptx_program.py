"""Writes a whole PTX file as C++: variables, and kernels as functions of the same mangled names.

A kernel's parameters are passed as C++ passes them. A struct is a blob to PTX; one of more than 16
bytes is passed in memory, whatever it holds, but a smaller one goes into registers of floats or of
integers. There the types that the kernel reads it by decide, and a part that is never read is an
error rather than a guess.
"""

from __future__ import annotations

from collections.abc import Iterator

# Their handlers register themselves.
import ptx_arithmetic  # noqa: F401
import ptx_memory  # noqa: F401
import ptx_warp  # noqa: F401
from ptx_parser import (
    Brace,
    Instruction,
    Kernel,
    Label,
    Module,
    Parameter,
    Registers,
    Targets,
    Variable,
)
from ptx_work import CPP, FLOATS, Scope, register, size, translate_instruction, tuple_operand

_HEAD = """\
// Made by tests/cuda/ptx/translate.py from {file}.
#include "ptx_runtime.h"

#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-label"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

namespace emulator = pythia_rt::cuda::emulator;
"""
_IN_REGISTERS = 16  # bytes; a larger struct is passed in memory


def program(module: Module) -> str:
    """The C++ of a module."""
    scope = Scope(module.file)
    lines = [_HEAD.format(file=module.file)]
    shared = [v for v in module.variables if v.space == "shared"]
    for variable in module.variables:
        if variable.space != "shared":
            lines += _variable(variable, scope, "static ")
    for kernel in module.kernels:
        inner = Scope(module.file, dict(scope.addresses))
        lines += _kernel(kernel, [*shared, *_own(kernel, "shared")], inner)
    return "\n".join([*lines, ""])


def _own(kernel: Kernel, space: str) -> list[Variable]:
    return [s for s in kernel.statements if isinstance(s, Variable) and s.space == space]


def _variable(variable: Variable, scope: Scope, storage: str) -> Iterator[str]:
    """The definition of an array outside shared memory, whose name the scope learns."""
    name = f"v_{variable.name}"
    scope.addresses[variable.name] = f"ptx::address_of({name})"
    cpp, values = CPP.get(variable.type), [_initial(v) for v in variable.values]
    if cpp is None or None in values:
        raise scope.error(variable.line, f"cannot translate the variable {variable.name}")
    start = f" = {{{', '.join(map(str, values))}}}" if values or storage else ""
    if storage and values and variable.type in FLOATS:
        start = f" = {{{', '.join(f'ptx::read<{cpp}>({v})' for v in values)}}}"
    yield f"{storage}alignas({variable.align}) {cpp} {name}[{variable.count}]{start or ''};"


def _initial(value: str) -> str | None:
    """A number as C++; None for the address of something."""
    if value[:2] in ("0f", "0F"):
        return f"0x{value[2:]}u"
    if value[:2] in ("0d", "0D"):
        return f"0x{value[2:]}ull"
    try:
        return str(int(value.rstrip("U"), 0))
    except ValueError:
        return None


def _kernel(kernel: Kernel, shared: list[Variable], scope: Scope) -> Iterator[str]:
    declared = []
    for index, parameter in enumerate(kernel.parameters):
        type_ = _parameter_type(kernel, index, parameter, scope)
        if parameter.bytes:
            yield f"struct {_blob(kernel, index)} {{ {type_} }};"
            type_ = _blob(kernel, index)
        declared.append(f"{type_} argument_{index}")
        scope.addresses[parameter.name] = f"ptx::address_of(argument_{index})"
    used = [v for v in shared if _mentions(kernel, v.name)]
    for index, variable in enumerate(used):
        scope.addresses[variable.name] = f"shared.address({index})"
    for statement in kernel.statements:
        if isinstance(statement, Targets):
            scope.targets[statement.name] = statement.labels
    yield f'extern "C" void {kernel.name}({", ".join(declared)}) {{'
    if used:
        arrays = ", ".join(
            f'{{"{v.name}", {v.count * size(v.type)}, {max(v.align, 16)}}}' for v in used
        )
        yield f"static constexpr ptx::SharedArray arrays[] = {{{arrays}}};"
        yield "const ptx::Shared shared(arrays);"
    yield from _body(kernel, scope)
    yield "}"


def _mentions(kernel: Kernel, name: str) -> bool:
    return any(
        name in statement.text
        for statement in kernel.statements
        if isinstance(statement, Instruction)
    )


def _body(kernel: Kernel, scope: Scope) -> Iterator[str]:
    for statement in kernel.statements:
        if isinstance(statement, Instruction):
            yield translate_instruction(statement, scope)
        elif isinstance(statement, Label):
            yield f"{statement.name}:;"
        elif isinstance(statement, Brace):
            yield statement.character
        elif isinstance(statement, Registers):
            if statement.type not in CPP:
                raise scope.error(kernel.line, f"registers of unknown type .{statement.type}")
            scope.registers.update(dict.fromkeys(statement.names, statement.type))
            yield f"{CPP[statement.type]} {', '.join(map(register, statement.names))};"
        elif isinstance(statement, Variable) and statement.space == "local":
            yield from _variable(statement, scope, "")


def _blob(kernel: Kernel, index: int) -> str:
    return f"Blob_{kernel.name}_{index}"


def _parameter_type(kernel: Kernel, index: int, parameter: Parameter, scope: Scope) -> str:
    """A number's type, or the members of a struct."""
    if not parameter.bytes:
        return CPP[parameter.type]
    align = f"alignas({parameter.align})"
    if parameter.bytes > _IN_REGISTERS:
        return f"{align} unsigned char bytes[{parameter.bytes}];"
    members = []
    for begin in range(0, parameter.bytes, 8):
        end = min(begin + 8, parameter.bytes)
        read = _types_read(kernel, parameter.name, begin, end)
        if not read:
            where = f"parameter {index} of {kernel.name}, bytes {begin} to {end}"
            raise scope.error(kernel.line, f"passed in an unknown kind of register: {where}")
        floats = read <= set(FLOATS)
        whole = f"float part{begin}[{(end - begin) // 4}]"
        members.append(whole if floats else f"unsigned char part{begin}[{end - begin}]")
    return f"{align} {'; '.join(members)};"


def _types_read(kernel: Kernel, name: str, begin: int, end: int) -> set[str]:
    """The types by which a kernel reads bytes of a parameter; "" where through a pointer."""
    found = set()
    for statement in kernel.statements:
        if not isinstance(statement, Instruction) or name not in statement.text:
            continue
        parts = statement.name.split(".")
        if parts[:2] != ["ld", "param"] or len(statement.operands) != 2:
            found.add("")
            continue
        offset = int(statement.operands[1].strip("[] ").removeprefix(name).strip("+ ") or 0)
        bytes_ = size(parts[-1]) * len(tuple_operand(statement.operands[0]))
        if offset < end and offset + bytes_ > begin:
            found.add(parts[-1])
    return found
