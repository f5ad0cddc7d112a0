"""Machine code as text becomes instructions, and jumps become loops."""

from tailcut.kernels.machine_code import innermost_loops, parse_assembly, parse_disassembly

ASSEMBLY = """\
	.globl	first
first:
	.loc	1 1 0
	ret
	.cfi_endproc
	.globl	nested
nested:
	.cfi_startproc
	.loc	1 10 0
	xorl	%eax, %eax
.LBB0_1:
	.loc	1 11 5
	xorl	%ecx, %ecx
	jmp	.LBB0_3
.LBB0_2:
	.loc	2 99 1
	vaddps	(%rdi), %ymm0, %ymm0
	.loc	1 12 9
	addq	$8, %rcx
.LBB0_3:
	cmpq	%rcx, %rdx	# the test stands below its body
	jne	.LBB0_2
	.loc	1 11 5
	decq	%rax
	jne	.LBB0_1
	ret
	.cfi_endproc
other:
.LBB1_1:
	jmp	.LBB1_1
"""

DUMP = """
lib.so:     file format elf64-x86-64

0000000000001100 <scale>:
scale():
/src/scale.c:2
    1100:	xor    %eax,%eax
/src/scale.c:3 (discriminator 3)
    1102:	vmulps (%rdi,%rax,1),%ymm3,%ymm1
    1107:	add    $0x20,%rax
    110b:	bnd jne 1102 <scale+0x2>
    110d:	vbroadcastss 0xed3(%rip),%ymm2        # 2000 <_fini+0xda4>
    1116:	jmp    1000 <elsewhere>
"""


def test_a_function_of_an_assembly():
    """A symbol's instructions are those up to its end, with the lines of its own file; others are unknown."""
    code = parse_assembly(ASSEMBLY, "nested")
    assert [item.name for item in code] == [
        "xorl",
        "xorl",
        "jmp",
        "vaddps",
        "addq",
        "cmpq",
        "jne",
        "decq",
        "jne",
        "ret",
    ]
    assert [item.line for item in code] == [10, 11, 11, 0, 12, 12, 12, 11, 11, 11]
    assert [item.target for item in code if item.jumps] == [5, 3, 1]
    assert code[5].operands == "%rcx, %rdx"


def test_a_call_through_a_register_is_named():
    """Where a register holds one function's address, a call through it is that function's; else it stays unknown."""
    text = "f:\n\tmovabsq\t$memset, %rax\n\tcallq\t*%rax\n\tcallq\t*%rbx\n"
    assert [item.operands for item in parse_assembly(text, "f")] == ["$memset, %rax", "memset", "*%rbx"]


def test_an_unknown_symbol_has_no_instructions():
    """A symbol that is not there gives nothing, not another function's code."""
    assert parse_assembly(ASSEMBLY, "neste") == []


def test_only_the_inner_loop_counts():
    """Of nested loops the innermost is found by its jumps, also where the test stands last."""
    loops = innermost_loops(parse_assembly(ASSEMBLY, "nested"))
    assert [[item.name for item in loop.body] for loop in loops] == [["vaddps", "addq", "cmpq", "jne"]]
    assert loops[0].lines == (12, 12, 12)


def test_code_without_a_loop():
    """Straight code has no loop, nor has no code."""
    assert innermost_loops(parse_assembly(ASSEMBLY, "first")) == []
    assert innermost_loops([]) == []


def test_a_disassembly():
    """objdump's addresses become places, its comments go, and a jump out of the function leads nowhere in it."""
    code = parse_disassembly(DUMP)
    assert [(item.name, item.line, item.target) for item in code] == [
        ("xor", 2, None),
        ("vmulps", 3, None),
        ("add", 3, None),
        ("jne", 3, 1),
        ("vbroadcastss", 3, None),
        ("jmp", 3, None),
    ]
    assert [len(loop.body) for loop in innermost_loops(code)] == [3]
