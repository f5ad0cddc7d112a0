"""The output of `tailcut vectorization`: each loop with its source, its machine code, reasons and advice.

Pure functions from an analysis to a record for JSON, and from a record to text.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from tailcut.kernels.loops import Analysis, LoopFacts
from tailcut.kernels.tally import Tally
from tailcut.record import Record

_SOURCE_LINES = 8  # of a loop, at most
_INDENT = " " * 4


class LoopResult(Record, frozen=True, kw_only=True):
    """One loop; the keys after `machine_loops` describe its instructions and are left out for a removed loop."""

    lines: tuple[int, int] | None
    source: str
    state: Literal["removed", "vectorized", "scalar"]
    vectorized: bool
    machine_loops: int
    width_bits: int | UnsetType = UNSET
    lanes: int | UnsetType = UNSET
    element: str | UnsetType | None = UNSET
    packed: int | UnsetType = UNSET
    scalar: int | UnsetType = UNSET
    other: int | UnsetType = UNSET
    fma: int | UnsetType = UNSET
    gathers: int | UnsetType = UNSET
    scatters: int | UnsetType = UNSET
    calls: int | UnsetType = UNSET
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


class SignatureResult(Record, frozen=True):
    """A function as compiled for one signature."""

    function: str
    signature: str
    vectorized: bool
    loops: list[LoopResult]


class VectorizationResult(Record, frozen=True):
    """`tailcut vectorization --json`."""

    target: str
    isa: str | None  # that numba compiles for; null for a library
    vectorized: bool
    signatures: list[SignatureResult]


def vectorization_record(target: str, isa: str | None, analyses: Sequence[Analysis]) -> VectorizationResult:
    """The result; `isa` is the instruction set that numba compiles for, None for a library."""
    return VectorizationResult(
        target=target,
        isa=isa,
        vectorized=all(analysis.vectorized for analysis in analyses),
        signatures=[
            SignatureResult(
                function=analysis.function,
                signature=analysis.signature,
                vectorized=analysis.vectorized,
                loops=[_loop(facts) for facts in analysis.loops],
            )
            for analysis in analyses
        ],
    )


def _loop(facts: LoopFacts) -> LoopResult:
    loop, counts = facts.loop, facts.loop.tally
    result = LoopResult(
        lines=(loop.lines.first, loop.lines.last) if loop.lines else None,
        source=facts.source,
        state="removed" if counts is None else "vectorized" if loop.vectorized else "scalar",
        vectorized=loop.vectorized,
        machine_loops=loop.machine_loops,
        reasons=tuple(facts.reasons),
        advice=tuple(facts.advice),
    )
    if counts is None:
        return result
    return msgspec.structs.replace(
        result,
        width_bits=counts.width_bits if counts.vectorized else 0,
        lanes=counts.lanes,
        element=_element(counts) if counts.vectorized else None,
        packed=counts.packed,
        scalar=counts.scalar,
        other=counts.other,
        fma=counts.fma,
        gathers=counts.gathers,
        scatters=counts.scatters,
        calls=counts.calls,
    )


def _element(counts: Tally) -> str:
    """The element type, such as `float32`; `32-bit words` if data are only moved by instructions that imply no size."""
    return f"{counts.computes}{counts.element_bits}" if counts.computes else f"{counts.element_bits or 32}-bit words"


def vectorization_text(record: VectorizationResult) -> str:
    """The result as text."""
    lines = []
    for signature in record.signatures:
        lines.append(f"{signature.function}({signature.signature})" if signature.signature else signature.function)
        if record.isa:
            lines[-1] += f", compiled by numba for {record.isa}"
        if not signature.loops:
            lines.append(f"{_INDENT}no loop in the machine code: nothing to vectorise")
        for loop in signature.loops:
            lines += ["", *_loop_text(loop)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _loop_text(loop: LoopResult) -> list[str]:
    where = f"lines {loop.lines[0]}-{loop.lines[1]}" if loop.lines else "a loop of unknown line"
    if loop.lines and loop.lines[0] == loop.lines[1]:
        where = f"line {loop.lines[0]}"
    lines = [f"{_INDENT}{where}: {_verdict(loop)}"]
    source = loop.source.splitlines()
    lines += [f"{_INDENT}  | {line}" for line in source[:_SOURCE_LINES]]
    if len(source) > _SOURCE_LINES:
        lines.append(f"{_INDENT}  | ... {len(source) - _SOURCE_LINES} more lines")
    if loop.state != "removed":
        lines.append(f"{_INDENT}  instructions per iteration: {_counts(loop)}")
    lines += [f"{_INDENT}  the compiler: {reason}" for reason in loop.reasons]
    lines += [f"{_INDENT}  advice: {text}" for text in loop.advice]
    return lines


def _verdict(loop: LoopResult) -> str:
    if loop.state == "removed":
        return "no loop left: unrolled, eliminated, or replaced by a call of memset or memcpy"
    if loop.state == "scalar":
        return "NOT VECTORISED"
    return f"vectorised, {loop.width_bits} bits, {loop.lanes} lanes of {loop.element}"


def _counts(loop: LoopResult) -> str:
    parts = [f"{loop.packed} packed", f"{loop.scalar} scalar", f"{loop.other} for addressing and counting"]
    named = (("fma", "fused multiply-adds"), ("gathers", "gathers"), ("scatters", "scatters"), ("calls", "calls"))
    parts += [f"{getattr(loop, key)} {name}" for key, name in named if getattr(loop, key)]
    return ", ".join(parts)
