"""Converts models of other formats to ONNX, each by the library made for it, and compares outputs before and after.

Nothing is unpickled unless the user trusts the file, and nothing is downloaded. There is one module for each kind of
original, which loads it, has it converted, and computes outputs with it.
"""

from tailcut.converters.comparison import Comparison
from tailcut.converters.conversion import Conversion, convert

__all__ = ["Comparison", "Conversion", "convert"]
