"""Classify a loop's x86-64 instructions: packed or scalar, how wide, fused, gathering.

Pure: instructions in, counts out. The names follow the Intel manual: `ps` is packed single, `sd` scalar double; an
integer instruction ends in the size of its elements (b, w, d, q).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tailcut.kernels.machine_code import Instruction

_REGISTER = re.compile(r"%([xyz])mm\d+")
_WIDTH = {"x": 128, "y": 256, "z": 512}
_FLOAT_BITS = {"s": 32, "d": 64, "h": 16}
_INTEGER_BITS = {"b": 8, "w": 16, "d": 32, "q": 64}
_SCALAR = re.compile(r"(?:.*s[sdh]|cvtt?s[sdh]2u?si[lq]?|.*s[sdh]2s[sdh]|u?comis[sdh])\Z")
_ELEMENT_MOVE = re.compile(r"(?:pinsr[bwdq]|pextr[bwdq]|extractps|insertps|mov[dq]|movw)\Z")  # one element in or out
_FLOAT = re.compile(r"p([sdh])(?=2|\Z)")  # a conversion names two
_TRUNCATE = re.compile(r"pmovu?s?([wdq])[bwd]\Z")
_MOVE = re.compile(
    r"(?:mov|pmov[^sz]|lddqu|broadcast|pbroadcast|shuf|pshuf|unpck|punpck|perm|pack|palignr|valign|alignr|align|blend|pblend"
    r"|insert|extract|compress|expand|pcompress|pexpand|gather|pgather|scatter|pscatter|and|or|xor|pand|por|pxor|pternlog)"
)
_CONVERSION = re.compile(r"(cvtt?)s([sdh])(?=2[ps][sdh]\Z)")  # of one float: cvtss2sd
_FUSED = re.compile(r"fn?m(?:add|sub)")
_COPY = re.compile(r"(?:[0-9a-f]+ <)?mem(?:set|cpy|move)\b")
_GATHER, _SCATTER = re.compile(r"p?gather"), re.compile(r"p?scatter")


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts over one loop. `lanes` are the elements that one instruction of its arithmetic handles; 1 is scalar."""

    packed: int
    scalar: int
    other: int  # addresses, counters, jumps: general registers
    fma: int
    gathers: int
    scatters: int
    calls: int
    copies: int  # calls of memset, memcpy, memmove
    widens: int  # float32 to float64
    width_bits: int
    element_bits: int  # 0 where no instruction names it
    computes: str  # "float", "int", or "" for a loop that only moves

    @property
    def lanes(self) -> int:
        """Elements that a packed instruction handles; pure copies are counted in float32."""
        return self.width_bits // (self.element_bits or 32) if self.vectorized else 1

    @property
    def vectorized(self) -> bool:
        """Whether vectors do the work; a few packed instructions in scalar code (an abs, a negation) do not count."""
        return self.packed > self.scalar


def tally(body: Sequence[Instruction]) -> Tally:
    """Count a loop's instructions."""
    names = [_bare(instruction.name) for instruction in body]
    kinds = [_kind(name, instruction.operands) for name, instruction in zip(names, body, strict=True)]
    packed = [
        (name, instruction) for name, instruction, kind in zip(names, body, kinds, strict=True) if kind == "packed"
    ]
    vector = {"packed", "scalar"}
    used = [name for name, kind in zip(names, kinds, strict=True) if kind in vector]
    copies = sum(
        instruction.name.startswith("call") and bool(_COPY.match(instruction.operands)) for instruction in body
    )
    computes, width_bits, element_bits = _shape(packed)
    return Tally(
        packed=len(packed),
        scalar=kinds.count("scalar"),
        other=kinds.count("other"),
        fma=sum(bool(_FUSED.match(name)) for name in used),
        gathers=sum(bool(_GATHER.match(name)) for name in used),
        scatters=sum(bool(_SCATTER.match(name)) for name in used),
        calls=sum(instruction.name.startswith("call") for instruction in body) - copies,
        copies=copies,
        widens=sum(name in {"cvtps2pd", "cvtss2sd"} for name in used),
        width_bits=width_bits,
        element_bits=element_bits,
        computes=computes,
    )


def operations(body: Sequence[Instruction]) -> frozenset[str]:
    """The operations of a loop, vectorised or not: `mul`, `add`, `fmadd`; moves and address arithmetic are left out."""
    result = set()
    for instruction in body:
        name = _bare(instruction.name)
        if _kind(name, instruction.operands) in {"packed", "scalar"} and not (
            _MOVE.match(name) or _ELEMENT_MOVE.match(name)
        ):
            name = _CONVERSION.sub(r"\1p\2", name)
            result.add(re.sub(r"(?:\d{3})?[ps][sdh]\Z|[bwdq]\Z", "", name))
    return frozenset(result)


def _bare(name: str) -> str:
    return name.removeprefix("v")


def _kind(name: str, operands: str) -> str:
    """Whether an instruction is packed, scalar, or neither; register copies and clearing a register are `idle`."""
    registers = [match[0] for match in _REGISTER.finditer(operands)]
    if not registers:
        return "other"
    if _ELEMENT_MOVE.match(name) or (_SCALAR.match(name) and not name.startswith("broadcast")):
        return "scalar"
    copies = name.startswith("mov") and len(registers) == 2 and "(" not in operands and "{" not in operands
    clears = "xor" in name and len(set(registers)) == 1 and "(" not in operands
    return "idle" if copies or clears else "packed"


def _shape(packed: Sequence[tuple[str, Instruction]]) -> tuple[str, int, int]:
    """What a loop computes with, its width and element: of its float, else its integer arithmetic, else its moves."""
    floats: Counter[tuple[int, int]] = Counter()
    integers: Counter[tuple[int, int]] = Counter()
    moves: Counter[tuple[int, int]] = Counter()
    for name, instruction in packed:
        width = max(_WIDTH[match[1]] for match in _REGISTER.finditer(instruction.operands))
        bits, is_float = _element(name)
        shapes = moves if _MOVE.match(name) else floats if is_float else integers
        shapes[width, bits] += 1
    for computes, shapes in (("float", floats), ("int", integers), ("", moves)):
        if shapes:
            return (computes, *max(shapes, key=lambda shape: (shapes[shape], shape)))
    return "", 0, 0


def _element(name: str) -> tuple[int, bool]:
    """Bits of an instruction's elements (0: it names none), and whether they are floats."""
    if sizes := _FLOAT.findall(name):
        return max(_FLOAT_BITS[size] for size in sizes), True
    if match := _TRUNCATE.match(name):
        return _INTEGER_BITS[match[1]], False
    if name.startswith("p") or name.endswith(("32", "64")):
        return {"32": 32, "64": 64}.get(name[-2:], _INTEGER_BITS.get(name[-1], 0)), False
    return 0, False
