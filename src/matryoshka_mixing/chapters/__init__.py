"""The chapters of the report: one module each, for the experiments and figures that it alone needs.

A module is named after its notebook and declares the notebook's parameters in a class `Parameters`. It imports the core
and `figures`; nothing imports it but its notebook and its test.
"""
