"""Which vector instructions numba compiles for, found by compiling a function of one vector operation.

Feature flags alone would not tell: NUMBA_CPU_NAME implies features that no list names. Importing this module loads
numba.
"""

import re

from llvmlite import binding as llvm
from numba.core.registry import cpu_target

_PROBE = """
target triple = "{triple}"
define void @probe(ptr %x, ptr %y) {{
  %a = load <16 x i32>, ptr %x
  %b = mul <16 x i32> %a, %a
  store <16 x i32> %b, ptr %y
  ret void
}}
"""
_SIGNS = (  # widest first: what the machine code of the probe contains if the instructions are used
    ("avx512", r"%zmm"),
    ("avx2", r"%ymm"),  # integers in 256 bits; plain AVX has only floats there
    ("avx", r"vpmulld\s.*%xmm"),
    ("sse4", r"pmulld"),
    ("sse2", r"%xmm"),
    ("sve", r"\bz\d+\.s"),
    ("neon", r"\bv\d+\.4s"),
)


def numba_isa() -> str:
    """The widest vector instruction set that numba compiles for here: `avx512`, `avx2`, `avx`, `sse4`, `sse2`, `neon`.

    It is the processor's widest unless NUMBA_CPU_NAME, NUMBA_CPU_FEATURES or NUMBA_ENABLE_AVX limit it; `none` if the
    compiler uses no vector registers. In loops, the compiler may still prefer narrower vectors.
    """
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=2)
    text = machine.emit_assembly(llvm.parse_assembly(_PROBE.format(triple=triple)))
    return next((name for name, sign in _SIGNS if re.search(sign, text)), "none")
