"""Other formats to ONNX: the library made for each converts, and its answers are compared before and after.

Nothing is unpickled unless the user says that the file is trusted, and nothing is fetched. One file for each kind of
original: it loads it, has it converted, and answers requests with it.
"""

from tailcut.converters.conversion import Conversion, convert

__all__ = ["Conversion", "convert"]
