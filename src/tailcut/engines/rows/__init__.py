"""Decides from a graph alone whether a model's rows are independent, with a rule for each operator and no engine.

Each tensor becomes an abstract value: the axis of its rows, how the rows are grouped with other axes there, and for
small integer tensors also the elements, as symbolic sizes.
"""

from tailcut.engines.rows.analysis import analyse_rows

__all__ = ["analyse_rows"]
