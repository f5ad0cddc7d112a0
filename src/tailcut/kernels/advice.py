"""What to change so that a loop runs on vectors, or on wider ones: from the compiler's reasons and the code's facts.

Pure: a table and a few rules. Each line says what stands in the way and what to write.
"""

import re
from collections.abc import Sequence

from tailcut.kernels.tally import Tally

_BY_REASON = {  # LLVM's remark, and what it means for Python that numba compiles
    r"reorder floating-point operations": (
        "a sum of floats in a fixed order: allow any order with @njit(fastmath={'reassoc'}), or keep several sums"
    ),
    r"unsafe dependent memory|loop carried data dependence": (
        "a step reads what an earlier step wrote: compute along another axis, or in independent blocks"
    ),
    r"cannot identify array bounds|runtime pointer checks|cannot check memory dependencies": (
        "the arrays may overlap (aliasing) and no check at run time can tell: declare them contiguous (float32[::1]), "
        "or run the innermost loop along contiguous memory"
    ),
    r"could not determine number of loop iterations|early exit|uncountable": (
        "the number of iterations is not known beforehand: avoid break, return and raise inside; divide with "
        "@njit(error_model='numpy'), which raises nothing"
    ),
    r"control flow|substituted for a select|not understood": (
        "branches that cannot become selections: write both sides as one expression (np.where, min, max); divide with "
        "@njit(error_model='numpy')"
    ),
    r"could not be identified as (?:a )?reduction|used outside the loop": (
        "a value carried from iteration to iteration that is not a plain sum, product, minimum or maximum: "
        "split the loop in two, or for floats allow @njit(fastmath={'reassoc', 'nnan', 'nsz'})"
    ),
    r"vectorization is not beneficial": (
        "the compiler estimates that vectors are slower: elements are far apart, or conversions dominate; run the "
        "innermost loop along contiguous memory"
    ),
}
_WIDENS = (
    "float32 is converted to float64, which halves the lanes: a constant that float32 cannot hold exactly, or a "
    "float64 mixed in; write np.float32(0.1), and convert beforehand"
)
_WIDE_INTEGERS = (
    "computes in 64-bit integers: numba widens smaller ones, so cast each result back: np.int32(a[i] + b[i])"
)
_GATHERS = (
    "elements are gathered from scattered addresses: where an index is not needed, "
    "run along contiguous memory (float32[:, ::1])"
)
_CALLS = (
    "calls a function in each iteration: inline it (@njit(inline='always')) or write it as arithmetic; exp, log, sin "
    "and such have vector forms where Intel's SVML is installed (pip install intel-cmplr-lib-rt)"
)
_CARRIED = "the compiler gives no reason; look for a value that one iteration passes to the next"
_STRIDED = "an argument of layout A may have any strides: pass and declare a contiguous array (float32[::1])"


def advise(counts: Tally | None, reasons: Sequence[str], *, strided: bool = False) -> list[str]:
    """What would help a loop, most certain first; `strided` says that an argument has no known layout."""
    if counts is None:
        return []
    advice = [
        text
        for pattern, text in _BY_REASON.items()
        if any(re.search(pattern, reason, re.IGNORECASE) for reason in reasons)
    ]
    slow = not counts.vectorized
    if counts.widens:
        advice.append(_WIDENS)
    elif counts.vectorized and counts.computes == "int" and counts.element_bits == 64:
        advice.append(_WIDE_INTEGERS)
    if counts.gathers:
        advice.append(_GATHERS)
    if slow and (counts.calls or any("call instruction" in reason for reason in reasons)):
        advice.append(_CALLS)
    if strided and (slow or counts.gathers):
        advice.append(_STRIDED)
    if slow and not advice and not reasons:
        advice.append(_CARRIED)
    return advice
