"""What `tailcut vectorization` shows: each loop with its source, what its machine code does, reasons and advice.

Pure: facts in, a record for JSON out, and a record in, text for a person out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tailcut.kernels.loops import Analysis, LoopFacts
from tailcut.kernels.tally import Tally

_SOURCE_LINES = 8  # of a loop that are shown
_INDENT = " " * 4


def vectorization_record(target: str, isa: str | None, analyses: Sequence[Analysis]) -> dict[str, Any]:
    """The JSON object of a result; `isa` is what numba compiles for, None for a library."""
    return {
        "target": target,
        "isa": isa,
        "vectorized": all(one.vectorized for one in analyses),
        "signatures": [
            {
                "function": one.function,
                "signature": one.signature,
                "vectorized": one.vectorized,
                "loops": [_loop(facts) for facts in one.loops],
            }
            for one in analyses
        ],
    }


def _loop(facts: LoopFacts) -> dict[str, Any]:
    loop, counts = facts.loop, facts.loop.tally
    record: dict[str, Any] = {
        "lines": [loop.lines.first, loop.lines.last] if loop.lines else None,
        "source": facts.source,
        "state": "removed" if counts is None else "vectorized" if loop.vectorized else "scalar",
        "vectorized": loop.vectorized,
        "machine_loops": loop.machine_loops,
    }
    if counts is not None:
        names = ("packed", "scalar", "other", "fma", "gathers", "scatters", "calls")
        record |= {
            "width_bits": counts.width_bits if counts.vectorized else 0,
            "lanes": counts.lanes,
            "element": _element(counts) if counts.vectorized else None,
            **{name: getattr(counts, name) for name in names},
        }
    return record | {"reasons": list(facts.reasons), "advice": list(facts.advice)}


def _element(counts: Tally) -> str:
    """`float32`, `int8`; what is only moved is counted in `32-bit words` where its instructions name no size."""
    return f"{counts.computes}{counts.element_bits}" if counts.computes else f"{counts.element_bits or 32}-bit words"


def vectorization_text(record: Mapping[str, Any]) -> str:
    """A result for a person."""
    lines = []
    for one in record["signatures"]:
        lines.append(f"{one['function']}({one['signature']})" if one["signature"] else one["function"])
        if record["isa"]:
            lines[-1] += f", compiled by numba for {record['isa']}"
        if not one["loops"]:
            lines.append(f"{_INDENT}no loop in the machine code: nothing to vectorise")
        for loop in one["loops"]:
            lines += ["", *_loop_text(loop)]
        lines.append("")
    return "\n".join(lines).rstrip()


def _loop_text(loop: Mapping[str, Any]) -> list[str]:
    where = f"lines {loop['lines'][0]}-{loop['lines'][1]}" if loop["lines"] else "a loop of unknown line"
    if loop["lines"] and loop["lines"][0] == loop["lines"][1]:
        where = f"line {loop['lines'][0]}"
    lines = [f"{_INDENT}{where}: {_verdict(loop)}"]
    source = loop["source"].splitlines()
    lines += [f"{_INDENT}  | {line}" for line in source[:_SOURCE_LINES]]
    if len(source) > _SOURCE_LINES:
        lines.append(f"{_INDENT}  | ... {len(source) - _SOURCE_LINES} lines more")
    if loop["state"] != "removed":
        lines.append(f"{_INDENT}  instructions a turn: {_counts(loop)}")
    lines += [f"{_INDENT}  the compiler: {reason}" for reason in loop["reasons"]]
    lines += [f"{_INDENT}  advice: {text}" for text in loop["advice"]]
    return lines


def _verdict(loop: Mapping[str, Any]) -> str:
    if loop["state"] == "removed":
        return "no loop left: unrolled, found needless, or turned into a call of memset or memcpy"
    if loop["state"] == "scalar":
        return "NOT VECTORISED"
    return f"vectorised, {loop['width_bits']} bits, {loop['lanes']} lanes of {loop['element']}"


def _counts(loop: Mapping[str, Any]) -> str:
    parts = [f"{loop['packed']} packed", f"{loop['scalar']} scalar", f"{loop['other']} for addresses and counting"]
    named = (("fma", "fused multiply-adds"), ("gathers", "gathers"), ("scatters", "scatters"), ("calls", "calls"))
    parts += [f"{loop[key]} {name}" for key, name in named if loop[key]]
    return ", ".join(parts)
