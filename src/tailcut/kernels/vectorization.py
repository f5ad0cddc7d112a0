"""What the compiler made of a function: which loops run on vectors, how wide, and why the others do not.

Importing this module loads numba.
"""

from tailcut.kernels.isa import numba_isa

__all__ = ["numba_isa"]
