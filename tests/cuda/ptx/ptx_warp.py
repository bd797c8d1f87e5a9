"""Instructions that choose where to go on, or that threads execute together."""

from __future__ import annotations

from ptx_work import CPP, Work, handles, tuple_operand

_SHUFFLES = {
    "idx": "shuffle",
    "up": "shuffle_up",
    "down": "shuffle_down",
    "bfly": "shuffle_xor",
}
_REDUCTIONS = ("add", "min", "max")


@handles("ret", "exit")
def _return(work: Work) -> str:
    work.drop("uni")
    return "return;"


@handles("trap")
def _trap(work: Work) -> str:
    return f'emulator::fail("trap", {work.site});'


@handles("bra")
def _branch(work: Work) -> str:
    work.drop("uni")
    return f"goto {work.operand(0)};"


@handles("brx")
def _indexed_branch(work: Work) -> str:
    work.drop("uni")
    work.need("idx")
    labels = work.scope.targets.get(work.operand(1))
    if labels is None:
        raise work.error("unknown list of targets")
    cases = " ".join(f"case {index}: goto {label};" for index, label in enumerate(labels))
    outside = f'emulator::fail("branch index out of bounds", {work.site});'
    return f"switch ({work.value(0, 'u32')}) {{ {cases} default: {outside} }}"


@handles("bar", "barrier")
def _barrier(work: Work) -> str:
    if work.take("warp"):
        work.need("sync")
        return f"{_gather(work, 'sync', work.value(0, 'u32'), '0')};"
    work.drop("cta", "aligned")
    work.need("sync")
    if work.operands != ("0",):
        raise work.error("a barrier other than the whole block's is not supported")
    return f"ptx::sync_block({work.site});"


@handles("membar", "fence")
def _fence(work: Work) -> str:
    work.drop("sc", "acq_rel", "cta", "cluster", "gpu", "sys", "gl")
    return "emulator::fence();"


def _gather(work: Work, purpose: str, mask: str, value: str) -> str:
    return f"ptx::gather(ptx::Collective::{purpose}, {mask}, {value}, {work.site})"


@handles("shfl")
def _shuffle(work: Work) -> str:
    work.need("sync")
    work.need("b32")
    kind = _SHUFFLES[work.need(*_SHUFFLES)]
    value, mask = work.value(1, "u32"), work.value(4, "u32")
    target, *in_range = work.operand(0).split("|")
    arguments = f"{mask}, {value}, {work.value(2, 's32')}, {work.value(3, 'u32')}, {work.site}"
    shuffled = f"ptx::shuffle(ptx::Collective::{kind}, {arguments})"
    code = work.write(target, "shuffled.value", "u32")
    if in_range:
        code += f" {work.write(in_range[0], 'shuffled.in_range')}"
    return f"{{ const auto shuffled = {shuffled}; {code} }}"


@handles("vote")
def _vote(work: Work) -> str:
    work.need("sync")
    work.need("b32", "pred")
    kind = work.need("ballot", "any", "all")
    mask = work.value(2, "u32")
    ballot = _gather(work, "ballot", mask, work.value(1, "pred"))
    return work.result({"any": f"{ballot} != 0", "all": f"{ballot} == {mask}"}.get(kind, ballot))


@handles("redux")
def _reduce(work: Work) -> str:
    work.need("sync")
    type_ = work.type()
    if type_ != "s32":
        raise work.error()
    kind = work.need(*_REDUCTIONS)
    mask, value = work.value(2, "u32"), work.value(1, "u32")
    return work.result(_gather(work, f"reduce_{kind}", mask, value))


@handles("mma")
def _multiply(work: Work) -> str:
    """Products of 8-bit integers, in the shapes of Ampere and later and of Turing."""
    work.need("sync")
    work.need("aligned")
    work.need("row")
    work.need("col")
    shape = work.need("m16n8k32", "m8n8k16")
    if [work.type() for _ in range(4)] != ["s32", "s8", "s8", "s32"]:
        raise work.error()
    d, a, b, c = (tuple_operand(work.operand(i)) for i in range(4))
    counts = (4, 4, 2, 4) if shape == "m16n8k32" else (2, 1, 1, 2)
    if tuple(map(len, (d, a, b, c))) != counts:
        raise work.error("fragments of another size")
    lists = ((d, "s32", "d", c), (a, "u32", "a", a), (b, "u32", "b", b))
    declared = " ".join(
        f"{'' if name == 'd' else 'const '}{CPP[type_]} {name}[{len(registers)}] = "
        f"{{{', '.join(work.read(v, type_) for v in values)}}};"
        for registers, type_, name, values in lists
    )
    multiplied = f"ptx::multiply(ptx::Collective::mma_{shape}, a, b, d, {work.site});"
    results = " ".join(work.write(name, f"d[{i}]", "s32") for i, name in enumerate(d))
    return f"{{ {declared} {multiplied} {results} }}"
