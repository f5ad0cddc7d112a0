"""Other formats to ONNX: the library made for each converts, and the outputs are compared before and after.

Nothing is unpickled unless the user declares the file trusted, and nothing is downloaded. There is one file for each
kind of original: it loads it, has it converted, and computes outputs with it.
"""

from tailcut.converters.comparison import Comparison
from tailcut.converters.conversion import Conversion, convert

__all__ = ["Comparison", "Conversion", "convert"]
