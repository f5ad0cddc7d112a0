"""Checks values of requests that OpenVINO does not check: indices, lengths and sizes that come from inputs.

OpenVINO 2026.4.1 on the CPU raises no error for an index that is out of bounds. It returns zeros, rows of other
requests, memory of the process or the previous answer, or crashes. So a model's graph is analysed when it is loaded:
what its operators require of the inputs' values is checked on the host before each call, and a model whose
requirements cannot be checked is refused (decision 023).
"""

from tailcut.engines.openvino_values.check import ValueCheck

__all__ = ["ValueCheck"]
