"""Values of a request that OpenVINO does not check: indices, lengths and sizes that come from its inputs.

OpenVINO 2026.4.1 on the CPU raises no error for an index that is out of a table's bounds. It returns zeros, rows of
other requests, memory of the process or the previous answer, or crashes. So a model's graph is analysed when it is
loaded: what its operators demand of the values of inputs is checked on the host before each call, and a model whose
demands cannot be checked is refused (decision 023).
"""

from tailcut.engines.openvino_values.check import ValueCheck

__all__ = ["ValueCheck"]
