"""Whether the rows of an exported program are independent, read from its graph: one rule for each kind of operator."""
