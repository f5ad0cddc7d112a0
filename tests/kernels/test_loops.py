"""Machine loops find the loop of the source that they were made from."""

import textwrap

from tailcut.kernels.loops import SourceLines, match_loops, source_loops
from tailcut.kernels.machine_code import Instruction, MachineLoop

SOURCE = textwrap.dedent("""
    def f(a, b):
        for i in range(4):
            for j in range(9):
                a[i, j] = 0
        while b:
            b -= 1
""").lstrip()


def packed(*lines: int) -> MachineLoop:
    return MachineLoop(tuple(Instruction("vmulps", "%ymm0, %ymm1, %ymm1", line) for line in lines))


def scalar(*lines: int) -> MachineLoop:
    return MachineLoop(tuple(Instruction("vmulss", "%xmm0, %xmm1, %xmm1", line) for line in lines))


def test_statements_have_lines_of_their_file():
    """Loops are found with their first and last line, and an outer one is known for what it is."""
    assert source_loops(SOURCE, 101) == [
        SourceLines(102, 104, innermost=False),
        SourceLines(103, 104),
        SourceLines(105, 106),
    ]


def test_a_remainder_belongs_to_its_loop():
    """A scalar machine loop of the same statement does not make it scalar; one of another statement does."""
    statements = source_loops(SOURCE, 101)
    loops = match_loops([packed(104, 104, 102), scalar(104), scalar(106)], statements, range(101, 107))
    assert [(loop.lines.first, loop.vectorized, loop.machine_loops) for loop in loops] == [
        (103, True, 2),
        (105, False, 1),
    ]


def test_a_loop_that_is_gone_is_listed():
    """A statement without machine code is there without counts."""
    loops = match_loops([packed(104)], source_loops(SOURCE, 101), range(101, 107))
    assert [(loop.lines.first, loop.tally is None) for loop in loops] == [(103, False), (105, True)]


def test_a_loop_of_memset_is_gone():
    """Where each turn of a loop became a call of memset, no loop is left that could be vectorised."""
    fill = MachineLoop((Instruction("callq", "memset", 104), Instruction("addq", "$64, %rdi", 104)))
    call = MachineLoop((Instruction("callq", "*%rax", 106),))
    loops = match_loops([fill, call], source_loops(SOURCE, 101), range(101, 107))
    assert [loop.tally is None for loop in loops] == [True, False]


def test_a_way_around_empty_inner_loops_is_no_loop():
    """The path through a nest whose inner loop has no turns is not held against it."""
    around = MachineLoop((Instruction("incq", "%rax", 102), Instruction("cmpq", "%rax, %rbx", 102)))
    loops = match_loops([around, packed(104)], source_loops(SOURCE, 101), range(101, 107))
    assert [loop.lines.first for loop in loops] == [103, 105]


def test_an_unrolled_inner_loop_is_not_missed():
    """Where the machine loop is the outer statement's, the inner one is part of it."""
    loops = match_loops([packed(102), scalar(106)], source_loops(SOURCE, 101), range(101, 107))
    assert [loop.lines.first for loop in loops] == [102, 105]


def test_an_array_expression_counts_for_its_line():
    """Machine code of a line outside every loop is a loop of that line; other files' lines are unknown."""
    loops = match_loops([packed(107, 107, 3), scalar(3)], [], range(101, 108))
    assert [loop.lines for loop in loops] == [SourceLines(3, 3), SourceLines(107, 107)]


def test_without_lines_the_same_work_is_the_same_loop():
    """With no line at all, a scalar loop with the operations of a packed one is its remainder; any other is not."""
    division = MachineLoop((Instruction("vdivss", "%xmm0, %xmm1, %xmm1"),))
    loops = match_loops([scalar(0), packed(0), division])
    assert sorted((loop.vectorized, loop.machine_loops) for loop in loops) == [(False, 1), (True, 2)]


def test_with_lines_of_unknown_source_shared_lines_are_the_same_loop():
    """A library with debug information: loops that share a line are one, others are not."""
    loops = match_loops([packed(3, 4), scalar(4), scalar(9)])
    assert [(loop.lines, loop.vectorized) for loop in loops] == [(SourceLines(3, 4), True), (SourceLines(9, 9), False)]
