"""Instructions that only compute: integers that wrap, and IEEE floats.

An approximate or contractible instruction is refused: .approx, .full and .ftz are modifiers that
nothing takes, and an addition or product of floats without .rn is one that ptxas may fuse.
"""

from __future__ import annotations

from ptx_work import BITS, CPP, FLOATS, Work, handles, tuple_operand

_INTEGERS = {"s16", "u16", "s32", "u32", "s64", "u64"}
_BITS = {"b16", "b32", "b64"}
_WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_LOGIC = {"and": "&&", "or": "||", "xor": "!="}
_ORDERS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_UNSIGNED_ORDERS = {"lo": "<", "ls": "<=", "hi": ">", "hs": ">="}
_ROUNDINGS = {"rni": "nearbyint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
_PROPERTIES = {"finite": "isfinite", "infinite": "isinf", "notanumber": "isnan"}
_HALVES = {"f16": "half", "bf16": "bfloat"}


def _type(work: Work, allowed: set[str]) -> str:
    found = work.type()
    if found not in allowed:
        raise work.error(f"type .{found} is not supported here")
    return found


def _unsigned(work: Work, index: int, type_: str) -> str:
    """An integer to calculate with so that it wraps: 16 bits would be promoted to int."""
    value = work.value(index, f"u{BITS[type_]}")
    return f"uint32_t({value})" if BITS[type_] < 32 else value


def _rounded_to_nearest(work: Work) -> None:
    if not work.take("rn"):
        raise work.error("not rounded to nearest, or ptxas may contract it")


@handles("add", "sub", "mul")
def _add(work: Work) -> str:
    type_ = _type(work, _INTEGERS | set(FLOATS))
    symbol = _SYMBOLS[work.base]
    if type_ in FLOATS:
        _rounded_to_nearest(work)
        return work.result(f"{work.value(1, type_)} {symbol} {work.value(2, type_)}", type_)
    form = work.need("lo", "hi", "wide") if work.base == "mul" else "lo"
    if form == "wide":
        return work.result(_product(work, type_), _WIDER[type_])
    return work.result(_integer(work, type_, form), type_)


def _integer(work: Work, type_: str, form: str) -> str:
    if form == "hi":
        if BITS[type_] < 32:
            raise work.error()
        return f"ptx::high_product<{CPP[type_]}>({work.values(1, 3, type_)})"
    symbol = _SYMBOLS["mul" if work.base == "mad" else work.base]
    left, right = (_unsigned(work, i, type_) for i in (1, 2))
    return f"{CPP[type_]}({left} {symbol} {right})"


def _product(work: Work, type_: str) -> str:
    if type_ not in _WIDER:
        raise work.error()
    wide = CPP[_WIDER[type_]]
    return f"({wide}({work.value(1, type_)}) * {wide}({work.value(2, type_)}))"


@handles("mad")
def _mad(work: Work) -> str:
    type_ = _type(work, _INTEGERS)
    form = work.need("lo", "hi", "wide")
    if form == "wide":
        product, sum_type = _product(work, type_), _WIDER[type_]
    else:
        product, sum_type = _integer(work, type_, form), type_
    added = f"{CPP[f'u{BITS[sum_type]}']}({product}) + {_unsigned(work, 3, sum_type)}"
    return work.result(f"{CPP[sum_type]}({added})", sum_type)


@handles("fma")
def _fma(work: Work) -> str:
    type_ = _type(work, set(FLOATS))
    _rounded_to_nearest(work)
    function = "__builtin_fmaf" if type_ == "f32" else "__builtin_fma"  # not overloaded
    return work.result(f"{function}({work.values(1, 4, type_)})", type_)


@handles("div", "rem")
def _divide(work: Work) -> str:
    type_ = _type(work, _INTEGERS | set(FLOATS))
    if type_ in FLOATS:
        _rounded_to_nearest(work)
        return work.result(f"{work.value(1, type_)} / {work.value(2, type_)}")
    function = "quotient" if work.base == "div" else "remainder"
    return work.result(f"ptx::{function}({work.values(1, 3, type_)}, {work.site})")


@handles("sqrt", "rcp")
def _root(work: Work) -> str:
    type_ = _type(work, set(FLOATS))
    _rounded_to_nearest(work)
    value = work.value(1, type_)
    return work.result(f"std::sqrt({value})" if work.base == "sqrt" else f"1 / {value}")


@handles("min", "max")
def _extreme(work: Work) -> str:
    type_ = _type(work, _INTEGERS | set(FLOATS))
    name = "minimum" if work.base == "min" else "maximum"
    if type_ in FLOATS and work.take("NaN"):
        name += "_or_nan"
    value = work.value(1, type_)
    for index in range(2, len(work.operands)):
        value = f"ptx::{name}({value}, {work.value(index, type_)})"
    return work.result(value, type_)


@handles("neg", "abs")
def _sign(work: Work) -> str:
    type_ = _type(work, _INTEGERS | set(FLOATS))
    function = "negative" if work.base == "neg" else "magnitude"
    return work.result(f"ptx::{function}({work.value(1, type_)})")


@handles("copysign")
def _copysign(work: Work) -> str:
    type_ = _type(work, set(FLOATS))
    return work.result(f"std::copysign({work.value(2, type_)}, {work.value(1, type_)})")


@handles("testp")
def _property(work: Work) -> str:
    type_ = _type(work, set(FLOATS))
    function = _PROPERTIES[work.need(*_PROPERTIES)]
    return work.result(f"std::{function}({work.value(1, type_)})")


@handles("and", "or", "xor", "not")
def _bitwise(work: Work) -> str:
    type_ = _type(work, _BITS | {"pred"})
    predicate = type_ == "pred"
    if work.base == "not":
        return work.result(f"{'!' if predicate else '~'}{work.value(1, type_)}")
    symbol = (_LOGIC if predicate else _SYMBOLS)[work.base]
    expression = f"({work.value(1, type_)} {symbol} {work.value(2, type_)})"
    return work.result(expression if predicate else f"{CPP[type_]}{expression}", type_)


@handles("shl", "shr")
def _shift(work: Work) -> str:
    type_ = _type(work, _BITS if work.base == "shl" else _BITS | _INTEGERS)
    distance = work.operand(2)
    if distance.isdecimal() and int(distance) < BITS[type_]:
        symbol = "<<" if work.base == "shl" else ">>"
        return work.result(f"{CPP[type_]}({work.value(1, type_)} {symbol} {distance})", type_)
    function = "shift_left" if work.base == "shl" else "shift_right"
    return work.result(f"ptx::{function}({work.value(1, type_)}, {work.value(2, 'u32')})", type_)


@handles("shf")
def _funnel(work: Work) -> str:
    _type(work, {"b32"})
    function = "funnel_left" if work.need("l", "r") == "l" else "funnel_right"
    wraps = "true" if work.need("wrap", "clamp") == "wrap" else "false"
    return work.result(f"ptx::{function}({work.values(1, 4, 'u32')}, {wraps})")


@handles("bfe")
def _extract(work: Work) -> str:
    type_ = _type(work, {"s32", "u32", "s64", "u64"})
    return work.result(f"ptx::extract({work.value(1, type_)}, {work.values(2, 4, 'u32')})")


@handles("bfi")
def _insert(work: Work) -> str:
    type_ = _type(work, {"b32", "b64"})
    return work.result(f"ptx::insert({work.values(1, 3, type_)}, {work.values(3, 5, 'u32')})")


@handles("lop3", "prmt")
def _three(work: Work) -> str:
    _type(work, {"b32"})
    function, end = ("logic", 5) if work.base == "lop3" else ("permute", 4)
    return work.result(f"ptx::{function}({work.values(1, end, 'u32')})")


@handles("popc", "clz", "brev")
def _count(work: Work) -> str:
    type_ = _type(work, {"b32", "b64"})
    function = {"popc": "ones", "clz": "leading_zeros", "brev": "reversed"}[work.base]
    return work.result(f"ptx::{function}({work.value(1, type_)})")


@handles("dp4a")
def _dot(work: Work) -> str:
    right, left = (_type(work, {"s32", "u32"}) for _ in range(2))
    bytes_ = ", ".join("int8_t" if t == "s32" else "uint8_t" for t in (left, right))
    return work.result(f"ptx::dot<{bytes_}>({work.values(1, 4, 'u32')})")


@handles("cvt")
def _convert(work: Work) -> str:
    source, target = work.type(), work.type()
    if target in ("f16x2", "bf16x2") and source == "f32":
        _rounded_to_nearest(work)
        convert = f"{_HALVES[target[:-2]]}_from_float"
        high, low = (f"pythia_rt::{convert}({work.value(i, 'f32')})" for i in (1, 2))
        return work.result(f"uint32_t({low}) | uint32_t({high}) << 16")
    if source in _HALVES and target == "f32":
        return work.result(
            f"pythia_rt::float_from_{_HALVES[source]}({work.value(1, source)})", "f32"
        )
    if target in _HALVES and source == "f32":
        _rounded_to_nearest(work)
        return work.result(f"pythia_rt::{_HALVES[target]}_from_float({work.value(1, source)})")
    if {source, target} & {"f16", "bf16", "f16x2", "bf16x2", "pred"}:
        raise work.error()
    return work.result(_numeric(work, work.value(1, source), source, target), target)


def _numeric(work: Work, value: str, source: str, target: str) -> str:
    """A conversion between integers, f32 and f64."""
    cpp = CPP[target]
    if source in FLOATS:
        rounding = work.take(*_ROUNDINGS)
        if rounding:
            value = f"std::{_ROUNDINGS[rounding]}({value})"
        if target not in FLOATS:
            if not rounding:
                raise work.error("without a rounding to integers")
            return f"ptx::to_integer<{cpp}>({value})"
        if BITS[target] < BITS[source]:
            _rounded_to_nearest(work)
        return f"{cpp}({value})"
    if target in FLOATS:
        _rounded_to_nearest(work)
        return f"{cpp}({value})"
    return f"ptx::saturated<{cpp}>({value})" if work.take("sat") else f"{cpp}({value})"


@handles("setp")
def _compare(work: Work) -> str:
    type_ = _type(work, _INTEGERS | set(FLOATS) | _BITS)
    logic = work.take(*_LOGIC)
    comparison = _comparison(work, type_)
    if logic:
        comparison = f"({comparison} {_LOGIC[logic]} {work.value(3, 'pred')})"
    first, *second = work.operand(0).split("|")
    if not second:
        return work.write(first, comparison, "pred")
    if logic:
        raise work.error()  # the second result combines the negation, which nvcc does not use
    return f"{work.write(first, comparison)} {work.write(second[0], f'!{comparison}')}"


def _comparison(work: Work, type_: str) -> str:
    left, right = work.value(1, type_), work.value(2, type_)
    if type_ in FLOATS:
        if work.take("nan"):
            return f"ptx::unordered({left}, {right})"
        if work.take("num"):
            return f"!ptx::unordered({left}, {right})"
        order = work.need(*_ORDERS, *(f"{name}u" for name in _ORDERS))
        compared = f"({left} {_ORDERS[order[:2]]} {right})"
        if order.endswith("u"):
            return f"(ptx::unordered({left}, {right}) || {compared})"
        # C++'s != is true of unordered numbers, PTX's ne is not.
        return f"(!ptx::unordered({left}, {right}) && {compared})" if order == "ne" else compared
    orders = _ORDERS | (_UNSIGNED_ORDERS if type_.startswith("u") else {})
    return f"({left} {orders[work.need(*orders)]} {right})"


@handles("selp")
def _select(work: Work) -> str:
    type_ = work.type()
    condition = work.value(3, "pred")
    return work.result(f"({condition} ? {work.value(1, type_)} : {work.value(2, type_)})", type_)


@handles("mov")
def _move(work: Work) -> str:
    type_ = work.type()
    target, source = work.operand(0), work.operand(1)
    if target.startswith("{"):
        return _unpack(work, tuple_operand(target), type_)
    if source.startswith("{"):
        parts = tuple_operand(source)
        bits = BITS[type_] // len(parts)
        values = (work.read(part, f"b{bits}") for part in parts)
        cpp = CPP[type_]
        packed = " | ".join(f"{cpp}({cpp}({v}) << {bits * i})" for i, v in enumerate(values))
        return work.result(packed)
    return work.result(work.value(1, type_), type_)


def _unpack(work: Work, targets: tuple[str, ...], type_: str) -> str:
    bits = BITS[type_] // len(targets)
    value = work.value(1, type_)
    # A copy first: a target may be the source's register.
    parts = [work.write(t, f"uint{bits}_t(whole >> {bits * i})") for i, t in enumerate(targets)]
    return f"{{ const auto whole = {value}; {' '.join(parts)} }}"
