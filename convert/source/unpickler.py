"""A pickle reader that cannot execute anything: it knows what tensor files need and no more.

It does not restrict Python's unpickler, it replaces it: `pickletools` splits the bytes into
instructions, and a small stack machine understands those that torch.save emits for a state dict.
Every global is looked up in the table below and refused by name when it is not there; the few that
are there stand for plain data (pytorch/pytorch: torch/_utils.py, torch/serialization.py).
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from ..errors import CheckpointError, quote

STORAGE_DTYPES = {
    "HalfStorage": "F16", "FloatStorage": "F32", "BFloat16Storage": "BF16", "DoubleStorage": "F64",
    "ByteStorage": "U8", "CharStorage": "I8", "BoolStorage": "BOOL", "ShortStorage": "I16",
    "IntStorage": "I32", "LongStorage": "I64",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A run of `count` elements of one dtype; `key` says where the archive keeps its bytes."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor over a storage; `offset` and `strides` are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """Stands for a known function or class; it is never imported, let alone called."""

    module: str
    name: str


class _Mark:
    """The MARK of the pickle stack."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "SHORT_BINBYTES", "BINBYTES",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME"}
_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}


def load(stream: BinaryIO, where: str) -> Any:
    """Return the value of the pickle at the stream's position; leave the stream behind it.

    Tensors come back as `TensorView`, dictionaries as dict, everything else as plain Python data.
    `where` begins the sentences. Raises CheckpointError for any global that tensor files do not
    need (by name), any other instruction, and damaged or truncated pickles. Nothing is executed.
    """
    return _Machine(where).run(stream)


class _Machine:
    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "MARK": lambda _: self.stack.append(_MARK),
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_LIST": lambda _: self.stack.append([]),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "TUPLE": lambda _: self.stack.append(tuple(self.pop_to_mark())),
            "TUPLE1": lambda _: self.stack.append(self.pop_tuple(1)),
            "TUPLE2": lambda _: self.stack.append(self.pop_tuple(2)),
            "TUPLE3": lambda _: self.stack.append(self.pop_tuple(3)),
            "APPEND": lambda _: self.extend([self.pop()]),
            "APPENDS": lambda _: self.extend(self.pop_to_mark()),
            "SETITEM": lambda _: self.update(list(self.pop_tuple(2))),
            "SETITEMS": lambda _: self.update(self.pop_to_mark()),
            "GLOBAL": lambda arg: self.push_global(*str(arg).split(" ", 1)),
            "INST": lambda arg: self.push_global(*str(arg).split(" ", 1)),
            "STACK_GLOBAL": lambda _: self.push_global(*self.pop_tuple(2)),
            "BINPERSID": lambda _: self.stack.append(self.storage(self.pop())),
            "REDUCE": lambda _: self.stack.append(self.reduce(*self.pop_tuple(2))),
            "BUILD": lambda _: self.build(*self.pop_tuple(2)),
        }

    def fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.where} {what}")

    def damaged(self) -> NoReturn:
        self.fail("holds a damaged pickle: fetch the file again")

    def run(self, stream: BinaryIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self.pop()
                self.step(opcode.name, argument)
        except CheckpointError:
            raise
        except Exception:  # pickletools reports damage with half a dozen types of exception
            pass
        return self.damaged()

    def step(self, name: str, argument: Any) -> None:
        if name in self.steps:
            self.steps[name](argument)
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name not in _IGNORED:
            self.fail(
                f"uses the pickle instruction {name}, which tensor files do not need: "
                "nothing was executed, save the weights as safetensors"
            )

    # The stack.

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            self.damaged()
        return value

    def pop_tuple(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(count)]))

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        values.reverse()
        return values

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            self.damaged()
        self.stack[-1].extend(values)

    def update(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or not all(map(_is_key, values[::2])):
            self.fail(
                "holds a dictionary whose keys are not names: it is not a state dict, save "
                "model.state_dict() alone"
            )
        target.update(zip(values[::2], values[1::2], strict=True))

    # What the known globals mean.

    def push_global(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            self.damaged()
        known = (
            (module == "torch" and name in STORAGE_DTYPES)
            or (module == "torch._utils" and name in {"_rebuild_tensor_v2", "_rebuild_parameter"})
            or (module == "collections" and name == "OrderedDict")
        )
        if not known:
            self.fail(
                f"asks for {quote(f'{module}.{name}')}, which tensor files do not need: it was "
                "refused and not executed; save the weights as safetensors if you trust the file"
            )
        self.stack.append(_Global(module, name))

    def storage(self, identity: Any) -> Storage:
        """Turn ("storage", class, key, device, count[, view]) into a Storage."""
        if not isinstance(identity, tuple) or len(identity) not in (5, 6):
            self.damaged()
        kind, cls, key, _device, count = identity[:5]
        if kind != "storage" or not isinstance(cls, _Global) or cls.name not in STORAGE_DTYPES:
            self.damaged()
        if not isinstance(key, str) or not _is_count(count) or identity[5:] not in ((), (None,)):
            self.damaged()
        return Storage(STORAGE_DTYPES[cls.name], key, count)

    def reduce(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            self.damaged()
        if function.name == "OrderedDict" and not arguments:
            return {}
        if function.name == "_rebuild_parameter" and isinstance(arguments[0], TensorView):
            return arguments[0]
        if function.name == "_rebuild_tensor_v2":
            storage, offset, shape, strides = arguments[:4]
            if any(arguments[6:]):  # {"neg": True}: torch negates what it reads
                self.fail("holds a tensor that is stored negated: save it again resolve_neg()")
            numbers = _is_count(offset) and _are_counts(shape) and _are_counts(strides)
            if isinstance(storage, Storage) and numbers and len(strides) == len(shape):
                return TensorView(storage, offset, shape, strides)
        return self.damaged()

    def build(self, target: Any, _state: Any) -> None:
        # A state dict carries version numbers as attributes; no tensor depends on them.
        if not isinstance(target, dict):
            self.damaged()
        self.stack.append(target)


def _is_key(value: Any) -> bool:
    """Whether `value` is a name, or a small number as the state of an optimizer has.

    Hashing nested tuples can take time exponential in the file's size, and large numbers can be
    chosen so that they collide.
    """
    return isinstance(value, str) or (type(value) is int and 0 <= value < 1 << 20)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def _are_counts(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= 8 and all(_is_count(v) for v in value)
