"""Reads PTX, as nvcc writes it, into kernels, variables and statements.

Only the shape is read here: what an instruction's name and operands mean is for ptx_work.py and the
modules after it. Every statement keeps its line, for messages and for the sites that the emulator
reports.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_VARIABLE = re.compile(
    r"\.(?P<space>global|const|shared|local)\s+(?:\.align\s+(?P<align>\d+)\s+)?"
    r"\.(?P<type>\w+)\s+(?P<name>[\w$]+)(?:\[(?P<count>\d*)\])?(?:\s*=\s*(?P<values>[^;]+))?$"
)
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(?P<align>\d+)\s+)?\.(?P<type>\w+)\s+"
    r"(?:\.ptr(?:\s+\.(?:global|const|shared|local))?(?:\s+\.align\s+\d+)?\s+)?"
    r"(?P<name>[\w$]+)(?:\[(?P<bytes>\d+)\])?$"
)
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
_INSTRUCTION = re.compile(r"(?:@(!?)(%?[\w$]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.S)
_LABEL = re.compile(r"([\w$]+):(?!:)")
_REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(.*)$", re.S)
_RANGE = re.compile(r"(%?[\w$]+)<(\d+)>$")


class PtxError(Exception):
    """What cannot be translated: a sentence that names the file and the line."""


@dataclass(frozen=True)
class Parameter:
    """A kernel's parameter: a number, or a struct of `bytes` bytes where that is not 0."""

    name: str
    type: str
    bytes: int
    align: int


@dataclass(frozen=True)
class Variable:
    """An array (or, with count 1, a scalar) in a memory space."""

    line: int
    space: str
    align: int
    type: str
    name: str
    count: int
    values: tuple[str, ...]


@dataclass(frozen=True)
class Registers:
    """Registers of one type that are declared together."""

    type: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """A place to jump to."""

    name: str


@dataclass(frozen=True)
class Brace:
    """The begin or the end of a block."""

    character: str


@dataclass(frozen=True)
class Targets:
    """The list of labels that an indexed branch chooses from."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Instruction:
    """One instruction; `guard` is the C++ condition's register, with "!" where it is negated."""

    line: int
    guard: str
    name: str
    operands: tuple[str, ...]
    text: str


Statement = Variable | Registers | Label | Brace | Targets | Instruction


@dataclass(frozen=True)
class Kernel:
    """A kernel with its statements in order."""

    line: int
    name: str
    parameters: tuple[Parameter, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True)
class Module:
    """A PTX file."""

    file: str
    variables: tuple[Variable, ...]
    kernels: tuple[Kernel, ...]


def split_operands(text: str) -> tuple[str, ...]:
    """Split at the commas outside braces and brackets."""
    parts, depth, current = [], 0, ""
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        if character == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += character
    if current.strip():
        parts.append(current.strip())
    return tuple(parts)


def parse(file: str, text: str) -> Module:
    """Read a whole file's text; `file` is the name that messages give it."""
    return _Parser(file, text).module()


def _without_comments(text: str) -> str:
    blank = re.sub(r"/\*.*?\*/", lambda found: "\n" * found[0].count("\n"), text, flags=re.S)
    return re.sub(r"//[^\n]*", "", blank)


class _Parser:
    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = _without_comments(text)

    def module(self) -> Module:
        kernels, outside, end = [], "", 0
        for found in _ENTRY.finditer(self.text):
            outside += self.text[end : found.start()]
            end = self._end_of_block(found.end())
            kernels.append(self._kernel(found, self.text[found.end() : end - 1]))
            outside += ";" + "\n" * self.text.count("\n", found.start(), end)
        return Module(self.file, self._variables(outside + self.text[end:]), tuple(kernels))

    def error(self, line: int, why: str) -> PtxError:
        return PtxError(f"{self.file}:{line}: {why}")

    def _end_of_block(self, begin: int) -> int:
        depth, position = 1, begin
        while depth:
            depth += {"{": 1, "}": -1}.get(self.text[position], 0)
            position += 1
        return position

    def _variables(self, text: str) -> tuple[Variable, ...]:
        variables, line = [], 1
        for piece in text.split(";"):
            here = line + piece.count("\n")
            line = here
            if ".func" in piece:
                raise self.error(here, "functions that nvcc did not inline are not supported")
            statement = re.search(r"\.(?:global|const|shared)\s.*$", " ".join(piece.split()))
            if statement and ".extern" in piece:
                raise self.error(here, "dynamic shared memory is not supported")
            if statement:
                variables.append(self._variable(statement.group(), here))
        return tuple(variables)

    def _variable(self, statement: str, line: int) -> Variable:
        found = _VARIABLE.match(statement)
        if found is None or found["count"] == "":
            raise self.error(line, f"unknown declaration: {statement}")
        values = split_operands((found["values"] or "").strip(" {}"))
        align = int(found["align"] or 1)
        count = int(found["count"] or 1)
        return Variable(line, found["space"], align, found["type"], found["name"], count, values)

    def _kernel(self, found: re.Match[str], body: str) -> Kernel:
        line = self.text.count("\n", 0, found.start()) + 1
        parameters = tuple(self._parameter(p, line) for p in split_operands(found[2]))
        body_line = self.text.count("\n", 0, found.end()) + 1
        return Kernel(line, found[1], parameters, tuple(self._statements(body, body_line)))

    def _parameter(self, text: str, line: int) -> Parameter:
        found = _PARAMETER.match(" ".join(text.split()))
        if found is None:
            raise self.error(line, f"unknown parameter: {text}")
        bytes_ = int(found["bytes"] or 0)
        return Parameter(found["name"], found["type"], bytes_, int(found["align"] or 1))

    def _statements(self, body: str, line: int) -> list[Statement]:
        statements: list[Statement] = []
        position = 0
        targets_of = ""  # the label before .branchtargets
        while position < len(body):
            character = body[position]
            if character in "{}":
                statements.append(Brace(character))
            label = _LABEL.match(body, position)
            if label is not None:
                statements.append(Label(label[1]))
                targets_of = label[1]
                position = label.end()
                continue
            if character.isspace() or character in "{};":
                line += character == "\n"
                position += 1
                continue
            end = body.index(";", position)
            text = body[position:end]
            statements += self._statement(" ".join(text.split()), line, targets_of)
            line += text.count("\n")
            position = end + 1
        return statements

    def _statement(self, text: str, line: int, label: str) -> list[Statement]:
        if text.startswith((".pragma", ".loc ", ".file ")):
            return []
        if text.startswith(".branchtargets"):
            return [Targets(label, split_operands(text.removeprefix(".branchtargets")))]
        registers = _REGISTERS.match(text)
        if registers is not None:
            return [Registers(registers[1], _register_names(registers[2]))]
        if text.startswith((".shared", ".local")):
            return [self._variable(text, line)]
        found = _INSTRUCTION.match(text)
        if found is None:
            raise self.error(line, f"cannot translate: {text}")
        guard = f"{found[1] or ''}{found[2] or ''}"
        return [Instruction(line, guard, found[3], split_operands(found[4]), text)]


def _register_names(text: str) -> tuple[str, ...]:
    names: list[str] = []
    for piece in split_operands(text):
        several = _RANGE.match(piece)
        if several is None:
            names.append(piece)
        else:
            names += [f"{several[1]}{index}" for index in range(int(several[2]))]
    return tuple(names)
