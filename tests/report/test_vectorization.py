"""What is shown of a function's loops says the verdict, the source, the counts, the reasons and the advice."""

from tailcut.kernels.loops import Analysis, Loop, LoopFacts, SourceLines
from tailcut.kernels.machine_code import Instruction
from tailcut.kernels.tally import tally
from tailcut.report.vectorization import vectorization_record, vectorization_text

FUSED = tally([Instruction("vfmadd213ps", "%ymm0, %ymm1, %ymm2"), Instruction("addq", "$8, %rax")])
SCALAR = tally([Instruction("vaddss", "%xmm0, %xmm1, %xmm2"), Instruction("callq", "*%rax")])


def analysis(*loops: LoopFacts) -> Analysis:
    return Analysis("mine:f", "float32", loops)


def test_a_vectorised_loop():
    """Width, lanes, element and fused multiply-adds of a loop are in the record and in the text, with its source."""
    facts = LoopFacts(Loop(SourceLines(3, 4), FUSED, 2), "for i in x:\n    y += i", (), ())
    record = vectorization_record("mine:f", "avx2", [analysis(facts)])
    (loop,) = record.signatures[0].loops
    assert record.vectorized
    assert (loop.width_bits, loop.lanes, loop.element, loop.fma) == (256, 8, "float32", 1)
    text = vectorization_text(record)
    assert "compiled by numba for avx2" in text
    assert "lines 3-4: vectorised, 256 bits, 8 lanes of float32" in text
    assert "| for i in x:" in text
    assert "1 fused multiply-adds" in text


def test_a_scalar_loop_and_one_that_is_gone():
    """One scalar loop makes the whole a no, with reason and advice; a loop that is gone does not."""
    scalar = LoopFacts(Loop(None, SCALAR, 1), "", ("because",), ("do this",))
    gone = LoopFacts(Loop(SourceLines(7, 7), None, 0), "a[:] = 0", (), ())
    record = vectorization_record("lib.so:f", None, [analysis(scalar, gone)])
    assert not record.vectorized
    text = vectorization_text(record)
    assert "numba" not in text
    assert "a loop of unknown line: NOT VECTORISED" in text
    assert "the compiler: because" in text
    assert "advice: do this" in text
    assert "1 calls" in text
    assert "line 7: no loop left" in text
    assert vectorization_record("lib.so:f", None, [analysis(gone)]).vectorized


def test_a_function_without_loops():
    """The report says that there is nothing to vectorise, which is no failure."""
    record = vectorization_record("mine:f", "avx2", [analysis()])
    assert record.vectorized
    assert "no loop in the machine code" in vectorization_text(record)
