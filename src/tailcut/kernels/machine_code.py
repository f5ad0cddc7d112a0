"""Parse x86-64 machine code from text: an assembler's input (as numba prints it) and the output of objdump.

Pure: text in, values out. Both are in AT&T syntax, the destination last. Only x86-64 is read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

_GAS_LINE = re.compile(r"\s+\.loc\s+(\d+)\s+(\d+)")
_GAS_LABEL = re.compile(r'"?([\w.$@]+)"?:')
_DUMP_LINE = re.compile(r"\S.*:(\d+)(?: \(discriminator \d+\))?\Z")
_DUMP_CODE = re.compile(r"\s+([0-9a-f]+):\s+(.+)")
_PREFIXES = ("lock", "rep", "repz", "repnz", "notrack", "data16", "cs", "{evex}", "{vex}", "bnd")
_ADDRESS = re.compile(r"\$([A-Za-z_]\w*), (%r\w+)")
_TARGET = re.compile(r"([0-9a-f]+)(?: <.*>)?\Z")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name, its operands as written, its source line (0 where unknown), and where it may jump."""

    name: str
    operands: str
    line: int = 0
    target: int | None = None  # index in the function's list, for a jump inside the function

    @property
    def jumps(self) -> bool:
        """Whether it is a jump, conditional or not."""
        return self.name.startswith("j")

    @property
    def ends(self) -> bool:
        """Whether control never passes from it to the next instruction."""
        return self.name.startswith(("jmp", "ret", "ud2", "hlt"))


def parse_assembly(text: str, symbol: str) -> list[Instruction]:
    """The instructions of `symbol` in an assembler's text, with the lines that `.loc` gives for its first file.

    An unknown symbol gives an empty list. Lines of other files (inlined library code) count as unknown.
    """
    lines = iter(text.splitlines())
    if not any(line.strip('":') == symbol for line in lines):
        return []
    parsed: list[tuple[str, str, int]] = []
    labels: dict[str, int] = {}
    own_file, source_line = None, 0
    for line in lines:
        if line.lstrip().startswith((".cfi_endproc", ".size")):
            break
        if match := _GAS_LINE.match(line):
            own_file = own_file or match[1]
            source_line = int(match[2]) if match[1] == own_file else 0
        elif label := _GAS_LABEL.match(line):
            labels[label[1]] = len(parsed)
        elif (code := line.split("#")[0].strip()) and not code.startswith("."):
            parsed.append((*_split(code), source_line))
    addresses = _addresses(parsed)
    return [
        Instruction(
            name,
            addresses.get(operands, operands) if name.startswith("call") else operands,
            line,
            labels.get(operands.strip('"')) if name.startswith("j") else None,
        )
        for name, operands, line in parsed
    ]


def _addresses(parsed: list[tuple[str, str, int]]) -> dict[str, str]:
    """The functions called through registers, by operand, where a register only ever gets one function's address."""
    names_by_operand: dict[str, set[str]] = {}
    for name, operands, _ in parsed:
        if name == "movabsq" and (match := _ADDRESS.match(operands)):
            names_by_operand.setdefault(f"*{match[2]}", set()).add(match[1])
    return {operand: names.pop() for operand, names in names_by_operand.items() if len(names) == 1}


def parse_disassembly(text: str) -> list[Instruction]:
    """The instructions in objdump's text of one function (`--disassemble=NAME --no-show-raw-insn`, `-l` for lines)."""
    parsed: list[tuple[str, str, int]] = []
    places: dict[int, int] = {}
    source_line = 0
    for line in text.splitlines():
        if code := _DUMP_CODE.match(line):
            places[int(code[1], 16)] = len(parsed)
            parsed.append((*_split(code[2].split("#")[0].strip()), source_line))
        elif match := _DUMP_LINE.match(line):
            source_line = int(match[1])
    return [Instruction(*code, _dump_target(code, places)) for code in parsed]


def _split(code: str) -> tuple[str, str]:
    parts = code.split(None, 1)
    while len(parts) > 1 and parts[0] in _PREFIXES:
        parts = parts[1].split(None, 1)
    return parts[0], parts[1] if len(parts) > 1 else ""


def _dump_target(code: tuple[str, str, int], places: dict[int, int]) -> int | None:
    match = _TARGET.match(code[1]) if code[0].startswith("j") else None
    return places.get(int(match[1], 16)) if match else None


@dataclass(frozen=True, slots=True)
class MachineLoop:
    """An innermost loop: its instructions in the order of the code."""

    body: tuple[Instruction, ...]

    @property
    def lines(self) -> tuple[int, ...]:
        """The source line of each instruction, where it is known."""
        return tuple(code.line for code in self.body if code.line)


def innermost_loops(code: list[Instruction]) -> list[MachineLoop]:
    """The loops that contain no other loop, in the order of the code, found in the control-flow graph."""
    blocks = _blocks(code)
    bodies: dict[int, set[int]] = {}
    for latch, header in _back_edges(blocks):
        bodies[header] = bodies.get(header, set()) | _natural_loop(blocks, latch, header)
    inner = [body for header, body in bodies.items() if not any(other in body for other in bodies if other != header)]
    loops = sorted(sorted(body) for body in inner)
    return [
        MachineLoop(tuple(code[index] for start in body for index in range(start, blocks[start].stop)))
        for body in loops
    ]


@dataclass(frozen=True, slots=True)
class _Block:
    stop: int  # one past its last instruction
    following: tuple[int, ...]  # starts of the blocks that may come next


def _blocks(code: list[Instruction]) -> dict[int, _Block]:
    starts = {0} | {instruction.target for instruction in code if instruction.target is not None}
    starts |= {index + 1 for index, instruction in enumerate(code) if instruction.jumps or instruction.ends}
    ordered = sorted(start for start in starts if start < len(code))
    blocks = {}
    for start, stop in pairwise([*ordered, len(code)]):
        last = code[stop - 1]
        following = [] if last.ends or stop == len(code) else [stop]
        if last.target is not None:
            following.append(last.target)
        blocks[start] = _Block(stop, tuple(following))
    return blocks


def _back_edges(blocks: dict[int, _Block]) -> Iterator[tuple[int, int]]:
    """Edges to a block that is still on the path of a depth-first search: (latch, header)."""
    open_blocks, seen = set(), set()
    walk: list[tuple[int, Iterator[int]]] = []

    def enter(block: int) -> None:
        seen.add(block)
        open_blocks.add(block)
        walk.append((block, iter(blocks[block].following)))

    if blocks:
        enter(0)
    while walk:
        block, following = walk[-1]
        after = next(following, None)
        if after is None:
            walk.pop()
            open_blocks.remove(block)
        elif after in open_blocks:
            yield block, after
        elif after not in seen:
            enter(after)


def _natural_loop(blocks: dict[int, _Block], latch: int, header: int) -> set[int]:
    before: dict[int, list[int]] = {}
    for start, block in blocks.items():
        for after in block.following:
            before.setdefault(after, []).append(start)
    body, waiting = {header, latch}, [latch]
    while waiting:
        at = waiting.pop()
        new = [] if at == header else [start for start in before.get(at, ()) if start not in body]
        body.update(new)
        waiting += new
    return body
