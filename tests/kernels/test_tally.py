"""Instructions are counted as what they are: packed or scalar, this wide, with elements of that size."""

import pytest

from tailcut.kernels.machine_code import Instruction
from tailcut.kernels.tally import operations, tally


def code(*lines: str) -> list[Instruction]:
    return [Instruction(*(line.split(None, 1) if " " in line else (line, ""))) for line in lines]


@pytest.mark.parametrize(
    ("line", "width", "bits", "lanes"),
    [
        ("vmulps (%rdi), %zmm1, %zmm2", 512, 32, 16),
        ("vaddpd %ymm0, %ymm1, %ymm2", 256, 64, 4),
        ("mulps %xmm0, %xmm1", 128, 32, 4),
        ("vfmadd213ps (%rdi), %ymm1, %ymm2", 256, 32, 8),
        ("vaddph %zmm0, %zmm1, %zmm2", 512, 16, 32),
        ("vcvtdq2ps %ymm0, %ymm1", 256, 32, 8),
        ("vcvtps2pd %ymm0, %zmm1", 512, 64, 8),
        ("vcvtneps2bf16 %zmm0, %ymm1", 512, 32, 16),
        ("vpaddd %ymm0, %ymm1, %ymm2", 256, 32, 8),
        ("vpaddq %ymm0, %ymm1, %ymm2", 256, 64, 4),
        ("paddusb %xmm0, %xmm1", 128, 8, 16),
        ("vpmovzxbd (%rdi), %zmm0", 512, 32, 16),
        ("vpmovdb %zmm0, (%rdi)", 512, 32, 16),
        ("vcmpltps %ymm0, %ymm1, %k1", 256, 32, 8),
        ("vmovups %ymm0, (%rdi)", 256, 32, 8),
    ],
)
def test_packed(line: str, width: int, bits: int, lanes: int):
    """A packed instruction's lanes are its width by its elements."""
    counts = tally(code(line))
    assert (counts.packed, counts.scalar) == (1, 0)
    assert (counts.width_bits, counts.element_bits or 32, counts.lanes) == (width, bits, lanes)
    assert counts.vectorized


@pytest.mark.parametrize(
    "line",
    [
        "vmulss %xmm0, %xmm1, %xmm2",
        "addsd %xmm0, %xmm1",
        "vfmadd231sd %xmm0, %xmm1, %xmm2",
        "cvtsi2sd %rax, %xmm0",
        "vcvttss2si %xmm0, %eax",
        "vcvtss2sd %xmm0, %xmm0, %xmm1",
        "vucomiss %xmm0, %xmm1",
        "vmovss (%rdi), %xmm0",
        "vmovd %eax, %xmm0",
        "vpinsrb $1, (%rdi), %xmm0, %xmm0",
    ],
)
def test_scalar(line: str):
    """One element at a time is scalar, in whatever register it lies."""
    counts = tally(code(line))
    assert (counts.packed, counts.scalar, counts.lanes, counts.vectorized) == (0, 1, 1, False)


@pytest.mark.parametrize("line", ["movaps %xmm0, %xmm1", "vxorps %xmm0, %xmm0, %xmm0", "addq $8, %rax", "vzeroupper"])
def test_idle(line: str):
    """Copies between registers, clearing one, and addresses are neither packed nor scalar work."""
    counts = tally(code(line))
    assert (counts.packed, counts.scalar) == (0, 0)


def test_fused_gathers_calls_and_widening():
    """What helps or hurts is counted by name."""
    counts = tally(
        code(
            "vgatherqps (%rdi,%zmm1), %ymm2 {%k1}",
            "vfnmadd231ps %ymm1, %ymm2, %ymm3",
            "vscatterqps %ymm2, (%rdi,%zmm1) {%k1}",
            "vcvtps2pd %ymm0, %zmm1",
            "callq *%rax",
        )
    )
    assert (counts.fma, counts.gathers, counts.scatters, counts.widens, counts.calls, counts.other) == (
        1,
        1,
        1,
        1,
        1,
        1,
    )


def test_a_packed_mask_in_scalar_code_does_not_make_it_vectorised():
    """An absolute value is `andps` even of one float: vectors do the work only where they are most of it."""
    counts = tally(code("vmovss (%rdi), %xmm0", "vandps %xmm1, %xmm0, %xmm0", "vmovss %xmm0, (%rsi)"))
    assert (counts.packed, counts.scalar, counts.vectorized) == (1, 2, False)


def test_float_arithmetic_decides_the_lanes():
    """Index vectors and wider moves beside float arithmetic do not change what a step computes."""
    counts = tally(code("vpaddq %zmm0, %zmm1, %zmm1", "vmovups (%rdi), %zmm2", "vmulps %ymm2, %ymm3, %ymm3"))
    assert (counts.computes, counts.width_bits, counts.lanes) == ("float", 256, 8)


def test_operations_are_the_same_packed_and_scalar():
    """A loop on vectors and its remainder compute the same; another loop does not."""
    packed = code("vmovups (%rdi), %ymm0", "vmulps %ymm1, %ymm0, %ymm0", "vfmadd213ps %ymm2, %ymm1, %ymm0")
    scalar = code("vmovss (%rdi), %xmm0", "vmulss %xmm1, %xmm0, %xmm0", "vfmadd213ss %xmm2, %xmm1, %xmm0", "incq %rax")
    assert operations(packed) == operations(scalar) == {"mul", "fmadd"}
    assert operations(code("vdivss %xmm0, %xmm1, %xmm1")) == {"div"}
