"""Assign machine loops to source loops: one source loop becomes several (vectors, remainder, fall-back).

Pure. A source loop counts as vectorised if one of its machine loops is: the others compute the remainder.
"""

import ast
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailcut.kernels.machine_code import MachineLoop
from tailcut.kernels.tally import Tally, operations, tally

_LOOPS = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp)


@dataclass(frozen=True, slots=True)
class SourceLines:
    """A loop's lines in its file; a whole statement, or the lines that the machine code names."""

    first: int
    last: int
    innermost: bool = True
    parallel: bool = False  # over numba's prange

    def __contains__(self, line: int) -> bool:
        return self.first <= line <= self.last


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop of the source: its lines (None where unknown), and its best machine loop (None where none is left)."""

    lines: SourceLines | None
    tally: Tally | None
    machine_loops: int

    @property
    def vectorized(self) -> bool:
        """Whether its best machine loop uses vectors."""
        return self.tally is not None and self.tally.vectorized


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """A loop with its source text, the compiler's reasons, and advice."""

    loop: Loop
    source: str
    reasons: tuple[str, ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """One compiled form of a function: its name, the types it is compiled for (empty for a library), its loops."""

    function: str
    signature: str
    loops: tuple[LoopFacts, ...]

    @property
    def vectorized(self) -> bool:
        """Whether no loop is scalar; a loop that the compiler removed does not count."""
        return all(facts.loop.vectorized or facts.loop.tally is None for facts in self.loops)


def source_loops(source: str, first_line: int) -> list[SourceLines]:
    """The loops in a function's source, whose first line is `first_line` of its file. Dedented text is needed."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, _LOOPS)]
    loops = []
    for node in nodes:
        inner = any(isinstance(other, _LOOPS) for other in ast.walk(node) if other is not node)
        offset = first_line - 1
        last = (node.end_lineno or node.lineno) + offset
        loops.append(SourceLines(node.lineno + offset, last, not inner, _is_parallel(node)))
    return sorted(loops, key=lambda loop: (loop.first, -loop.last))


def _is_parallel(node: ast.AST) -> bool:
    call = node.iter if isinstance(node, ast.For) else None
    name = call.func if isinstance(call, ast.Call) else None
    return "prange" in {getattr(name, "id", ""), getattr(name, "attr", "")}


def match_loops(
    machine: Sequence[MachineLoop], statements: Sequence[SourceLines] = (), lines: range = range(0)
) -> list[Loop]:
    """Each innermost loop of the source with its machine loops, in the order of the lines.

    `lines` are the function's in its file, `statements` its loops. A machine loop of a line outside all statements
    (an array expression) counts for this line alone. Machine loops of no known line are one loop where they share
    lines, or else do the same work with vectors and without.
    """
    placed: dict[SourceLines, list[MachineLoop]] = {}
    others = []
    for loop in machine:
        statement = _statement(loop, statements, lines)
        if statement is None:
            others.append(loop)
        else:
            placed.setdefault(statement, []).append(loop)
    nests = {outer: [inner for inner in placed if inner != outer and inner.first in outer] for outer in placed}
    placed = {
        statement: [loop for loop in group if not _detour(loop, nests[statement])]
        for statement, group in placed.items()
    }
    loops = [_loop(statement, group) for statement, group in placed.items() if group]
    loops += [_loop(_span(group), group) for group in _by_likeness(others)]
    gone = [
        statement
        for statement in statements
        if statement.innermost and statement not in placed and not _unrolled(statement, placed)
    ]
    loops += [Loop(statement, None, 0) for statement in gone]
    return sorted(loops, key=lambda loop: loop.lines.first if loop.lines else 0)


def _detour(loop: MachineLoop, inner: Sequence[SourceLines]) -> bool:
    """A way through a nest for empty inner loops: their own machine loops stand elsewhere, and no work is done here."""
    if not inner:
        return False
    counts = tally(loop.body)
    return not (counts.packed or counts.scalar) or any(line in nested for line in loop.lines for nested in inner)


def _unrolled(lines: SourceLines, placed: Iterable[SourceLines]) -> bool:
    """Whether an inner loop is part of a machine loop that counts for the statement around it."""
    return any(lines.first in other for other in placed)


def _loop(lines: SourceLines | None, group: Sequence[MachineLoop]) -> Loop:
    tallies = [tally(loop.body) for loop in group]
    best = max(tallies, key=lambda counts: (counts.vectorized, counts.width_bits, counts.packed + counts.scalar))
    if best.copies and not (best.packed or best.scalar or best.calls):
        return Loop(lines, None, len(group))  # each turn of the loop around it is a call of memset or memcpy
    return Loop(lines, best, len(group))


def _statement(loop: MachineLoop, statements: Sequence[SourceLines], lines: range) -> SourceLines | None:
    """The smallest statement around the line that most of the loop's instructions come from, or this line itself."""
    own = Counter(line for line in loop.lines if line in lines)
    if not own:
        return None
    line = own.most_common(1)[0][0]
    around = [statement for statement in statements if line in statement]
    return min(around, key=lambda item: item.last - item.first) if around else SourceLines(line, line)


def _span(group: Sequence[MachineLoop]) -> SourceLines | None:
    lines = [line for loop in group for line in loop.lines]
    return SourceLines(min(lines), max(lines)) if lines else None


def _by_likeness(machine: Sequence[MachineLoop]) -> list[list[MachineLoop]]:
    groups: list[list[MachineLoop]] = []
    for loop in sorted(machine, key=lambda item: not tally(item.body).vectorized):  # those on vectors first
        own = next((group for group in groups if _alike(loop, group)), None)
        if own is None:
            groups.append([loop])
        else:
            own.append(loop)
    return groups


def _alike(loop: MachineLoop, group: Sequence[MachineLoop]) -> bool:
    lines = {line for item in group for line in item.lines}
    if lines or loop.lines:
        return not lines.isdisjoint(loop.lines)
    first = group[0]
    return tally(first.body).vectorized and operations(loop.body) <= operations(first.body)
