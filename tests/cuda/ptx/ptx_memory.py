"""Instructions that read and write memory.

Addresses of global, local, constant and parameter memory are the host's; those of shared memory
count from the block's first array, as 32 bits, and are checked against the kernel's arrays.
"""

from __future__ import annotations

from ptx_work import CPP, Work, handles, tuple_operand

_SPACES = ("global", "shared", "shared::cta", "local", "const", "param")
# How strongly an access is ordered and where it is cached.
_HINTS = (
    "weak", "relaxed", "acquire", "release", "acq_rel", "volatile", "cta", "cluster", "gpu", "sys",
    "ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc",
    "L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
    "L1::no_allocate", "L2::evict_first", "L2::evict_last", "L2::evict_normal",
    "L2::64B", "L2::128B", "L2::256B",
)  # fmt: skip


def _place(work: Work, index: int, space: str, type_: str) -> str:
    """A checked pointer to C++ values of a type, which is as aligned as it is large."""
    base, offset = work.address(index)
    if space.startswith("shared"):
        return f"shared.at<{type_}>({base}, {offset}, {work.site})"
    return f"ptx::at<{type_}>({base}, {offset}, {work.site})"


@handles("ld", "st")
def _access(work: Work) -> str:
    work.drop(*_HINTS)
    type_ = work.type()
    space = work.take(*_SPACES)
    vector = work.take("v2", "v4", "v8")
    count = int(vector[1:]) if vector else 1
    cpp = f"ptx::Vector<{CPP[type_]}, {count}>" if vector else CPP[type_]
    loads = work.base == "ld"
    place = _place(work, 1 if loads else 0, space, cpp)
    registers = tuple_operand(work.operand(0 if loads else 1))
    if len(registers) != count:
        raise work.error()
    if loads and not vector:
        return work.result(f"*{place}", type_)
    if loads:
        parts = (work.write(name, f"loaded.of[{i}]", type_) for i, name in enumerate(registers))
        return f"{{ const auto loaded = *{place}; {' '.join(parts)} }}"
    values = ", ".join(work.read(name, type_) for name in registers)
    return f"*{place} = {cpp}{{{{{values}}}}};" if vector else f"*{place} = {values};"


@handles("cvta")
def _convert_address(work: Work) -> str:
    type_ = work.type()
    to_space = work.take("to")
    space = work.need(*_SPACES)
    value = work.value(1, type_)
    if space.startswith("shared"):
        value = f"shared.{'from_generic' if to_space else 'to_generic'}({value})"
    return work.result(value)


@handles("cp")
def _copy(work: Work) -> str:
    work.need("async")
    if work.take("commit_group"):
        return "emulator::commit_copies();"
    if work.take("wait_all"):
        return "emulator::commit_copies(); ptx::wait_for_copies(0);"
    if work.take("wait_group"):
        return f"ptx::wait_for_copies({work.value(0, 's32')});"
    work.drop(*_HINTS)
    work.need("shared", "shared::cta")
    work.need("global")
    if work.operands[2:] != ("16",):
        raise work.error()
    target = _place(work, 0, "shared", "ptx::Bytes16")
    source = _place(work, 1, "global", "const ptx::Bytes16")
    return f"ptx::begin_copy({target}, {source}, {work.site});"


@handles("prefetch")
def _prefetch(work: Work) -> str:
    work.drop("L1", "L2", *_SPACES, *_HINTS)
    return ";"
