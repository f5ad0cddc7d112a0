"""Whether a model's rows are independent, read from its graph alone: a rule for each operator, no engine.

Each tensor is followed as an abstract value: which axis the rows lie on, how they are grouped with other axes there,
and for small integer tensors the elements themselves as symbolic sizes.
"""

from tailcut.engines.rows.analysis import analyse_rows

__all__ = ["analyse_rows"]
