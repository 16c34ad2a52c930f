"""The report of a quantisation plan."""
